"""Where a vanishing log barrier leaves slacks and multipliers of weakly active rows."""

from __future__ import annotations

import numpy as np

from bilevel.problem.functions import Array

_WEIGHT = 1e-12
_STEPS = 60
_LARGEST = 1e8


def central_ratios(
    P: Array, q: Array, A: Array, b: Array, y: Array, z: Array, equalities: int
) -> tuple[Array, Array]:
    r"""Return which rows count, and ``slack / multiplier`` on the central path near an answer.

    Solved by Newton's method from the answer, for a weight ``mu``:

        P y + q + A'z = 0,   A y + s = b,   s_i z_i = mu for inequalities, s_i = 0 for equations.

    Parameters
    ----------
    P, q, A, b
        A batch of programs.
    y, z
        Their answers.
    equalities
        How many rows, the first ones, are equations.

    Returns
    -------
    tuple
        Booleans and ratios of shape ``(B, m)``; the ratio of an equation is zero.
    """
    # One instance at a time: there are few, and each takes steps of its own length.
    pairs = [_ratios(*parts, equalities=equalities) for parts in zip(P, q, A, b, y, z, strict=True)]
    inside, ratio = (np.stack(column) for column in zip(*pairs, strict=True))
    return inside, ratio


def _ratios(
    P: Array, q: Array, A: Array, b: Array, y: Array, z: Array, *, equalities: int
) -> tuple[Array, Array]:
    n = len(q)
    mu = _WEIGHT * (1 + abs(q).max())
    free = np.arange(len(b)) >= equalities
    root = np.sqrt(mu)
    y = y.copy()
    z = z.copy()
    s = b - A @ y
    s[free] = np.maximum(s[free], 0.0)
    z[free] = np.where(s[free] > root, mu / np.maximum(s[free], root), np.maximum(z[free], root))
    s[free] = np.where(s[free] > root, s[free], mu / z[free])
    for _ in range(_STEPS):
        side = b - A @ y
        ratio = np.zeros_like(z)
        ratio[free] = s[free] / z[free]
        # From s + ds = b - A (y + dy) and s dz + z ds = mu - s z.
        rhs = side.copy()
        rhs[free] -= mu / z[free]
        K = np.block([[P, A.T], [A, -np.diag(ratio)]])
        step = np.linalg.lstsq(K, np.append(-(P @ y + q + A.T @ z), rhs), rcond=None)[0]
        dy = step[:n]
        dz = step[n:]
        ds = np.where(free, side - s - A @ dy, 0.0)
        both = np.append(s[free], z[free])
        change = np.append(ds[free], dz[free])
        down = change < 0
        length = min(1.0, *(-0.99 * both[down] / change[down]), 1.0)
        y = y + length * dy
        z = z + length * dz
        s = s + length * ds
        if length == 1.0 and abs((s * z)[free] / mu - 1).max() < 1e-6:
            break
    ratio = np.zeros_like(z)
    ratio[free] = s[free] / z[free]
    inside = ratio < _LARGEST
    return inside, np.where(inside, ratio, 0.0)
