"""Two runs side by side: which claims changed, and what became of the times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.case import Record
from benchmarks.measure import AGREEMENT
from benchmarks.run import KEY
from benchmarks.statistics import latest

#: What identifies a measurement in both runs; the round does not.
SAME = ("case", "size", "group", "instance", "method")

# A measurement that took this share of its time limit may have been decided by the clock.
_NEAR_LIMIT = 0.9
_MOST_LISTED = 40

_Key = tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """One measurement that claims something else than before.

    ``parts`` names what differs: outcome, status, value, certificate. ``clock`` tells whether
    either run met the time limit, so that a slower or busier machine can be the reason.
    """

    key: _Key
    parts: tuple[str, ...]
    old: str
    new: str
    clock: bool


@dataclass(frozen=True)
class Speed:
    """The times of one method of a case, new over old, where both runs solved.

    ``ratio`` is the median over the instances; ``to_peers`` the same after each instance's ratio
    was divided by the geometric mean of the peers' ratios on that instance, which takes out what
    the machine did. It is ``None`` where no peer was measured in both runs.
    """

    case: str
    size: str
    method: str
    peer: bool
    instances: int
    ratio: float
    to_peers: float | None


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common and where they differ.

    ``missing`` was measured before and is not in the new run; ``added`` is only there.
    ``conditions`` counts measurements made with another time limit or number of threads.
    """

    compared: int
    differences: tuple[Difference, ...]
    missing: tuple[_Key, ...]
    added: tuple[_Key, ...]
    conditions: int
    speeds: tuple[Speed, ...]

    @property
    def unexplained(self) -> int:
        """How many claims changed although neither run met its time limit."""
        return sum(not one.clock for one in self.differences)


def compare(
    new: Sequence[Record], old: Sequence[Record], tolerance: float = AGREEMENT
) -> Comparison:
    """Compare the claims and times of two runs.

    Rounds are not told apart: each round of the new run must claim what some round of the old run
    claimed. Values agree within ``tolerance * max(1, |value|)``.
    """
    fresh, known = _by_key(new), _by_key(old)
    shared = [key for key in fresh if key in known]
    differences = [
        found for key in shared if (found := _difference(key, fresh[key], known[key], tolerance))
    ]
    conditions = sum(_conditions(fresh[key]) != _conditions(known[key]) for key in shared)
    return Comparison(
        len(shared),
        tuple(differences),
        tuple(key for key in known if key not in fresh),
        tuple(key for key in fresh if key not in known),
        conditions,
        tuple(_speeds({key: (fresh[key], known[key]) for key in shared})),
    )


def text(found: Comparison) -> str:
    """Return a comparison as Markdown."""
    explained = len(found.differences) - found.unexplained
    parts = [
        f"{found.compared} measurements compared: {found.unexplained} differences in claims, "
        f"{explained} more where a run met its time limit; {len(found.missing)} of the old run are "
        f"not in the new one, {len(found.added)} are new."
    ]
    if found.conditions:
        parts.append(
            f"{found.conditions} were made with another time limit or number of threads: their "
            "times say nothing about the code."
        )
    if found.differences:
        heads = ["| case | instance | method | differs in | old | new | |", "|" + "---|" * 7]
        # What the clock cannot explain comes first.
        listed = sorted(found.differences, key=lambda one: one.clock)
        lines = [
            f"| {one.key[0]}, {one.key[1]} | {one.key[3]} | {one.key[4]} | {', '.join(one.parts)} "
            f"| {one.old} | {one.new} | {'time limit' if one.clock else ''} |"
            for one in listed[:_MOST_LISTED]
        ]
        left = len(listed) - len(lines)
        parts.append("\n".join([*heads, *lines]) + (f"\n\nand {left} more" if left else ""))
    for name, keys in (("Not in the new run", found.missing), ("Only in the new run", found.added)):
        if keys:
            parts.append(f"{name}: {_counted(keys)}.")
    if found.speeds:
        heads = [
            "| case | method | instances | new / old | new / old, relative to the peers |",
            "|" + "---|" * 5,
        ]
        lines = [
            f"| {one.case}, {one.size} | {one.method}{' (peer)' if one.peer else ''} "
            f"| {one.instances} | {one.ratio:.3f} "
            f"| {'' if one.to_peers is None else f'{one.to_peers:.3f}'} |"
            for one in found.speeds
        ]
        parts.append("\n".join([*heads, *lines]))
    return "\n\n".join(parts) + "\n"


def _by_key(records: Sequence[Record]) -> dict[_Key, list[Record]]:
    found: dict[_Key, list[Record]] = {}
    for record in latest(records, ("group", *KEY)):
        found.setdefault(tuple(str(record.get(name, "")) for name in SAME), []).append(record)
    return found


def _difference(
    key: _Key, new: Sequence[Record], old: Sequence[Record], tolerance: float
) -> Difference | None:
    for one in new:
        # The nearest of the old rounds: the one from which it differs in the fewest parts.
        other = min(old, key=lambda before: len(_parts(one, before, tolerance)))
        if parts := _parts(one, other, tolerance):
            clock = any(_met_limit(record) for record in (*new, *old))
            return Difference(key, parts, _claim(other), _claim(one), clock)
    return None


def _parts(new: Record, old: Record, tolerance: float) -> tuple[str, ...]:
    parts = [name for name in ("outcome", "status") if new[name] != old[name]]
    if not _equal(new.get("value"), old.get("value"), tolerance):
        parts.append("value")
    if _accepted(new) != _accepted(old):
        parts.append("certificate")
    return tuple(parts)


def _equal(new: float | None, old: float | None, tolerance: float) -> bool:
    if new is None or old is None:
        return new is old
    return abs(new - old) <= tolerance * max(1.0, abs(old))


def _accepted(record: Record) -> bool | None:
    certificate = record.get("certificate")
    return None if certificate is None else bool(certificate["accepted"])


def _claim(record: Record) -> str:
    value = "" if record.get("value") is None else f" {record['value']:.9g}"
    verdict = {None: "", True: ", accepted", False: ", rejected"}[_accepted(record)]
    return f"{record['outcome']} {record['status']}{value}{verdict}"


def _met_limit(record: Record) -> bool:
    limit, seconds = record.get("time_limit"), record.get("seconds")
    return limit is not None and seconds is not None and seconds >= _NEAR_LIMIT * limit


def _conditions(records: Sequence[Record]) -> set[tuple[object, object]]:
    return {(record.get("time_limit"), record.get("threads")) for record in records}


def _speeds(shared: dict[_Key, tuple[list[Record], list[Record]]]) -> list[Speed]:
    ratios: dict[_Key, float] = {}
    peers: dict[_Key, list[float]] = {}
    is_peer: dict[_Key, bool] = {}
    for key, (new, old) in shared.items():
        before, after = _seconds(old), _seconds(new)
        if not before or after is None:
            continue
        case, size, group, instance, method = key
        ratios[key] = after / before
        is_peer[case, size, method] = bool(new[0].get("peer"))
        if is_peer[case, size, method]:
            peers.setdefault((case, size, group, instance), []).append(ratios[key])
    speeds = []
    for (case, size, method), peer in is_peer.items():
        mine = {key: r for key, r in ratios.items() if (*key[:2], key[4]) == (case, size, method)}
        relative = [r / _mean(peers[key[:4]]) for key, r in mine.items() if key[:4] in peers]
        to_peers = median(relative) if relative and not peer else None
        speeds.append(Speed(case, size, method, peer, len(mine), median(mine.values()), to_peers))
    return speeds


def _seconds(records: Sequence[Record]) -> float | None:
    if any(record["outcome"] != "solved" or record["seconds"] is None for record in records):
        return None
    return median(record["seconds"] for record in records)


def _mean(ratios: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(np.maximum(ratios, 1e-9)))))


def _counted(keys: Sequence[_Key]) -> str:
    counts: dict[tuple[str, str, str], int] = {}
    for case, size, _, _, method in keys:
        counts[case, size, method] = counts.get((case, size, method), 0) + 1
    shown = [f"{count} of {c}, {s}, {m}" for (c, s, m), count in counts.items()]
    return "; ".join(shown)
