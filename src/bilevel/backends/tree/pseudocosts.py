"""Which disjunction to branch on: strong branching until pseudocosts are known."""

from __future__ import annotations

import numpy as np

from bilevel.problem.functions import Array

# Children that gain nothing must not make a product of gains vanish.
_FLOOR = 1e-6


class Pseudocosts:
    """Average gain in the bound by each side of each disjunction so far.

    Parameters
    ----------
    count
        Number of disjunctions.
    """

    def __init__(self, count: int) -> None:
        self._sum = np.zeros((count, 2))
        self._times = np.zeros((count, 2), int)

    def learn(self, index: int, side: int, gain: float) -> None:
        """Record a gain; an infinite one (an infeasible child) is kept out of the average."""
        if np.isfinite(gain):
            self._sum[index, side] += max(gain, 0.0)
            self._times[index, side] += 1

    def known(self, index: int) -> int:
        """Return how often the less known side was tried."""
        return int(self._times[index].min())

    def order(self, candidates: Array, violation: Array) -> Array:
        """Return the candidates, the most promising first.

        Parameters
        ----------
        candidates
            Indices of disjunctions.
        violation
            How far a point is from both sides, for each candidate; breaks ties.
        """
        usual = self._sum.sum() / max(int(self._times.sum()), 1)
        times = self._times[candidates]
        mean = np.where(times > 0, self._sum[candidates] / np.maximum(times, 1), usual)
        mean = np.maximum(mean, _FLOOR)
        rating = mean[:, 0] * mean[:, 1] * (1.0 + 1e-3 * violation / violation.max())
        return candidates[np.argsort(-rating, kind="stable")]


def score(first: float, second: float) -> float:
    """Return the product of two gains, the usual measure of a branching."""
    return max(first, _FLOOR) * max(second, _FLOOR)
