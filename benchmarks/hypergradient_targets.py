"""What the benchmark of hypergradients must reach, from its records."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.case import Record, Target

OURS, OURS_DIAGONAL = "bilevel", "bilevel, diagonal"
TORCHOPT, TORCHOPT_GRADIENT = "torchopt", "torchopt, own gradient"
BY_HAND, BY_HAND_DIAGONAL = "CG by hand", "CG by hand, diagonal"
CHOLESKY, UNROLLED = "Cholesky by hand", "1,000 steps"

#: Groups of instances.
SMALL, SMALL_DENSE = "d = 1,000, sparse", "d = 1,000, dense"
MIDDLE, MIDDLE_DENSE = "d = 10,000, sparse", "d = 10,000, dense"

_ASKED_TORCHOPT, _ASKED_UNROLLED, _ASKED_FASTEST = 3.0, 30.0, 1.1


def judge_hypergradients(records: Sequence[Record]) -> Sequence[Target]:
    """Return the targets of a full run."""
    return (
        *(_beside_torchopt(records, group) for group in (SMALL, SMALL_DENSE)),
        _beside_unrolled(records, SMALL),
        *(_beside_the_fastest(records, group) for group in (MIDDLE, MIDDLE_DENSE)),
    )


def _milliseconds(records: Sequence[Record], group: str) -> dict[str, float]:
    """Return each method's median, of those that are accurate; unrolled steps as they are."""
    times: dict[str, list[float]] = {}
    for r in records:
        is_told = r["outcome"] == "solved" or r["method"] == UNROLLED
        if r["group"] == group and is_told and r["seconds"] is not None:
            times.setdefault(r["method"], []).append(1e3 * r["seconds"])
    return {method: median(found) for method, found in times.items()}


def _shown(times: dict[str, float]) -> str:
    return ", ".join(f"{name} {ms:.3g} ms" for name, ms in times.items())


def _beside_torchopt(records: Sequence[Record], group: str) -> Target:
    text = f"{group}: {_ASKED_TORCHOPT:g}x as fast as torchopt's CG, neither preconditioned"
    times = _milliseconds(records, group)
    peers = {name: times[name] for name in (TORCHOPT, TORCHOPT_GRADIENT) if name in times}
    if OURS not in times or not peers:
        return Target(text, "not measured", False)
    ratio = min(peers.values()) / times[OURS]
    shown = _shown({OURS: times[OURS]} | peers)
    return Target(text, f"{ratio:.2f}x ({shown})", ratio >= _ASKED_TORCHOPT)


def _beside_unrolled(records: Sequence[Record], group: str) -> Target:
    text = f"{group}: {_ASKED_UNROLLED:g}x as fast as 1,000 unrolled steps"
    times = _milliseconds(records, group)
    if not {OURS, UNROLLED} <= set(times):
        return Target(text, "not measured", False)
    ratio = times[UNROLLED] / times[OURS]
    errors = [r["extra"]["error"] for r in records if (r["group"], r["method"]) == (group, UNROLLED)
              and r["extra"].get("error") is not None]  # fmt: skip
    return Target(
        text,
        f"{ratio:.0f}x ({_shown({m: times[m] for m in (OURS, UNROLLED)})}; the steps' error is "
        f"{max(errors, default=float('inf')):.0e})",
        ratio >= _ASKED_UNROLLED,
    )


def _beside_the_fastest(records: Sequence[Record], group: str) -> Target:
    text = f"{group}: at most {_ASKED_FASTEST:g} times the fastest method of that accuracy"
    times = _milliseconds(records, group)
    mine = {name: times.pop(name) for name in (OURS, OURS_DIAGONAL) if name in times}
    times.pop(UNROLLED, None)
    if not mine or not times:
        return Target(text, "not measured", False)
    best, other = min(mine, key=mine.__getitem__), min(times, key=times.__getitem__)
    ratio = mine[best] / times[other]
    shown = _shown({best: mine[best], other: times[other]} | mine | times)
    return Target(text, f"{ratio:.2f} times ({shown})", ratio <= _ASKED_FASTEST)
