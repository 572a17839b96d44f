"""A full column vector from the values a user gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import cvxpy as cp
import numpy as np

from bilevel.backends import Purpose
from bilevel.errors import ProblemError
from bilevel.problem.functions import Array, Cone, Objective, Rows
from bilevel.problem.leaves import Leaf, as_array
from bilevel.problem.names import NamedVariable
from bilevel.problem.standard import LEADER, StandardForm
from bilevel.program import Termination
from bilevel.response.best_response import best_response, continuous_program, solve_continuous
from bilevel.response.response import optimistic_completion, respond


def complete_point(
    form: StandardForm, leaves: Mapping[int, Leaf], values: Mapping[int, Any]
) -> Array:
    """Return all columns at given values; what the user cannot know is computed.

    Parameters
    ----------
    form
        The problem.
    leaves
        Where each variable's columns are.
    values
        Values by variable id. Leader variables must be there; followers whose variables are
        missing get their best response (the leader's favourite where all followers are missing).

    Raises
    ------
    ProblemError
        If a leader variable is missing, or a value is misshapen or not finite.
    """
    w = np.zeros(form.n)
    known = np.zeros(form.n, bool)
    for i, leaf in leaves.items():
        if i in values:
            _check_value(leaf, values[i])
            leaf.write(values[i], w)
            known[leaf.columns] = True
    derived = {dual.column for dual in form.dual_variables} | {column for column, _ in form.values}
    for leaf in leaves.values():
        is_leader = form.columns.owner[leaf.first] == LEADER
        if is_leader and leaf.first not in derived and not known[leaf.first]:
            raise ProblemError(
                f"The point lacks a value for the leader's variable {leaf.variable.name()}."
            )
    w = _fill_followers(form, w, known)
    for column, k in form.values:
        if not known[column]:
            w[column] = form.followers[k].objective.sign * form.followers[k].objective.evaluate(w)
    for dual in form.dual_variables:
        if not known[dual.column]:
            one = best_response(form, dual.follower, w)
            if one.multipliers is not None:
                w[dual.column] = one.multipliers[dual.row]
    return _fill_auxiliary(form, w, LEADER, form.objective, form.rows, form.cones)


def _fill_followers(form: StandardForm, w: Array, known: Array) -> Array:
    missing = [not known[_named(form, k)].all() for k in range(len(form.followers))]
    if all(missing):
        best = optimistic_completion(form, w)
        response = None if best is not None else respond(form, w)
        if best is not None:
            leader = form.columns.owner == LEADER
            best[leader] = w[leader]
            return best
        if response is not None:
            return response.w
    for k, follower in enumerate(form.followers):
        if missing[k]:
            found = best_response(form, k, w)
            if found.y is None:
                raise ProblemError(
                    f"The point has no value for follower {follower.name!r}, which has no "
                    f"best response to this decision ({found.termination.value})."
                )
            w[follower.columns] = found.y
        else:
            w = _fill_auxiliary(form, w, k, follower.objective, follower.rows, follower.cones)
    return w


def _named(form: StandardForm, k: int) -> Array:
    own = form.followers[k].columns
    return own[~form.columns.auxiliary[own]]


def _fill_auxiliary(
    form: StandardForm,
    w: Array,
    owner: int,
    objective: Objective,
    rows: Rows,
    cones: tuple[Cone, ...] = (),
) -> Array:
    """Choose a level's epigraph columns as its compilation means them: as small as they may be."""
    free = np.flatnonzero(form.columns.auxiliary & (form.columns.owner == owner))
    if not len(free):
        return w
    mask = np.zeros(form.n, bool)
    mask[free] = True
    touched = rows.take(rows.touches(mask))
    program = continuous_program(
        objective.project(free, w),
        touched.project(free, w),
        form.columns.lower[free],
        form.columns.upper[free],
    )
    inside = [cone.project(free, w) for cone in cones if cone.A[:, free].nnz]
    program = replace(program, cones=tuple(inside))
    # A point that misses a bound by a tolerance leaves no room below it: then the bound gives way.
    count = len(free)
    least = Objective(program.objective.P * 0.0, np.ones(count))
    wide = replace(program, lower=np.full(count, -np.inf), upper=np.full(count, np.inf))
    for attempt in (program, replace(wide, objective=least)):
        raw, _ = solve_continuous(attempt, Purpose.POINT)
        if raw is not None and raw.v is not None and raw.termination is Termination.OPTIMAL:
            w = w.copy()
            w[free] = raw.v
            return w
    return w


def _check_value(leaf: Leaf, value: Any) -> None:
    name = leaf.variable.name()
    shape = leaf.variable.shape
    try:
        array = as_array(value)
    except (TypeError, ValueError) as error:
        raise ProblemError(f"The value of {name} is not numeric.") from error
    if array.shape != shape and not (array.size == 1 and leaf.variable.size == 1):
        raise ProblemError(
            f"The value of {name} has shape {array.shape}; the variable has shape {shape}."
        )
    if not np.isfinite(array).all():
        raise ProblemError(f"The value of {name} contains NaN or infinite entries.")


def values_of(point: Mapping[Any, Any], leaves: Mapping[int, Leaf]) -> dict[int, Any]:
    """Return values by variable id from values by variable or by name."""
    if not isinstance(point, Mapping):
        raise ProblemError(
            "A point is a Solution or a mapping from variables (or their names) to values."
        )
    by_name: dict[str, list[int]] = {}
    for i, leaf in leaves.items():
        by_name.setdefault(leaf.variable.name(), []).append(i)
    point, values = _whole_vectors(point, leaves, set(by_name))
    for key, value in point.items():
        if isinstance(key, str):
            found = by_name.get(key, [])
            if len(found) != 1:
                known = ", ".join(sorted(by_name))
                problem_is = "is not the name of" if not found else "names more than one of"
                raise ProblemError(f"{key!r} {problem_is} the problem's variables ({known}).")
            values[found[0]] = value
        elif getattr(key, "id", None) in leaves:
            values[key.id] = value
        else:
            is_variable = isinstance(key, cp.Variable)
            what = key.name() if is_variable else f"A key of type {type(key).__name__}"
            raise ProblemError(f"{what} is not a variable of this problem.")
    return values


def _whole_vectors(
    point: Mapping[Any, Any], leaves: Mapping[int, Leaf], vectors: set[str]
) -> tuple[dict[Any, Any], dict[int, Any]]:
    """Return what is left of a point, and vectors put together from entries that have names."""
    remaining = dict(point)
    values = {}
    for i, leaf in leaves.items():
        if not isinstance(leaf.variable, NamedVariable):
            continue
        entries = [name for name in leaf.variable.entries if name not in vectors]
        given = [name for name in entries if name in remaining]
        if not given:
            continue
        if len(given) < leaf.variable.size:
            lacking = next(name for name in leaf.variable.entries if name not in given)
            raise ProblemError(
                f"The point names {given[0]!r}, but lacks {lacking!r} of the same level; give all "
                f"{leaf.variable.size} entries of {leaf.variable.name()}."
            )
        values[i] = np.array([float(remaining.pop(name)) for name in given])
    return remaining, values
