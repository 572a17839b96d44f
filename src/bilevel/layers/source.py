"""Which problem a follower layer holds, and which inputs it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cvxpy as cp

from bilevel.errors import ProblemError
from bilevel.problem.follower import Follower


class Source:
    """A single level's problem, from a follower or from CVXPY."""

    def __init__(
        self,
        who: str,
        objective: Any,
        constraints: Sequence[Any],
        variables: Sequence[cp.Variable],
        multipliers: dict[int, int],
        value: Any | None,
    ) -> None:
        self.who = who
        self.objective = objective
        self.constraints = tuple(constraints)
        self.variables = tuple(variables)
        self.multipliers = multipliers
        self.value = value

    def leaves(self) -> dict[int, Any]:
        """Return everything that must be an input: parameters, and other levels' variables."""
        own = {variable.id for variable in self.variables}
        parts = (self.objective, *self.constraints)
        found = {p.id: p for part in parts for p in part.parameters()}
        others = {v.id: v for part in parts for v in part.variables() if v.id not in own}
        return found | others


def read_source(problem: Any) -> Source:
    """Return a follower or a CVXPY problem as the one level of a layer."""
    if isinstance(problem, Follower):
        numbers = {c.id: number for number, c in enumerate(problem.constraints)}
        multipliers = {dual.id: numbers[i] for i, dual in problem.duals.items()}
        return Source(
            f"follower {problem.name!r}",
            problem.objective,
            problem.constraints,
            problem.variables,
            multipliers,
            problem.value,
        )
    if isinstance(problem, cp.Problem):
        return Source(
            "the layer",
            problem.objective,
            problem.constraints,
            problem.variables(),
            {},
            None,
        )
    raise ProblemError(
        f"A FollowerLayer needs a bilevel.Follower or a cvxpy.Problem, not "
        f"{type(problem).__name__}. For a bilevel.Problem use BilevelLayer."
    )
