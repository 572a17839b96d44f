"""The contract of an adjoint of a convex program, and what it says of the derivatives it returns.

An adjoint says two things: which form its layer solver must take the program in, and which rule
differentiates what that solver finds. Problems of other kinds have contracts of their own, because
they have no matrices to prepare for: ``adjoints.bilevel.adjoint`` for both levels at once, and
``adjoints.smooth.adjoint`` for functions in torch.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from bilevel.adjoints.function import Rule
from bilevel.errors import ProblemError, UnsupportedDerivative
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
    ONE_SIDED = "a one-sided derivative: a constraint is weakly active, or a kink is met"
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
        The rows that are weakly active (at their side, with multiplier zero), shape ``(B, m)``.
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
    kind
        What every gradient is where there is an answer; ``None``: what the flags above say.
    """

    usable: Array
    weak: Array
    singular: Array
    margin: Array
    degenerate: str
    is_exact: bool
    kind: GradientKind | None = None

    @classmethod
    def of(cls, kind: GradientKind, usable: Array) -> Diagnosis:
        """Return a diagnosis that calls every gradient the same, with unknown margins.

        Parameters
        ----------
        kind
            What the gradient of every instance with an answer is.
        usable
            Where there is an answer, shape ``(B,)``.

        Examples
        --------
        >>> import numpy as np
        >>> from bilevel.adjoints import Diagnosis, GradientKind
        >>> found = Diagnosis.of(GradientKind.SURROGATE, np.array([True, False]))
        >>> [kind.name for kind in found.kinds]
        ['SURROGATE', 'NONE']
        """
        count = len(usable)
        nothing = np.zeros((count, 0), bool)
        margin = np.full(count, np.nan)
        return cls(usable, nothing, np.zeros(count, bool), margin, "lstsq", False, kind)

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
        """Return which rows of a program are weakly active, by instance."""
        if self.is_exact or self.weak.shape[-1] != program.m:
            return {}
        found = {}
        names = program.row_names
        for i in np.flatnonzero(self.weak.any(-1)).tolist():
            rows = [names[k] for k in np.flatnonzero(self.weak[i])]
            more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
            found[i] = f"weakly active: {', '.join(rows[:3])}{more}"
        return found

    def _kind(self, usable: bool, kinked: bool, singular: bool) -> GradientKind:
        if not usable:
            return GradientKind.NONE
        if self.kind is not None:
            return self.kind
        if singular:
            return GradientKind.SURROGATE
        if kinked:
            smooth = self.degenerate == "barrier"
            return GradientKind.SMOOTHED if smooth else GradientKind.ONE_SIDED
        return GradientKind.CLASSICAL


class Form(Enum):
    """The forms in which layer solvers take ``min y'H y + q'y`` subject to ``A y <= b`` or cones.

    In every form ``P = H + H'`` is the second derivative, and the first ``program.equalities`` rows
    are equations. The value of each member is a sentence to show a person.

    Examples
    --------
    >>> from bilevel.adjoints import Form
    >>> Form.CONIC.value
    'a program with cones, in dense matrices'
    """

    DENSE = "a quadratic program, in dense matrices"
    SPARSE = "a quadratic program, in the entries of sparse matrices"
    CONIC = "a program with cones, in dense matrices"


class Responses(Protocol):
    """What every layer solver returns; each adds what its own form knows besides."""

    @property
    def y(self) -> Array:
        """Answers, shape ``(B, n)``; NaN or zero, as the layer says, where there is none."""
        ...

    @property
    def z(self) -> Array:
        """Multipliers, shape ``(B, m)``, positive for rows that hold; NaN or zero as ``y``."""
        ...

    @property
    def usable(self) -> Array:
        """Where there is an answer, shape ``(B,)``, boolean."""
        ...


class Solve(Protocol):
    """What a rule is given to solve a batch of programs with.

    ``Form.DENSE``
        takes ``H`` and ``A`` of shapes ``(B, n, n)`` and ``(B, m, n)``, returns
        ``adjoints.convex.kkt.QuadraticResponses`` (besides: the active rows);
    ``Form.SPARSE``
        takes the entries of ``program.H`` and ``program.A``, shapes ``(B, entries)``, returns
        ``adjoints.convex.sparse.SparseResponses`` (besides: the active rows, the matrices);
    ``Form.CONIC``
        takes matrices as ``Form.DENSE`` does, returns ``adjoints.convex.cone.ConicResponses``
        (besides: ``v = z - s``).
    """

    def __call__(self, H: Array, q: Array, A: Array, b: Array, tolerance: float = ...) -> Any:
        """Return ``Responses``: every answer is judged, and polished or refused.

        Parameters
        ----------
        H, q, A, b
            A batch of programs, NumPy arrays in double precision.
        tolerance
            A slack or multiplier below it counts as zero, relative, on rows of unit norm.
        """
        ...


class ResponseRule(Rule, Protocol):
    """What a layer needs of a rule: a map ``(H, q, A, b) -> (y, z, ...)``, and two remarks on it.

    ``forward`` may return more than ``y`` and ``z``, for ``backward`` to use.

    """

    @property
    def diagnosis(self) -> Diagnosis | None:
        """What is known about each instance's derivative, once ``forward`` was called."""
        ...

    def probe(self) -> Tensor:
        """Return the relative residual of the system of gradients for ones, shape ``(B,)``.

        NaN where no linear system is solved.
        """
        ...


@dataclass(frozen=True)
class Prepared:
    """An adjoint made ready for one program.

    Parameters
    ----------
    form
        Which layer solver it goes with.
    make_rule
        Makes the rule of one call from what solves a batch.
    """

    form: Form
    make_rule: Callable[[Solve], ResponseRule]


class AbstractAdjoint(ABC):
    """How the answer of a convex program is differentiated with respect to the program's data.

    A ``FollowerLayer`` asks ``prepare`` once, when it is made, and ``make_rule`` once a call. An
    adjoint holds options alone: two layers, and two threads, may share it.
    """

    @abstractmethod
    def prepare(self, program: ParametricProgram, *, with_multipliers: bool) -> Prepared:
        """Return which layer solver a program is to be solved by, and what makes the rule.

        Parameters
        ----------
        program
            The program: ``n`` columns, ``m`` rows, ``equalities``, ``cones``, and the patterns of
            ``H`` and ``A``.
        with_multipliers
            Whether the layer returns multipliers, so that these must be unique for a derivative.

        Returns
        -------
        Prepared
            The form and the maker of rules.

        Raises
        ------
        UnsupportedProblem
            If answers of this program cannot be differentiated this way; the message names an
            adjoint that can.
        """


def demand_adjoint(adjoint: Any, method: str, layer: str, known: str) -> None:
    """Raise where something is no adjoint that a layer can use.

    Parameters
    ----------
    adjoint
        What was given.
    method
        The method that the layer calls.
    layer, known
        The layer, and the adjoints that it may be given, as messages call them.

    Raises
    ------
    ProblemError
        If it is a class in place of an object, or lacks the method.
    """
    if inspect.isclass(adjoint):
        raise ProblemError(
            f"{layer} needs an object as adjoint, not a class: write {adjoint.__name__}()."
        )
    if not callable(getattr(adjoint, method, None)):
        raise ProblemError(
            f"{layer} cannot use {type(adjoint).__name__} as its adjoint: it has no method "
            f"{method}(...). Use {known}, or derive a class of your own as the architecture page "
            f"describes under 'An adjoint'."
        )
