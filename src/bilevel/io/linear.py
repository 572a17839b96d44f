"""A linear program whose columns and rows belong to a leader or to a follower, and its problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from bilevel.problem.follower import Follower
from bilevel.problem.functions import Array
from bilevel.problem.names import NamedVariable, name_rows
from bilevel.problem.problem import Problem

# A free row of this name holds the follower's objective where the companion cannot: with terms of
# leader variables. Other readers skip free rows. A constant stands in a comment, because HiGHS adds
# the right-hand side of any free row to the objective.
FOLLOWER_OBJECTIVE = "follower_objective"


@dataclass(frozen=True)
class LinearProgram:
    """A mixed-integer linear program with names.

    Parameters
    ----------
    columns, rows
        Names, in the order of first appearance; rows without the objective and other N rows.
    cost, constant, maximize
        The objective.
    A, row_lower, row_upper
        Rows ``row_lower <= A w <= row_upper``.
    lower, upper, integer
        Of the columns.
    free
        Coefficients and constant of each further N row, by name.
    """

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cost: Array
    constant: float
    maximize: bool
    A: sp.csr_array
    row_lower: Array
    row_upper: Array
    lower: Array
    upper: Array
    integer: Array
    free: Mapping[str, tuple[Array, float]]


@dataclass(frozen=True)
class Division:
    """What belongs to the follower of a linear program.

    Parameters
    ----------
    columns, rows
        Masks, shapes ``(n,)`` and ``(m,)``.
    cost, constant, maximize
        Its objective over all columns.
    """

    columns: Array
    rows: Array
    cost: Array
    constant: float
    maximize: bool


def to_problem(program: LinearProgram, division: Division) -> Problem:
    """Return the bilevel problem: one vector for each level, one constraint for each kind of row.

    The variables are called ``leader`` and ``follower``, their entries as the columns.
    """
    own = division.columns
    levels = [
        (index, _variable(program, index, name))
        for name, index in (("leader", np.flatnonzero(~own)), ("follower", np.flatnonzero(own)))
        if len(index)
    ]
    leader = _objective(program.cost, program.constant, program.maximize, levels)
    seen = [pair for pair in levels[:-1] if division.cost[pair[0]].any()] + levels[-1:]
    objective = _objective(division.cost, division.constant, division.maximize, seen)
    constraints = _constraints(program, division.rows, levels)
    follower = Follower(objective, constraints, [levels[-1][1]], name="follower")
    return Problem(leader, _constraints(program, ~division.rows, levels), [follower])


def _variable(program: LinearProgram, index: Array, name: str) -> NamedVariable:
    whole = program.integer[index]
    integer: Any = bool(whole.all()) or [(int(i),) for i in np.flatnonzero(whole)] or False
    return NamedVariable(
        [program.columns[j] for j in index],
        name,
        integer=integer,
        bounds=[program.lower[index], program.upper[index]],
    )


def _objective(cost: Array, constant: float, maximize: bool, levels: list[Any]) -> Any:
    value = sum((cost[index] @ variable for index, variable in levels), cp.Constant(constant))
    return cp.Maximize(value) if maximize else cp.Minimize(value)


def _constraints(program: LinearProgram, mask: Array, levels: list[Any]) -> list[Any]:
    """Return a constraint for the equations, one for the upper and one for the lower sides."""
    low = program.row_lower
    high = program.row_upper
    equal = low == high
    parts = (
        (mask & equal, high, lambda value, side: value == side, ""),
        (mask & ~equal & np.isfinite(high), high, lambda value, side: value <= side, ""),
        (mask & ~equal & np.isfinite(low), low, lambda value, side: value >= side, ".lower"),
    )
    found = []
    for chosen, side, relate, ending in parts:
        rows = np.flatnonzero(chosen)
        if not len(rows):
            continue
        A = sp.csc_array(program.A[rows])
        blocks = [(A[:, index], variable) for index, variable in levels]
        used = [(block, variable) for block, variable in blocks if block.nnz] or blocks[:1]
        value = sum(sp.csr_array(block) @ variable for block, variable in used)
        # The second side of a range needs another name.
        names = [program.rows[i] + (ending if np.isfinite(high[i]) else "") for i in rows]
        found.append(name_rows(relate(value, side[rows]), names))
    return found
