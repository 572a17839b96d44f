"""Tells a callback how a search is getting on, not too often."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bilevel.backends.tree.node import Node
from bilevel.backends.tree.state import SearchState
from bilevel.program import Progress

_SILENCE = 0.1


class Reporter:
    """Calls ``progress`` at most every 0.1 s, or at once for a better point.

    Parameters
    ----------
    progress
        Called with ``Progress``; returning ``True`` stops the search.
    """

    def __init__(self, progress: Callable[[Progress], bool | None] | None) -> None:
        self._progress = progress
        self._last = -np.inf

    def __call__(
        self, state: SearchState, current: Node | None, seconds: float, at_once: bool
    ) -> bool:
        """Tell, if it is time, and return whether to stop."""
        if self._progress is None or (not at_once and seconds - self._last < _SILENCE):
            return False
        self._last = seconds
        value = state.value
        bound = state.bound(current)
        moment = Progress(
            seconds,
            value if np.isfinite(value) else None,
            bound if np.isfinite(bound) else None,
            state.count,
        )
        return bool(self._progress(moment))
