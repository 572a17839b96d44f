"""Which problem a follower layer holds, and which inputs it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cvxpy as cp

from bilevel.errors import ProblemError
from bilevel.problem.follower import Follower
from bilevel.problem.leaves import label


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
        self.who, self.objective, self.constraints = who, objective, tuple(constraints)
        self.variables, self.multipliers, self.value = tuple(variables), multipliers, value

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


def check_inputs(parameters: Sequence[Any], source: Source) -> tuple[Any, ...]:
    """Return a layer's inputs, after checking that they are what the problem needs."""
    if not isinstance(parameters, (list, tuple)):
        raise ProblemError("parameters must be a list of what tensors are given for, also of one.")
    listed, needed = tuple(parameters), source.leaves()
    for leaf in listed:
        if getattr(leaf, "id", None) not in needed:
            name = label(leaf) if hasattr(leaf, "name") else repr(leaf)
            raise ProblemError(
                f"{name} is listed in parameters, but does not occur in {source.who}."
            )
    for leaf in listed:
        for name in ("diag", "sparsity"):
            if leaf.attributes.get(name):
                raise ProblemError(
                    f"Parameter {label(leaf)} is declared {name}, so most entries of a tensor "
                    f"would be ignored: make a vector of the others the parameter "
                    f"(cp.diag(vector))."
                )
    if len({leaf.id for leaf in listed}) < len(listed):
        raise ProblemError("parameters lists the same one twice.")
    missing = [label(leaf) for i, leaf in needed.items() if i not in {one.id for one in listed}]
    if missing:
        raise ProblemError(
            f"{', '.join(missing)} of {source.who} must be listed in parameters: the layer needs a "
            f"tensor for everything that is not decided there."
        )
    return listed
