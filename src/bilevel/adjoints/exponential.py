r"""Projection onto the exponential cone's dual, and its derivative.

The cone is the closure of ``(r, s, t)`` with ``s > 0`` and ``s exp(r / s) <= t``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import brentq

from bilevel.problem.functions import Array

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
    >>> from bilevel.adjoints.exponential import project
    >>> print(project(np.array([0.0, 1.0, 2.0]))[0].tolist())
    [0.0, 1.0, 2.0]
    """
    r, s, t = (float(part) for part in v)
    if (s > 0 and r / s < _LARGEST and s * np.exp(r / s) <= t) or (s == 0 and r <= 0 <= t):
        return v.copy(), np.eye(3)
    # The polar cone: (u, w, x) with u > 0, u exp(w / u - 1) <= -x, and its closure.
    if (r > 0 and s / r < _LARGEST and r * np.exp(s / r - 1) <= -t) or (
        r == 0 and s <= 0 and t <= 0
    ):
        return np.zeros(3), np.zeros((3, 3))
    if r <= 0 and s <= 0:
        return np.array([r, 0.0, max(t, 0.0)]), np.diag([1.0, 0.0, float(t > 0)])
    rho = _root(r, s, t)
    beta = ((rho - 1) * r + s) / (rho * rho - rho + 1)
    point = beta * np.array([rho, 1.0, np.exp(rho)])
    return point, _slope(v, point, rho)


def _root(r: float, s: float, t: float) -> float:
    def gap(rho: float) -> float:
        scale = rho * rho - rho + 1
        primal, polar = (rho - 1) * r + s, r - rho * s
        return (np.exp(rho) * primal - np.exp(-rho) * polar) / scale - t

    low = 1 - s / r if r > 0 else -np.inf
    high = r / s if s > 0 else np.inf
    if r <= 0:
        low = min(high, 0.0) - 1.0
        while gap(low) > 0 and low > -_LARGEST:
            low = 2 * low - 1.0
    if s <= 0:
        high = max(low, 0.0) + 1.0
        while gap(high) < 0 and high < _LARGEST:
            high = 2 * high + 1.0
    low, high = max(low, -_LARGEST), min(high, _LARGEST)
    root: Any = brentq(gap, low, high, xtol=1e-16, rtol=4 * np.finfo(float).eps, maxiter=200)
    return float(root)


def _slope(v: Array, point: Array, rho: float) -> Array:
    """Differentiate ``point - v + mu grad c = 0``, ``c = s exp(r / s) - t = 0``."""
    s, e = point[1], np.exp(rho)
    gradient = np.array([e, e * (1 - rho), -1.0])
    mu = float((v - point) @ gradient / (gradient @ gradient))
    curvature = mu * e / s * np.outer([1.0, -rho, 0.0], [1.0, -rho, 0.0])
    K = np.zeros((4, 4))
    K[:3, :3], K[:3, 3], K[3, :3] = np.eye(3) + curvature, gradient, gradient
    return np.linalg.inv(K)[:3, :3]
