"""Optimal pairs of the followers together with the leader's columns and rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bilevel.problem.functions import Array, Rows
from bilevel.problem.standard import LEADER, StandardForm
from bilevel.response.reaction_map.parameters import parameter_columns, response_columns
from bilevel.response.reaction_map.polyhedra import Polyhedron


@dataclass(frozen=True)
class Joint:
    """A polyhedron over parameters, responses, own columns, and the rest of the leader's.

    Parameters
    ----------
    polyhedron
        Its points are ``v``.
    select
        The columns of the problem are ``w = select v``, shape ``(n, N)``.
    """

    polyhedron: Polyhedron
    select: Array


def join(
    form: StandardForm,
    pairs: Polyhedron,
    rows: Rows,
    ties: tuple[tuple[int, int, float], ...] = (),
) -> Joint:
    """Add the leader's other columns, all bounds and linear rows to a set of pairs.

    Parameters
    ----------
    form
        The problem.
    pairs
        A polyhedron that begins with parameters and responses.
    rows
        Which of the leader's rows; without products.
    ties
        ``(column, place, factor)``: the leader's ``column`` is ``factor`` times entry ``place`` of
        a pair; with place ``-1`` it is zero.
    """
    theta = parameter_columns(form)
    own = response_columns(form)
    known = np.concatenate([theta, own])
    remaining = np.flatnonzero(form.columns.owner == LEADER)
    remaining = remaining[~np.isin(remaining, theta)]
    total = pairs.n + len(remaining)
    select = np.zeros((form.n, total))
    select[known, np.arange(len(known))] = 1.0
    select[remaining, pairs.n + np.arange(len(remaining))] = 1.0

    def widen(matrix: Array) -> Array:
        return np.hstack([matrix, np.zeros((len(matrix), len(remaining)))])

    A = rows.A @ select
    tied = np.zeros((len(ties), total))
    for i, (column, place, factor) in enumerate(ties):
        tied[i] = select[column]
        if place >= 0:
            tied[i, place] -= factor
    low = form.columns.lower
    high = form.columns.upper
    up = np.flatnonzero(np.isfinite(high))
    down = np.flatnonzero(np.isfinite(low))
    polyhedron = Polyhedron(
        np.vstack([widen(pairs.E), A[rows.equality], tied]),
        np.concatenate([pairs.e, rows.b[rows.equality], np.zeros(len(ties))]),
        np.vstack([widen(pairs.G), A[~rows.equality], select[up], -select[down]]),
        np.concatenate([pairs.g, rows.b[~rows.equality], high[up], -low[down]]),
    )
    return Joint(polyhedron, select)


def linear_rows(form: StandardForm, coupled: bool) -> Rows:
    """Return the leader's rows without products, with or without those that contain responses."""
    keep = np.ones(len(form.rows), bool) if coupled else ~form.coupled_rows
    keep = keep.copy()
    keep[form.rows.products.row] = False
    return form.rows.take(keep)
