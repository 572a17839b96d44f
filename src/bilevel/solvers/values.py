"""From columns back to CVXPY: values by variable, their names, and storing them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bilevel.problem.follower import Follower
from bilevel.problem.functions import Array
from bilevel.problem.names import NamedVariable, row_name
from bilevel.problem.problem import Problem
from bilevel.problem.scaling import Scaling
from bilevel.problem.standard import StandardForm
from bilevel.response.best_response import best_response
from bilevel.response.point import complete_point
from bilevel.solution import Solution
from bilevel.solvers.solver import Outcome


def read(problem: Problem, form: StandardForm, outcome: Outcome) -> dict[int, Any]:
    """Return the values at an outcome's point by variable id, of multipliers asked for too."""
    w: Array = outcome.w if outcome.w is not None else np.zeros(form.n)
    values = {i: leaf.read(w) for i, leaf in problem.leaves.items()}
    for follower, source in zip(form.followers, problem.followers, strict=True):
        value = follower.objective.sign * follower.objective.evaluate(w)
        values.setdefault(source.value.id, np.asarray(value))
    for k, source in enumerate(problem.followers):
        asked = [dual for dual in source.duals.values() if dual.id not in values]
        if asked:
            values.update(_multipliers(form, k, w, source))
    return values


def late_multipliers(
    problem: Problem, parameters: Mapping[Any, Any], values: Mapping[int, Any]
) -> dict[int, Any]:
    """Return the multipliers that have been asked for by now, at a point found earlier.

    Parameters
    ----------
    problem
        The problem.
    parameters
        Its parameters' values in that solve.
    values
        The point, by variable id.
    """
    form = problem.compile(parameters)
    w = complete_point(form, problem.leaves, values)
    found: dict[int, Any] = {}
    for k, source in enumerate(problem.followers):
        if source.duals:
            found.update(_multipliers(form, k, w, source))
    return found


def _multipliers(form: StandardForm, k: int, w: Array, source: Follower) -> dict[int, Any]:
    """Return a follower's multipliers that the leader's problem does not contain."""
    scaling = Scaling.of(form)
    found = best_response(scaling.form, k, scaling.inside(w)).multipliers
    if found is None:
        return {}
    found = scaling.multipliers(k, found)
    place = {name: row for row, name in enumerate(form.followers[k].rows.names)}
    values = {}
    for number, constraint in enumerate(source.constraints):
        dual = source.duals.get(constraint.id)
        if dual is None:
            continue
        rows = [place.get(row_name(constraint, number, entry)) for entry in range(dual.size)]
        # A row without the follower's variables belongs to the leader and has no multiplier.
        vector = np.array([0.0 if row is None else found[row] for row in rows])
        values[dual.id] = np.reshape(vector, dual.shape, order="F")
    return values


def names_of(problem: Problem, values: Mapping[int, Any]) -> dict[str, int]:
    """Return a name per variable; of two with one name, a follower's is prefixed by its owner."""
    owner = {v.id: f.name for f in problem.followers for v in f.variables}
    names: dict[str, int] = {}
    for i, leaf in problem.leaves.items():
        name = leaf.variable.name()
        if name in names:
            name = f"{owner.get(i, 'leader')}.{name}"
        if i in values:
            names[name if name not in names else f"{name} ({i})"] = i
    return names


def entries_of(problem: Problem, values: Mapping[int, Any]) -> dict[str, tuple[int, int]]:
    """Return the places of entries that have names of their own, as those of a file."""
    named = [v.variable for v in problem.leaves.values() if isinstance(v.variable, NamedVariable)]
    return {
        name: (variable.id, place)
        for variable in named
        if variable.id in values
        for place, name in enumerate(variable.entries)
    }


def store(problem: Problem, solution: Solution) -> None:
    """Put a solution's values into the CVXPY variables."""
    for i, leaf in problem.leaves.items():
        leaf.variable.save_value(solution.values[i])
    for follower in problem.followers:
        follower.value.save_value(solution.values[follower.value.id])
        for dual in follower.duals.values():
            if dual.id in solution.values:
                dual.save_value(solution.values[dual.id])
