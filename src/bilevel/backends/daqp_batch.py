"""DAQP over a batch of quadratic programs in distance form."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import daqp
import numpy as np

from bilevel.backends.farkas import HUGE
from bilevel.errors import BackendError
from bilevel.problem.functions import Array

_EQUATION = 5
_ACTIVE = 1
#: Fewer entries of ``W`` in an instance, or in a batch, are solved sooner than threads can help:
#: Python's lock changes hands once an instance, and OpenMP's threads wait busily for some time.
_LARGE = 1_000
_LONG = 400_000


def solve_distances(
    W: Array, v: Array, b: Array, equalities: int, active: Array | None = None, threads: int = 1
) -> tuple[Array, Array, Array]:
    """Solve ``min u'u / 2 + v'u`` subject to ``W u <= b`` for each instance of a batch.

    A strictly convex program ``(P, q, A, b)`` has this form for ``u = L'y``, ``v = L^-1 q`` and
    ``W = A L^-T`` with ``P = L L'``; DAQP then spends no time on factorizing.

    Parameters
    ----------
    W, v, b
        Shapes ``(B, m, n)``, ``(B, n)`` and ``(B, m)``.
    equalities
        How many rows, the first ones, are equations.
    active
        Rows to begin with, shape ``(B, m)``, boolean.
    threads
        How many threads large instances may be spread over; each is solved alone, so the numbers
        do not depend on it.

    Returns
    -------
    tuple
        ``u`` of shape ``(B, n)``, multipliers ``(B, m)``, and whether DAQP calls it optimal
        ``(B,)``; zeros where it does not.

    Raises
    ------
    BackendError
        If DAQP raises.
    """
    count, m, n = W.shape
    u = np.zeros((count, n))
    z = np.zeros((count, m))
    solved = np.zeros(count, bool)
    if not m:
        return -v, z, np.ones(count, bool)
    lower = np.full((count, m), -HUGE)
    lower[:, :equalities] = b[:, :equalities]
    sense = np.zeros((count, m), np.int32)
    if active is not None:
        sense[active] = _ACTIVE
    sense[:, :equalities] = _EQUATION
    unit = np.eye(n)
    solve = daqp.solve

    def run(instances: range) -> None:
        for i in instances:
            point, _, code, info = solve(
                unit, v[i], W[i], b[i], lower[i], sense[i], primal_tol=1e-10, dual_tol=1e-12
            )
            if code == 1:
                u[i] = point
                z[i] = info["lam"]
                solved[i] = True

    threads = min(threads, count) if m * n >= _LARGE and W.size >= _LONG else 1
    try:
        if threads == 1:
            run(range(count))
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(run, (range(k, count, threads) for k in range(threads))))
    except Exception as error:
        raise BackendError(f"DAQP failed: {error}") from error
    return u, z, solved
