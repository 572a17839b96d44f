"""A bilevel problem's functions in torch, and where its variables and multipliers stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cvxpy as cp
import numpy as np

from bilevel.adjoints.bilevel.conditions import Conditions, Tie, touched_rows
from bilevel.adjoints.bilevel.level import LevelFunctions
from bilevel.errors import ProblemError, UnsupportedProblem
from bilevel.layers.outputs import Output, primal
from bilevel.problem.cones import Kind
from bilevel.problem.follower import Follower
from bilevel.problem.leaves import label
from bilevel.problem.problem import Problem


class Model:
    """The conditions of a problem for given inputs.

    Parameters
    ----------
    problem
        The problem.
    parameters
        All its parameters, in the order of the inputs.
    """

    def __init__(self, problem: Problem, parameters: Sequence[cp.Parameter]) -> None:
        canonical = problem.canonical
        columns = problem.canonical.columns
        self.problem = problem
        self.n = len(columns)
        self._parameters = tuple(parameters)
        self.slots = tuple((label(p), tuple(p.shape), int(p.size)) for p in parameters)
        levels = [
            LevelFunctions(level, place, canonical.source(level, parameters), self.n)
            for level, place in canonical.levels()
        ]
        for follower, level in zip(problem.followers, levels[1:], strict=True):
            curved = [kind for kind in level.kinds if kind is not Kind.SECOND_ORDER]
            if curved:
                raise UnsupportedProblem(
                    f"Follower {follower.name!r} has {curved[0].value} cones. The derivative of a "
                    f"leader's answer needs second derivatives of the follower's, which are not "
                    f"known for these."
                )
        self._followers = levels[1:]
        touched = touched_rows(self._followers, columns)
        self._touched = [np.flatnonzero(mask) for mask in touched]
        self.m = sum(map(len, self._touched))
        self.conditions = Conditions(levels[0], levels[1:], columns, touched, self._ties())

    @property
    def has_cones(self) -> bool:
        """Whether a follower has cones."""
        return any(level.kinds for level in self.conditions.followers)

    def given(self, theta: np.ndarray) -> dict[cp.Parameter, np.ndarray]:
        """Return parameter values from a row of inputs, whose last entry is the number one."""
        parts = np.split(theta[:-1], np.cumsum([size for _, _, size in self.slots])[:-1])
        return {p: part.reshape(p.shape) for p, part in zip(self._parameters, parts, strict=True)}

    def output(self, variable: Any) -> Output:
        """Return where a requested variable, multiplier or value is found.

        Raises
        ------
        ProblemError
            If it is not in the problem.
        """
        key = getattr(variable, "id", None)
        if key in self.problem.leaves:
            return primal(self.problem.leaves[key])
        for k, follower in enumerate(self.problem.followers):
            if key == follower.value.id:
                return Output("value", np.array([k]), None, ())
            for number, constraint in enumerate(follower.constraints):
                ids = {dual.id for dual in constraint.dual_variables[:1]}
                if constraint.id in follower.duals:
                    ids.add(follower.duals[constraint.id].id)
                if key in ids:
                    rows = self._rows(k, follower, number, constraint.size)
                    return Output("z", rows, None, tuple(constraint.shape))
        name = label(variable) if hasattr(variable, "name") else repr(variable)
        raise ProblemError(
            f"{name} is no variable of the problem, no multiplier of a follower's constraint and "
            f"no follower's value."
        )

    def _rows(self, k: int, follower: Follower, number: int, size: int) -> np.ndarray:
        """Return where a constraint's multipliers stand among those of all followers."""
        level = self._followers[k]
        rows = self._touched[k]
        mine = np.flatnonzero(level.constraint[rows] == number)
        if len(mine) != size:
            raise ProblemError(
                f"Constraint {number} (counted from 0) of follower {follower.name!r} is a cone, or "
                f"does not contain the follower's variables in every row: it has no multiplier "
                f"that could be returned."
            )
        before = sum(map(len, self._touched[:k]))
        return before + mine[np.argsort(level.entry[rows][mine])]

    def _ties(self) -> tuple[Tie, ...]:
        """Return the leader's columns that stand for multipliers and values."""
        ties = []
        leaves = self.problem.leaves
        for k, follower in enumerate(self.problem.followers):
            before = sum(map(len, self._touched[:k]))
            if follower.value.id in leaves:
                ties.append(Tie(leaves[follower.value.id].first, k, None))
            for number, constraint in enumerate(follower.constraints):
                dual = follower.duals.get(constraint.id)
                if dual is not None and dual.id in leaves:
                    rows = self._rows(k, follower, number, constraint.size) - before
                    first = leaves[dual.id].first
                    ties += [Tie(first + i, k, int(row)) for i, row in enumerate(rows)]
        return tuple(ties)


def as_nash(problem: Problem) -> Problem:
    """Return the game in which the leader takes the followers' responses as given."""
    leader = Follower(problem.objective, problem.constraints, problem.variables, name="leader")
    return Problem(cp.Minimize(0), [], [leader, *problem.followers])
