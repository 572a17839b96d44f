"""Compiled loops over a batch: one pass over each instance's data, no temporary arrays.

Loops are written out, also where NumPy has a word for them: numba takes seconds to compile a slice
that is assigned or a reduction, which every new installation would wait for at its first call.

``P = H + H'``, ``U`` is upper triangular with ``U'U = P``, ``W = A U^-1``; the first rows of ``A``
are equations. Each instance is worked on alone, so its bits do not depend on the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

#: A pivot below this share of its row marks dependent rows, or a matrix that is not definite.
DEPENDENT = 1e-7


def _compiled(function: Any) -> Any:
    """Compile a function when it is first called; keep the code where a folder can be written."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(**options, cache=True)(function)
    except RuntimeError:  # numba finds no folder for its cache
        return njit(**options)(function)


@_compiled
def prepare(H: Any, q: Any, A: Any) -> tuple[Any, Any, Any, Any]:
    """Return ``U``, ``W``, ``v = U'^-1 q`` and where ``P`` is positive definite.

    Where it is not, ``U`` is the identity. For small matrices; LAPACK is faster for large ones.
    """
    count, m, n = A.shape
    U = np.zeros((count, n, n))
    W = A.copy()
    v = q.copy()
    regular = np.ones(count, np.bool_)
    for k in range(count):
        u = U[k]
        for i in range(n):
            for j in range(i, n):
                u[i, j] = H[k, i, j] + H[k, j, i]
        most = 0.0
        for i in range(n):
            for p in range(i):
                factor = u[p, i]
                for j in range(i, n):
                    u[i, j] -= factor * u[p, j]
            pivot = u[i, i]
            most = max(most, pivot)
            if not pivot > DEPENDENT * DEPENDENT * most:
                regular[k] = False
                break
            pivot = np.sqrt(pivot)
            for j in range(i, n):
                u[i, j] /= pivot
        if not regular[k]:
            for i in range(n):
                for j in range(n):
                    u[i, j] = 1.0 if i == j else 0.0
        for i in range(m):
            _divide_half(u, W[k, i])
        _divide_half(u, v[k])
    return U, W, v, regular


@_compiled
def finish(
    H: Any, q: Any, A: Any, b: Any, U: Any, u: Any, z: Any, equalities: int, tolerance: float
) -> Any:
    """Return ``y = U^-1 u``, what ``judge`` says, the largest residual, whether a row is weak."""
    y = u.copy()
    for k in range(len(y)):
        _divide_rest(U[k], y[k])
    judged = judge(H, q, A, b, y, z, equalities, tolerance)
    return y, judged, judged[0].max(), judged[2].any()


@_compiled
def judge(
    H: Any, q: Any, A: Any, b: Any, y: Any, z: Any, equalities: int, tolerance: float
) -> tuple[Any, Any, Any, Any]:
    """Return residuals, active rows, weakly active rows, and margins of a batch.

    A residual is the largest of the gradient of the Lagrangian relative to its parts, the violation
    of rows of unit norm, negative multipliers, and the smaller of slack and multiplier.
    """
    count, m, n = A.shape
    residual = np.zeros(count)
    margin = np.full(count, np.inf)
    active = np.zeros((count, m), np.bool_)
    weak = np.zeros((count, m), np.bool_)
    gradient = np.empty(n)
    for k in range(count):
        size_y = 1.0
        size_q = 1.0
        for i in range(n):
            gradient[i] = q[k, i]
        for i in range(n):
            total = 0.0
            for j in range(n):
                total += H[k, i, j] * y[k, j]
                gradient[j] += H[k, i, j] * y[k, i]
            gradient[i] += total
            size_y = max(size_y, 1.0 + abs(y[k, i]))
            size_q = max(size_q, 1.0 + abs(q[k, i]))
        worst = 0.0
        for i in range(m):
            value = -b[k, i]
            norm = 0.0
            force = z[k, i]
            for j in range(n):
                entry = A[k, i, j]
                value += entry * y[k, j]
                norm += entry * entry
                gradient[j] += entry * force
            norm = np.sqrt(norm)
            near = value / (max(norm, 1e-300) * size_y)
            strength = force * norm / size_q
            if i < equalities:
                active[k, i] = True
                worst = max(worst, abs(near))
            else:
                active[k, i] = strength > tolerance
                weak[k, i] = strength <= tolerance and abs(near) < tolerance
                margin[k] = min(margin[k], max(abs(near), strength))
                worst = max(worst, near, -strength, min(-near, strength))
        total = 0.0
        for i in range(n):
            worst = max(worst, abs(gradient[i]) / size_q)
            total += gradient[i]
        for i in range(m):
            total += b[k, i]
        # A comparison with NaN is never true, so NaN must be looked for.
        residual[k] = worst if np.isfinite(total) else np.inf
    return residual, active, weak, margin


@_compiled
def factor_rows(W: Any, active: Any, regular: Any) -> tuple[Any, Any, Any, bool]:
    """Return the Cholesky factors of ``W_J W_J'``, the rows ``J`` and how many they are.

    Only the lower triangles of the factors are meant. The number is -1 where rows are dependent or
    ``regular`` is false; the last result tells whether that is nowhere.
    """
    count, m, n = W.shape
    most = min(m, n)
    C = np.empty((count, most, most))
    index = np.zeros((count, most), np.int64)
    number = np.zeros(count, np.int64)
    rows = np.empty((most, n))
    everywhere = True
    for k in range(count):
        fine = regular[k]
        size = 0
        if not fine:
            number[k] = -1
            everywhere = False
            continue
        for i in range(m):
            if active[k, i]:
                if size == most:
                    fine = False
                    break
                index[k, size] = i
                for j in range(n):
                    rows[size, j] = W[k, i, j]
                size += 1
        number[k] = size
        product = np.dot(rows[:size], rows[:size].T)
        for i in range(size):
            for j in range(i):
                total = product[i, j]
                for p in range(j):
                    total -= C[k, i, p] * C[k, j, p]
                C[k, i, j] = total / C[k, j, j]
            total = product[i, i]
            for p in range(i):
                total -= C[k, i, p] * C[k, i, p]
            if not total > DEPENDENT * DEPENDENT * product[i, i]:
                fine = False
                break
            C[k, i, i] = np.sqrt(total)
        if not fine:
            number[k] = -1
            everywhere = False
    return C, index, number, everywhere


@_compiled
def _divide_half(U: Any, x: Any) -> None:
    """Solve ``U' x = x`` in place."""
    n = len(x)
    for j in range(n):
        x[j] /= U[j, j]
        factor = x[j]
        for i in range(j + 1, n):
            x[i] -= factor * U[j, i]


@_compiled
def _divide_rest(U: Any, x: Any) -> None:
    """Solve ``U x = x`` in place."""
    n = len(x)
    for i in range(n - 1, -1, -1):
        total = x[i]
        for j in range(i + 1, n):
            total -= U[i, j] * x[j]
        x[i] = total / U[i, i]


@_compiled
def _divide_lower(C: Any, x: Any) -> None:
    """Solve ``C C' x = x`` in place."""
    n = len(x)
    for i in range(n):
        total = x[i]
        for j in range(i):
            total -= C[i, j] * x[j]
        x[i] = total / C[i, i]
    for j in range(n - 1, -1, -1):
        x[j] /= C[j, j]
        factor = x[j]
        for i in range(j):
            x[i] -= factor * C[j, i]


@_compiled
def gradients(y: Any, z: Any, dy: Any, dz: Any) -> tuple[Any, Any, Any]:
    """Return the gradients of ``H``, ``q`` and ``A``; that of ``b`` is ``dz``."""
    (count, n), m = y.shape, z.shape[1]
    gH = np.empty((count, n, n))
    gq = -dy
    gA = np.empty((count, m, n))
    for k in range(count):
        for i in range(n):
            for j in range(n):
                gH[k, i, j] = -(dy[k, i] * y[k, j] + y[k, i] * dy[k, j])
        for i in range(m):
            for j in range(n):
                gA[k, i, j] = -(z[k, i] * dy[k, j] + dz[k, i] * y[k, j])
    return gH, gq, gA


@_compiled
def solve_saddles(
    H: Any, A: Any, U: Any, C: Any, index: Any, number: Any, gy: Any, gz: Any
) -> tuple[Any, Any]:
    """Return ``dy, dz`` of ``P dy + A_J'dz = gy``, ``A_J dy = gz``, refined once."""
    count, m, n = A.shape
    dy = np.zeros((count, n))
    dz = np.zeros((count, m))
    for k in range(count):
        size = number[k]
        if size < 0:
            continue
        top = gy[k].copy()
        side = np.empty(size)
        for r in range(size):
            side[r] = gz[k, index[k, r]]
        for turn in range(2):
            point = top.copy()
            _divide_half(U[k], point)
            _divide_rest(U[k], point)
            part = np.empty(size)
            for r in range(size):
                i = index[k, r]
                total = -side[r]
                for j in range(n):
                    total += A[k, i, j] * point[j]
                part[r] = total
            _divide_lower(C[k, :size, :size], part)
            point = top.copy()
            for r in range(size):
                i = index[k, r]
                factor = part[r]
                dz[k, i] += factor
                for j in range(n):
                    point[j] -= factor * A[k, i, j]
            _divide_half(U[k], point)
            _divide_rest(U[k], point)
            for j in range(n):
                dy[k, j] += point[j]
            if turn == 0:
                for i in range(n):
                    total = 0.0
                    for j in range(n):
                        total += H[k, i, j] * point[j]
                        top[j] -= H[k, i, j] * point[i]
                    top[i] -= total
                for r in range(size):
                    i = index[k, r]
                    factor = part[r]
                    total = 0.0
                    for j in range(n):
                        top[j] -= factor * A[k, i, j]
                        total += A[k, i, j] * point[j]
                    side[r] -= total
    return dy, dz
