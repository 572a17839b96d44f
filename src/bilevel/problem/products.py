"""Products of affine functions as polynomials, term by term."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from bilevel.errors import UnsupportedProblem
from bilevel.problem.functions import Array


class Products:
    """The products of a level: for each entry, two affine functions of columns and earlier ones.

    Parameters
    ----------
    who
        The level, for messages.
    sides
        For the left and the right factors: matrix over columns, constants, matrix over products.
    """

    def __init__(self, who: str, sides: list[tuple[sp.csr_array, Array, sp.csr_array]]) -> None:
        self._who = who
        self.linear = [columns for columns, _, _ in sides]
        self.offset = [offset for _, offset, _ in sides]
        self._nested = [inside for _, _, inside in sides]
        self.is_flat = not any(inside.nnz for inside in self._nested)
        self._memo: dict[int, list[tuple[Array, Array]]] = {}

    def polynomial(self, entry: int) -> list[tuple[Array, Array]]:
        """Return the terms of a product by degree: ``[(factors (t, d), value (t,)), ...]``."""
        if entry not in self._memo:
            left, right = (self._side(which, entry) for which in range(2))
            self._memo[entry] = _multiply(left, right, self._who)
        return self._memo[entry]

    def _side(self, which: int, entry: int) -> list[tuple[Array, Array]]:
        row = self.linear[which][[entry]]
        terms = [
            (np.empty((1, 0), int), self.offset[which][[entry]]),
            (row.indices[:, None], row.data),
        ]
        inner = self._nested[which][[entry]]
        for k, value in zip(inner.indices, inner.data, strict=True):
            terms = add(terms, [(f, value * v) for f, v in self.polynomial(int(k))])
        return terms


def add(
    first: list[tuple[Array, Array]], second: list[tuple[Array, Array]]
) -> list[tuple[Array, Array]]:
    """Return the terms of two polynomials together, by degree."""
    result = []
    for degree in range(max(len(first), len(second))):
        parts = [terms[degree] for terms in (first, second) if degree < len(terms)]
        result.append(
            (np.concatenate([f for f, _ in parts]), np.concatenate([v for _, v in parts]))
        )
    return result


def _multiply(
    left: list[tuple[Array, Array]], right: list[tuple[Array, Array]], who: str
) -> list[tuple[Array, Array]]:
    result = [(np.empty((0, d), int), np.empty(0)) for d in range(3)]
    for lf, lv in left:
        for rf, rv in right:
            if not len(lv) or not len(rv) or not lv.any() or not rv.any():
                continue
            degree = lf.shape[1] + rf.shape[1]
            if degree > 3:
                raise UnsupportedProblem(f"The problem of {who} multiplies four or more variables.")
            factors = np.hstack([np.repeat(lf, len(rv), axis=0), np.tile(rf, (len(lv), 1))])
            term: list[tuple[Array, Array]] = [
                (np.empty((0, d), int), np.empty(0)) for d in range(degree)
            ]
            term.append((factors, np.outer(lv, rv).ravel()))
            result = add(result, term)
    return result
