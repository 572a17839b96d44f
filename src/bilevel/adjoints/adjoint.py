"""What every adjoint says about the derivatives it returns."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from bilevel.errors import UnsupportedDerivative
from bilevel.problem.functions import Array
from bilevel.problem.parametric import ParametricProgram


class GradientKind(Enum):
    """What a gradient is; the value of each member is the sentence to show a person.

    Examples
    --------
    >>> from bilevel.adjoints import GradientKind
    >>> GradientKind("the derivative of the answer").name
    'CLASSICAL'
    """

    CLASSICAL = "the derivative of the answer"
    ONE_SIDED = "a one-sided derivative: a constraint is active without force, or a kink is met"
    SMOOTHED = "the derivative of a smoothed answer, because the answer itself has a kink here"
    SURROGATE = "a least-squares substitute: the answer or its multipliers are not unique"
    NONE = "no derivative, because there is no answer"

    @property
    def is_exact(self) -> bool:
        """Whether it is the derivative in the usual sense."""
        return self is GradientKind.CLASSICAL


@dataclass(frozen=True)
class Diagnosis:
    """What is known about the derivative of each instance of a batch.

    Parameters
    ----------
    usable
        Where there is an answer, shape ``(B,)``.
    weak
        The rows that are active without force, shape ``(B, m)``.
    singular
        Where the system that gives the derivative is singular, shape ``(B,)``.
    margin
        How far each instance is from a change of its active constraints, shape ``(B,)``: the
        smallest of ``max(slack, multiplier)``, both on rows of unit norm, relative to the size of
        the answer and of the objective's gradient. Infinite without inequalities.
    degenerate
        The adjoint's policy.
    is_exact
        Whether every gradient is a derivative in the usual sense.
    """

    usable: Array
    weak: Array
    singular: Array
    margin: Array
    degenerate: str
    is_exact: bool

    @property
    def kinds(self) -> tuple[GradientKind, ...]:
        """One kind per instance."""
        if self.is_exact:
            return (GradientKind.CLASSICAL,) * len(self.usable)
        flags = np.stack([self.usable, self.weak.any(-1), self.singular], -1)
        return tuple(self._kind(*row) for row in flags.tolist())

    def demand_exact(self) -> None:
        """Raise where an instance has no derivative in the usual sense."""
        kinds = self.kinds
        flagged = [i for i, k in enumerate(kinds) if not k.is_exact and k is not GradientKind.NONE]
        if flagged:
            reasons = "; ".join(f"instance {i}: {kinds[i].value}" for i in flagged[:5])
            raise UnsupportedDerivative(
                f"{len(flagged)} of {len(kinds)} instances have no derivative in the usual sense "
                f"({reasons}). Another value of the adjoint's degenerate= takes a substitute."
            )

    def notes(self, program: ParametricProgram) -> dict[int, str]:
        """Return which rows of a program are active without force, by instance."""
        if self.is_exact or self.weak.shape[-1] != program.m:
            return {}
        found = {}
        names = program.row_names
        for i in np.flatnonzero(self.weak.any(-1)).tolist():
            rows = [names[k] for k in np.flatnonzero(self.weak[i])]
            more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
            found[i] = f"active without force: {', '.join(rows[:3])}{more}"
        return found

    def _kind(self, usable: bool, kinked: bool, singular: bool) -> GradientKind:
        if not usable:
            return GradientKind.NONE
        if singular:
            return GradientKind.SURROGATE
        if kinked:
            smooth = self.degenerate == "barrier"
            return GradientKind.SMOOTHED if smooth else GradientKind.ONE_SIDED
        return GradientKind.CLASSICAL
