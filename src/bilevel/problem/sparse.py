"""Sparse matrices from and to their entries, at a small matrix's cost."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from bilevel.problem.monomials import Array


def widen(matrix: sp.csr_array, n: int) -> sp.csr_array:
    """Return ``matrix`` with zero columns appended up to width ``n``."""
    shape = (matrix.shape[0], n)
    return sp.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=shape)


def entries(matrix: sp.csr_array) -> tuple[Array, Array, Array]:
    """Return row, column and value of every entry, row by row."""
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    return row, matrix.indices, matrix.data


def from_entries(row: Array, column: Array, value: Array, shape: tuple[int, int]) -> sp.csr_array:
    """Return a matrix from entries of distinct places; SciPy's own way costs four times as much."""
    by_row = np.lexsort((column, row))
    start = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=shape[0]))])
    return sp.csr_array((value[by_row], column[by_row], start), shape=shape)
