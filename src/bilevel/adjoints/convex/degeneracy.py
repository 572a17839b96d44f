"""Degeneracy that is none: auxiliary columns that may move, and dependent rows nobody asks for.

CVXPY writes a norm as a column above it. Where the norm is not at its limit, that column may take
many values, and rows that meet it may be weakly active; the user's variables do not notice.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import null_space
from scipy.optimize import linprog

from bilevel.problem.functions import Array

_RANK = 1e-10
_MOVES = 1e-7
_DESCENT = 1e-6


def is_slack(
    H: Array, A: Array, active: Array, weak: Array, named: Array, with_multipliers: bool
) -> bool:
    """Return whether an instance's variables have a derivative although it looks degenerate.

    Parameters
    ----------
    H, A
        The matrices of a quadratic program, ``P = H + H'``.
    active, weak
        Its rows with a positive multiplier (and equations), and those that are weakly active,
        shape ``(m,)``.
    named
        Which columns are the user's, shape ``(n,)``.
    with_multipliers
        Whether multipliers are asked for, so that they must be unique as well.
    """
    J = A[active]
    if with_multipliers and np.linalg.matrix_rank(J, tol=_RANK * _size(J)) < len(J):
        return False
    free = null_space(np.vstack([H + H.T, J]), rcond=_RANK)
    return is_free(free, named) and can_relax(A[weak] @ free)


def is_free(directions: Array, named: Array) -> bool:
    """Return whether directions leave the user's columns where they are."""
    return bool(abs(directions[: len(named)][named]).max(initial=0.0) <= _MOVES)


def can_relax(rows: Array) -> bool:
    """Return whether one combination of directions makes every row's value fall.

    Parameters
    ----------
    rows
        How much each direction changes each row, shape ``(rows, directions)``.
    """
    if not len(rows):
        return True
    count = rows.shape[1]
    rows = rows / np.maximum(abs(rows).max(axis=1, initial=0.0), 1e-300)[:, None]
    if not count:
        return False
    # Maximize s with rows @ c + s <= 0 in a box.
    cost = np.append(np.zeros(count), -1.0)
    matrix = np.column_stack([rows, np.ones(len(rows))])
    found = linprog(cost, matrix, np.zeros(len(rows)), bounds=[(-1, 1)] * (count + 1))
    return bool(found.status == 0 and -found.fun > _DESCENT)


def margin_without(
    q: Array, A: Array, b: Array, y: Array, z: Array, skip: Array, equalities: int
) -> float:
    """Return the margin of one instance over the inequalities that are not skipped."""
    norm = np.maximum(np.linalg.norm(A, axis=-1), 1e-300)
    near = abs(b - A @ y) / (norm * (1 + abs(y).max(initial=0.0)))
    force = z * norm / (1 + abs(q).max(initial=0.0))
    counts = ~skip
    counts[:equalities] = False
    return float(np.maximum(near, force)[counts].min(initial=np.inf))


def _size(matrix: Array) -> float:
    return max(1.0, float(abs(matrix).max(initial=0.0)))
