"""What a program leaves to branch on: SOS1 pairs and integers, as bounds of entries."""

from __future__ import annotations

import numpy as np

from bilevel.backends.tree.compact import Compact
from bilevel.problem.functions import Array
from bilevel.program import Program

#: An entry of the compact program and its new bounds.
Change = tuple[int, float, float]

# A point is complementary or integer below this, and is then made so exactly.
_SMALL = 1e-7


class Disjunctions:
    """The SOS1 pairs of a program, then its integer columns, numbered through.

    Parameters
    ----------
    program
        The program.
    compact
        The same without slack columns.
    """

    def __init__(self, program: Program, compact: Compact) -> None:
        pairs = [
            (a, b)
            for _, columns in program.sos1
            for i, a in enumerate(columns)
            for b in columns[i + 1 :]
        ]
        columns = np.array(pairs, int).reshape(-1, 2)
        self._entry = compact.entry[columns]
        self._factor = compact.factor[columns]
        self._offset = compact.offset[columns]
        self._zero = -self._offset / self._factor
        self._integer = compact.entry[np.flatnonzero(program.integer)]
        self.pairs = len(columns)

    def __len__(self) -> int:
        return self.pairs + len(self._integer)

    def open(self, low: Array, high: Array) -> Array:
        """Return which pairs are undecided, shape ``(pairs,)``."""
        at = self._entry
        decided = (low[at] == high[at]) & (low[at] == self._zero)
        return ~decided.any(axis=1)

    def undecided(self, low: Array, high: Array) -> list[int]:
        """Return the pairs that are open and the integers that have a choice."""
        wide = low[self._integer] < high[self._integer]
        return np.flatnonzero(np.concatenate([self.open(low, high), wide])).tolist()

    def violated(
        self, entries: Array | None, low: Array, high: Array, ray: Array | None = None
    ) -> tuple[Array, Array]:
        """Return the disjunctions a point is on neither side of, and how far it is from both.

        Without a point (an unbounded relaxation) the pairs that stand in the ray's way are
        returned; where there are none, or no ray is known, every undecided pair.
        """
        is_open = self.open(low, high)
        if entries is None:
            barred = is_open
            if ray is not None:
                size = np.abs(self._factor * ray[self._entry]).min(axis=1, initial=np.inf)
                barred = is_open & (size > _SMALL * np.abs(ray).max(initial=0.0))
            found = np.flatnonzero(barred if barred.any() else is_open)
            return found, np.ones(len(found))
        size = np.abs(self._offset + self._factor * entries[self._entry])
        distance = np.where(is_open, size.min(axis=1, initial=np.inf), 0.0)
        integer = entries[self._integer]
        distance = np.concatenate([distance, np.abs(integer - np.round(integer))])
        found = np.flatnonzero(distance > _SMALL)
        return found, distance[found]

    def sides(self, index: int, entries: Array | None, low: Array, high: Array) -> list[Change]:
        """Return the two ways to decide a disjunction."""
        if index < self.pairs:
            values = zip(self._entry[index].tolist(), self._zero[index].tolist(), strict=True)
            return [(entry, value, value) for entry, value in values]
        entry = int(self._integer[index - self.pairs])
        floor = float(np.floor(entries[entry])) if entries is not None else 0.0
        return [(entry, low[entry], floor), (entry, floor + 1.0, high[entry])]

    def pattern(self, entries: Array, low: Array, high: Array) -> list[Change]:
        """Return the decisions a point is nearest to: zero the smaller of a pair, round."""
        size = np.abs(self._offset + self._factor * entries[self._entry])
        changes = []
        for i in np.flatnonzero(self.open(low, high)).tolist():
            side = int(size[i].argmin())
            value = float(self._zero[i, side])
            changes.append((int(self._entry[i, side]), value, value))
        for entry in self._integer.tolist():
            value = float(np.round(entries[entry]))
            changes.append((entry, value, value))
        return changes

    def remaining(self, entries: Array, low: Array, high: Array) -> tuple[Array, Array]:
        """Return undecided pairs of a nearly complementary point, however near."""
        size = np.abs(self._offset + self._factor * entries[self._entry]).min(axis=1, initial=0.0)
        found = np.flatnonzero(self.open(low, high) & (size > 0))
        return found, size[found]
