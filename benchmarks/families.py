"""Sized families of random bilevel problems, feasible by construction.

A point ``(x0, y0)`` is drawn first and right-hand sides make it feasible. The follower's linear
cost makes its problem bounded whatever the leader decides.
"""

from __future__ import annotations

import numpy as np

from benchmarks.generators import Array, RandomProblem

#: Leader variables x follower variables; half as many follower rows as follower variables.
QP_SIZES = ((3, 2), (6, 4), (9, 6), (12, 8), (20, 15), (30, 20), (60, 40))
#: The same for the opposed family, which has twice as many follower rows as follower variables.
OPPOSED_SIZES = ((3, 3), (4, 4), (6, 6), (8, 8), (12, 12), (16, 16), (24, 24), (28, 28))
#: Leader variables, follower variables, follower inequalities, follower equations.
LPLP_SIZES = ((5, 8, 8, 0), (10, 15, 15, 5), (20, 30, 30, 10))

_BOX = 5.0


def bilevel_qp(nx: int, ny: int, number: int) -> RandomProblem:
    r"""Return a strictly convex QP at both levels with ``ceil(ny / 2)`` follower rows.

    .. code-block:: text

        min  |x - a|^2/2 + z'M'Mz/2 + d'y    z = (x, y), -5 <= x <= 5
        s.t. y in argmin { y'P y/2 + (R'x + q)'y : A x + B y <= b }

    All data are standard normal, matrices are scaled such that sizes do not change the ranges, and
    half of the rows are tight at the planted point, with positive multipliers there.
    """
    rng = np.random.default_rng([1, nx, ny, number])
    m = -(-ny // 2)
    x0, y0 = rng.uniform(-1, 1, nx), rng.normal(size=ny)
    A, B = rng.normal(size=(m, nx)) / np.sqrt(nx), rng.normal(size=(m, ny)) / np.sqrt(ny)
    tight = rng.random(m) < 0.5
    b = A @ x0 + B @ y0 + np.where(tight, 0.0, rng.uniform(0, 1, m))
    P = _definite(rng, ny)
    R = rng.normal(size=(nx, ny)) / np.sqrt(nx)
    q = -(P @ y0 + R.T @ x0 + B.T @ np.where(tight, rng.uniform(0, 1, m), 0.0))
    c = np.concatenate([-rng.normal(size=nx), rng.normal(size=ny)])
    return _problem(f"{nx}x{ny} {number}", _definite(rng, nx + ny), c, P, R, q, A, B, b)


def opposed_qp(nx: int, ny: int, number: int) -> RandomProblem:
    r"""Return a bilevel QP whose leader wants the opposite of what its follower wants.

    .. code-block:: text

        min  |x|^2/20 + |y - y_far|^2/2      -5 <= x <= 5
        s.t. y in argmin { |y|^2/20 + (R'x + q)'y : A x + B y <= b }

    There are ``2 ny`` rows around the follower's response, its curvature is small, so that it moves
    from vertex to vertex, and the leader's target ``y_far = y0 + 3 q/|q|`` lies where the
    follower's cost rises fastest.
    """
    rng = np.random.default_rng([2, nx, ny, number])
    m = 2 * ny
    x0, y0 = rng.uniform(-1, 1, nx), rng.normal(size=ny)
    A, B = rng.normal(size=(m, nx)) / np.sqrt(nx), rng.normal(size=(m, ny)) / np.sqrt(ny)
    b = A @ x0 + B @ y0 + rng.uniform(0, 1, m)
    P, R = 0.1 * np.eye(ny), rng.normal(size=(nx, ny)) / np.sqrt(nx)
    q = -B.T @ rng.uniform(0, 1, m)
    far = y0 + 3.0 * q / np.linalg.norm(q)
    Q = np.diag(np.concatenate([np.full(nx, 0.1), np.ones(ny)]))
    c = np.concatenate([np.zeros(nx), -far])
    return _problem(f"opposed {nx}x{ny} {number}", Q, c, P, R, q, A, B, b)


def lplp(nx: int, ny: int, rows: int, equations: int, number: int) -> RandomProblem:
    r"""Return an LP at both levels.

    .. code-block:: text

        min  c'x + d'y                       0 <= x <= 10
        s.t. y in argmin { q'y : A x + B y <= b, E x + D y = e, y >= 0 }

    Half of the inequalities are tight at the planted point. ``q = mu - B'lam - D'nu`` with
    ``lam, mu > 0``, so that the follower's best responses are bounded for every ``x``.
    """
    rng = np.random.default_rng([3, nx, ny, rows, equations, number])
    x0, y0 = rng.uniform(0, 10, nx), rng.uniform(0, 10, ny)
    A, B = rng.normal(size=(rows, nx)), rng.normal(size=(rows, ny))
    E, D = rng.normal(size=(equations, nx)), rng.normal(size=(equations, ny))
    slack = np.where(rng.random(rows) < 0.5, 0.0, rng.uniform(0, 10, rows))
    multiplier = rng.uniform(0, 1, rows)
    q = rng.uniform(0, 1, ny) - B.T @ multiplier - D.T @ rng.normal(size=equations)
    return _problem(
        f"({nx},{ny},{rows},{equations}) {number}",
        np.zeros((nx + ny, nx + ny)),
        rng.normal(size=nx + ny),
        np.zeros((ny, ny)),
        np.zeros((nx, ny)),
        q,
        np.vstack([A, E, np.zeros((ny, nx))]),
        np.vstack([B, D, -np.eye(ny)]),
        np.concatenate([A @ x0 + B @ y0 + slack, E @ x0 + D @ y0, np.zeros(ny)]),
        np.repeat([False, True, False], [rows, equations, ny]),
        (0.0, 10.0),
    )


def _definite(rng: np.random.Generator, n: int) -> Array:
    factor = rng.normal(size=(n, n)) / np.sqrt(n)
    return factor.T @ factor + np.eye(n)


def _problem(
    name: str,
    Q: Array,
    c: Array,
    P: Array,
    R: Array,
    q: Array,
    A: Array,
    B: Array,
    b: Array,
    equal: Array | None = None,
    box: tuple[float, float] = (-_BOX, _BOX),
) -> RandomProblem:
    nx, m = A.shape[1], len(b)
    return RandomProblem(
        name=name,
        family="QP-QP" if P.any() else "LP-LP",
        traits=(),
        binary=np.zeros(nx, bool),
        lower=np.full(nx, box[0]),
        upper=np.full(nx, box[1]),
        Q=Q,
        c=c,
        G=np.zeros((0, len(c))),
        g=np.zeros(0),
        g_equal=np.zeros(0, bool),
        P=P,
        R=R,
        q=q,
        A=A,
        B=B,
        T=np.zeros((nx, m, len(q))),
        b=b,
        equal=np.zeros(m, bool) if equal is None else equal,
        scale=np.ones(m),
        leader_maximizes=False,
        follower_maximizes=False,
        pessimistic=False,
    )
