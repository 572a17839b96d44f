"""Proofs that linear rows and bounds exclude each other."""

from __future__ import annotations

from typing import Any

import daqp
import numpy as np

from bilevel.problem.functions import Array

# Rows may be missed at this price, and steps are held short by the proximal weight.
_OPTIONS: dict[str, Any] = {
    "rho_soft": 1e-5,
    "eps_prox": 0.1,
    "eta_prox": 1e-8,
    "primal_tol": 1e-10,
    "dual_tol": 1e-12,
    "iter_limit": 500,
}
_SOFT = 8
_FIXED = 5
# A proof is good for points of up to this size, and for violations of more than this.
_RADIUS = 1e10
_LEAST = 1e-8
_ROUNDING = 1e-15
_TINY = 1e-9
#: A bound of at least this size is none.
HUGE = 1e30


class Farkas:
    r"""Looks for multipliers that prove ``low <= (y, A y) <= high`` empty.

    The smallest sum of squared violations of the rows has multipliers ``lam`` with ``A'lam`` on the
    bounds' side; if any ``y`` met everything,

        0 = lam'A y - (A'lam)'y <= sum of lam_i high_i (or low_i) over rows and columns < 0

    Parameters
    ----------
    A
        Rows, shape ``(m, n)``, scaled.
    """

    def __init__(self, A: Array) -> None:
        self._A = A
        self._size = np.abs(A)
        self._model: Any = None

    def proves(self, low: Array, high: Array) -> bool:
        """Return whether a proof was found; whatever the solver says, it is checked here.

        Parameters
        ----------
        low, high
            Bounds of columns, then of rows; beyond ``HUGE`` there is none.
        """
        n = self._A.shape[1]
        empty = self._size.sum(axis=1) == 0
        if (low - high > _LEAST).any():
            return True
        if (low[n:][empty] > _LEAST).any() or (high[n:][empty] < -_LEAST).any():
            return True
        try:
            lam = self._ask(low, high)
        except Exception:
            return False
        if not np.isfinite(lam).all():
            return False
        rows = np.where(np.where(lam > 0, high, low)[n:] * np.sign(lam[n:]) < HUGE, lam[n:], 0.0)
        return self._holds(rows, low, high) or self._holds(self._exact(rows, low, high), low, high)

    def _exact(self, rows: Array, low: Array, high: Array) -> Array:
        """Return weights near these that vanish on columns without bounds, but for rounding."""
        n = self._A.shape[1]
        free = (low[:n] <= -HUGE) | (high[:n] >= HUGE)
        used = np.flatnonzero(np.abs(rows) > _TINY * np.abs(rows).max(initial=0.0))
        exact = np.zeros(len(rows))
        M = self._A[np.ix_(used, free)].T
        exact[used] = rows[used] - np.linalg.lstsq(M, M @ rows[used], rcond=None)[0]
        return exact

    def _holds(self, rows: Array, low: Array, high: Array) -> bool:
        """Return whether weights of rows are a proof."""
        every = np.concatenate([-(rows @ self._A), rows])
        rounding = _ROUNDING * np.append(np.abs(rows) @ self._size, np.abs(rows))
        bound = np.where(every > 0, high, -low)
        known = bound < HUGE
        weight = np.abs(every)
        value = float(weight[known] @ bound[known] + rounding[known] @ np.abs(bound[known]))
        if not np.isfinite(value) or value >= -_LEAST * float(weight.sum()):
            return False
        # A weight on a bound that does not exist must vanish, or limits how far the proof reaches.
        return bool(-value > _RADIUS * (weight + rounding)[~known].sum())

    def _ask(self, low: Array, high: Array) -> Array:
        m, n = self._A.shape
        sense = np.full(n + m, _SOFT, np.int32)
        sense[:n] = np.where(low[:n] == high[:n], _FIXED, 0)
        if self._model is None:
            self._model = daqp.Model()
            self._model.settings = _OPTIONS
            self._model.setup(np.zeros((n, n)), np.zeros(n), self._A, high, low, sense)
        else:
            self._model.update(bupper=high, blower=low, sense=sense)
        return np.asarray(self._model.solve()[3]["lam"])
