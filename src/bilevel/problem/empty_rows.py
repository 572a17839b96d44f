"""Rows in which no variable is left, because their coefficients cancel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bilevel.errors import ProblemError
from bilevel.problem.affine import Affine, AffineMatrix
from bilevel.problem.functions import Array
from bilevel.problem.parametric import ParametricProgram

# A sum of coefficients below it is rounding.
_NOTHING = 1e-12


def drop_empty_rows(program: ParametricProgram) -> ParametricProgram:
    """Return the program without rows that always hold, such as ``0 == 0``.

    CVXPY demands of every eigenvalue's matrix that it be symmetric, entry by entry; kept, such a
    row would make the system of the derivative singular. Entries of a symmetric parameter cancel.

    Raises
    ------
    ProblemError
        If a row without variables may be violated.
    """
    linear = np.arange(program.m) < program.equalities + program.inequalities
    entries = program.A.entries
    used = np.zeros(program.m, bool)
    used[program.A.row[entries.constant != 0]] = True
    used[program.A.row[entries.terms.place[entries.terms.value != 0]]] = True
    empty = linear & ~used
    b = program.b
    doubtful = b.constant < 0
    doubtful[: program.equalities] |= b.constant[: program.equalities] > 0
    doubtful[_places_that_vary(b, _alike(program.inputs))] = True
    if (empty & doubtful).any():
        number = int(program.row_constraint[int(np.argmax(empty & doubtful))])
        raise ProblemError(
            f"Constraint {number} (counted from 0) of {program.who} contains no variable that is "
            f"decided here; check it before calling the layer."
        )
    if not empty.any():
        return program
    keep = ~empty
    number = np.cumsum(keep) - 1
    A = program.A
    shift = int(empty.sum())
    terms = b.terms.take(keep[b.terms.place])
    stays = keep[A.row]
    entry = np.cumsum(stays) - 1
    old = A.entries.terms
    kept = old.take(stays[old.place])
    return replace(
        program,
        A=AffineMatrix(
            (int(keep.sum()), program.n),
            number[A.row[stays]],
            A.column[stays],
            Affine(A.entries.constant[stays], kept.move(entry[kept.place])),
        ),
        b=Affine(b.constant[keep], terms.move(number[terms.place])),
        equalities=int(keep[: program.equalities].sum()),
        inequalities=int((keep & linear)[program.equalities :].sum()),
        cones=tuple(replace(c, start=c.start - shift, stop=c.stop - shift) for c in program.cones),
        row_constraint=program.row_constraint[keep],
        row_entry=program.row_entry[keep],
    )


def _alike(inputs: Sequence[Any]) -> Array:
    """Return for each input's entry the first one that has the same value by symmetry."""
    parts = [np.empty(0, int)]
    first = 0
    for leaf in inputs:
        index = first + np.arange(leaf.size).reshape(leaf.shape)
        if any(leaf.attributes.get(name) for name in ("symmetric", "PSD", "NSD")):
            index = np.minimum(index, index.T)
        parts.append(index.ravel())
        first += leaf.size
    return np.concatenate(parts)


def _places_that_vary(b: Affine, alike: Array) -> Array:
    """Return the entries whose terms do not cancel."""
    terms = b.terms
    keys = np.stack([terms.place, alike[terms.source]], -1)
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    total = np.bincount(inverse.ravel(), terms.value, minlength=len(unique))
    return unique[abs(total) > _NOTHING, 0]
