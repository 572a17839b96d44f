r"""Projection onto the exponential cone's dual, and its derivative.

The cone is the closure of ``(r, s, t)`` with ``s > 0`` and ``s exp(r / s) <= t``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import brentq

from bilevel.problem.functions import Array

# Entries below that share of the largest one count as zero, so that no quotient overflows; the
# projection moves by no more than its argument.
_NOTHING = 1e-60
_LARGEST = 600.0


def project_dual(v: Array) -> tuple[Array, Array]:
    """Return the projection of ``v`` onto the dual cone, and its Jacobian.

    By Moreau's decomposition it is ``v`` plus the projection of ``-v`` onto the cone.
    """
    point, slope = project(-v)
    return v + point, np.eye(3) - slope


def project(v: Array) -> tuple[Array, Array]:
    """Return the projection of ``v`` onto the exponential cone, and its Jacobian.

    Where ``v`` lies neither in the cone nor in its polar, the projection is ``beta (rho, 1,
    exp(rho))`` for the root ``rho`` of an increasing function.

    References
    ----------
    Friberg, *Projection onto the exponential cone: a univariate root-finding problem* (2023).

    Examples
    --------
    >>> import numpy as np
    >>> from bilevel.adjoints.convex.exponential import project
    >>> print(project(np.array([0.0, 1.0, 2.0]))[0].tolist())
    [0.0, 1.0, 2.0]
    """
    size = float(abs(v).max())
    if size == 0.0:
        return v.copy(), np.eye(3)
    r, s, t = (float(part) for part in np.where(abs(v) < _NOTHING * size, 0.0, v / size))
    if (s > 0 and r / s < _LARGEST and s * np.exp(r / s) <= t) or (s == 0 and r <= 0 <= t):
        return v.copy(), np.eye(3)
    # The polar cone: (u, w, x) with u > 0, u exp(w / u - 1) <= -x, and its closure.
    is_polar = r > 0 and s / r < _LARGEST and r * np.exp(s / r - 1) <= -t
    if is_polar or (r == 0 and s <= 0 and t <= 0):
        return np.zeros(3), np.zeros((3, 3))
    if r <= 0 and s <= 0:
        return np.array([size * r, 0.0, size * max(t, 0.0)]), np.diag([1.0, 0.0, float(t > 0)])
    rho = _root(r, s, t)
    beta, mu = _weights(r, s, rho)
    if rho > 0:
        # The same number without the difference of large ones.
        top = max(t + mu * np.exp(-rho), 0.0)
        beta = top * np.exp(-rho)
    else:
        beta = max(beta, 0.0)
        top = beta * np.exp(rho)
    point = np.array([beta * rho, beta, top])
    return size * point, _slope(np.array([r, s, t]) - point, beta, rho)


def _weights(r: float, s: float, rho: float) -> tuple[float, float]:
    """Return ``beta`` and ``mu`` with ``(r, s) = beta (rho, 1) + mu (1, 1 - rho)``.

    The projection is ``beta (rho, 1, exp(rho))``, the rest ``mu (1, 1 - rho, -exp(-rho))``.
    """
    scale = rho * rho - rho + 1
    return ((rho - 1) * r + s) / scale, (r - rho * s) / scale


def _root(r: float, s: float, t: float) -> float:
    def gap(rho: float) -> float:
        beta, mu = _weights(r, s, rho)
        # Times exp(-|rho|), which changes no sign and lets nothing overflow.
        small = np.exp(-abs(rho))
        ends = (beta, mu * small * small) if rho > 0 else (beta * small * small, mu)
        return ends[0] - ends[1] - t * small

    low = 1 - s / r if r > 0 else -np.inf
    high = r / s if s > 0 else np.inf
    if r <= 0:
        low = min(high, 0.0) - 1.0
        while gap(low) > 0:
            low = 2 * low - 1.0
    if s <= 0:
        high = max(low, 0.0) + 1.0
        while gap(high) < 0:
            high = 2 * high + 1.0
    # Rounding may leave no change of sign where the root lies at an end.
    if low >= high or gap(low) >= 0:
        return low
    if gap(high) <= 0:
        return high
    root: Any = brentq(gap, low, high, xtol=1e-16, rtol=4 * np.finfo(float).eps, maxiter=500)
    return float(root)


def _slope(rest: Array, beta: float, rho: float) -> Array:
    """Return the Jacobian: along the ray nothing changes, across it the surface is curved."""
    small = np.exp(-abs(rho))
    up, down = (1.0, small) if rho > 0 else (small, 1.0)  # exp(rho) and 1, relative
    ray = np.array([rho * down, down, up])
    normal = np.array([up, up * (1 - rho), -down])
    steepness = up / np.linalg.norm(normal)
    ray = ray / np.linalg.norm(ray)
    normal = normal / np.linalg.norm(normal)
    across = np.cross(normal, ray)
    bend = np.linalg.norm(rest) * steepness * (across[0] - rho * across[1]) ** 2
    share = beta / (beta + bend) if beta + bend > 0 else 0.0
    return np.outer(ray, ray) + share * np.outer(across, across)
