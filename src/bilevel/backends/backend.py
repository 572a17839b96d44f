"""The contract of a backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar

from bilevel.problem.functions import Array
from bilevel.program import Feature, Limits, Program, RawAnswer, Termination

#: What ends the search for an answer to a continuous program.
VERDICTS = frozenset(
    {
        Termination.OPTIMAL,
        Termination.INFEASIBLE,
        Termination.UNBOUNDED,
        Termination.INFEASIBLE_OR_UNBOUNDED,
    }
)


class AbstractBackend(ABC):
    """Hands a program to one vendor's solver.

    A backend has no state of its own: one object may serve several threads. One of your own is
    given to a solver as an object, ``SingleLevel(..., backend=MyBackend())``; those with a name
    have an entry in ``backends/registry.py``, which also says what for they are used.

    Attributes
    ----------
    name
        The vendor, as users write it and as statistics report it.
    features
        What the vendor can take.
    gives_multipliers
        Whether its answers to continuous convex programs come with the multipliers of all rows
        and all cones; layers, which differentiate by them, take no other backend.
    verdicts
        What the vendor says of a continuous program that needs no second opinion.
    """

    name: ClassVar[str]
    features: ClassVar[Feature]
    gives_multipliers: ClassVar[bool]
    verdicts: ClassVar[frozenset[Termination]] = VERDICTS

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def missing(self, program: Program) -> Feature:
        """Return what the program needs and this vendor lacks."""
        return program.features & ~self.features

    @abstractmethod
    def solve(self, program: Program, limits: Limits, start: Array | None = None) -> RawAnswer:
        """Solve a program whose features the vendor has.

        Parameters
        ----------
        program
            The program; minimisation.
        limits
            Time, gap, seed, vendor options and the progress callback.
        start
            A point to begin with, shape ``(n,)``; it need not be feasible.

        Returns
        -------
        RawAnswer
            A point only if the vendor calls it feasible; a bound only if it is proved.

        Raises
        ------
        BackendError
            If the vendor raises, or answers with a status this library does not know.
        """

    def sweep(
        self, program: Program, costs: Sequence[Array], limits: Limits
    ) -> Iterator[RawAnswer]:
        """Solve one linear program for several costs; a vendor that can, starts warm.

        Parameters
        ----------
        program
            The program; its linear objective is replaced.
        costs
            Linear objectives, each of shape ``(n,)``.
        limits
            As for ``solve``.
        """
        for cost in costs:
            objective = replace(program.objective, c=cost, constant=0.0)
            yield self.solve(replace(program, objective=objective), limits)
