"""Medians, ratios and performance profiles of records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.case import OUTCOMES, Record


@dataclass(frozen=True)
class Row:
    """One method on one group of instances, over all rounds.

    ``seconds`` holds the median of each instance that was solved in every round, ``outcomes`` the
    worst outcome of each instance.
    """

    group: str
    method: str
    peer: bool
    outcomes: Mapping[str, str]
    seconds: Mapping[str, float]

    def count(self, outcome: str) -> int:
        return Counter(self.outcomes.values())[outcome]

    @property
    def median(self) -> float | None:
        return median(self.seconds.values()) if self.seconds else None

    def ratio(self, other: Row) -> float | None:
        """Geometric mean of this method's time over the other's, where both solved."""
        both = [name for name in self.seconds if other.seconds.get(name, 0.0) > 0.0]
        logs = [np.log(max(self.seconds[n], 1e-9) / other.seconds[n]) for n in both]
        return float(np.exp(np.mean(logs))) if logs else None


def latest(records: Iterable[Record], fields: Sequence[str]) -> list[Record]:
    """Return one record per key, the last one measured."""
    kept: dict[tuple[object, ...], Record] = {}
    for record in sorted(records, key=lambda r: r.get("when", "")):
        kept[tuple(record.get(name) for name in fields)] = record
    return list(kept.values())


def rows(records: Sequence[Record]) -> list[Row]:
    """Return a row per group and method, in the order of their first appearance."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        found.setdefault((record["group"], record["method"]), []).append(record)
    order = list(dict.fromkeys(record["method"] for record in records))
    groups = list(dict.fromkeys(record["group"] for record in records))
    keys = sorted(found, key=lambda key: (groups.index(key[0]), order.index(key[1])))
    return [_row(key, found[key]) for key in keys]


def profile(group: Sequence[Row]) -> dict[str, tuple[np.ndarray, int]]:
    """Return for each method its sorted ratios to the best time, and how many instances there are.

    An instance that a method did not solve (refused, unproved, failed or wrong) has no ratio, so
    its curve never reaches it.
    """
    names = {name for row in group for name in row.outcomes}
    best = {
        name: min((r.seconds[name] for r in group if name in r.seconds), default=None)
        for name in names
    }
    return {
        row.method: (
            np.sort([max(t, 1e-9) / max(best[name] or t, 1e-9) for name, t in row.seconds.items()]),
            len(names),
        )
        for row in group
    }


def _row(key: tuple[str, str], records: Sequence[Record]) -> Row:
    by_instance: dict[str, list[Record]] = {}
    for record in records:
        by_instance.setdefault(record["instance"], []).append(record)
    worst = {
        name: max((r["outcome"] for r in found), key=OUTCOMES.index)
        for name, found in by_instance.items()
    }
    seconds = {
        name: median(r["seconds"] for r in found)
        for name, found in by_instance.items()
        if worst[name] == "solved"
    }
    return Row(*key, bool(records[0]["peer"]), worst, seconds)
