"""What the benchmark of hypergradients must reach, from its records."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.case import Record, Target

OURS, OURS_DIAGONAL = "bilevel", "bilevel, diagonal"
#: Without one of the ideas that were tried.
UNESTIMATED, UNREPLAYED = "bilevel, no diagonal", "bilevel, no replay"
TORCHOPT, TORCHOPT_GRADIENT = "torchopt", "torchopt, own gradient"
BY_HAND, BY_HAND_DIAGONAL = "CG by hand", "CG by hand, diagonal"
CHOLESKY, UNROLLED = "Cholesky by hand", "1,000 steps"

#: Groups of instances.
SMALL, SMALL_DENSE = "d = 1,000, sparse", "d = 1,000, dense"
MIDDLE, MIDDLE_DENSE = "d = 10,000, sparse", "d = 10,000, dense"

MEMORY, DIFFERENCES = "large", "differences"
MINRES, NESTED = "MINRES", "GMRES and CG"

#: Of the adjoint's linear system at the largest sizes; of total gradients.
ASKED_RESIDUAL, ASKED_ERROR = 1e-6, 1e-7
_ASKED_VECTORS = 15.0
_ASKED_TORCHOPT, _ASKED_UNROLLED, _ASKED_FASTEST = 3.0, 30.0, 1.1


def judge_hypergradients(records: Sequence[Record]) -> Sequence[Target]:
    """Return the targets of a full run."""
    return (
        *(_beside_torchopt(records, group) for group in (SMALL, SMALL_DENSE)),
        _beside_unrolled(records, SMALL),
        *(_beside_the_fastest(records, group) for group in (MIDDLE, MIDDLE_DENSE)),
        *_large(records),
        *(_differences(records, method) for method in (MINRES, NESTED)),
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
    text = f"{group}: {_ASKED_TORCHOPT:g}x as fast as torchopt's CG, both by default"
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
    for name in (UNROLLED, UNESTIMATED, UNREPLAYED):
        times.pop(name, None)
    if not mine or not times:
        return Target(text, "not measured", False)
    best, other = min(mine, key=mine.__getitem__), min(times, key=times.__getitem__)
    ratio = mine[best] / times[other]
    shown = _shown({best: mine[best], other: times[other]} | mine | times)
    return Target(text, f"{ratio:.2f} times ({shown})", ratio <= _ASKED_FASTEST)


def _large(records: Sequence[Record]) -> Sequence[Target]:
    found = [r for r in records if r["group"] == MEMORY]
    solved = [r for r in found if r["outcome"] == "solved"]
    is_whole = len(solved) == len(found) > 0
    names = list(dict.fromkeys(r["instance"] for r in solved))

    def shown(name: str, form: str) -> str:
        worst = {n: max(r["extra"][name] for r in solved if r["instance"] == n) for n in names}
        return "; ".join(f"{n}: {value:{form}}" for n, value in worst.items()) or "not measured"

    most = max((r["extra"]["vectors"] for r in solved), default=float("inf"))
    return (
        Target(
            f"d = 1e6 and 4e6: residual below {ASKED_RESIDUAL:g}",
            shown("residual", ".0e"),
            is_whole,
        ),
        Target(
            f"d = 1e6 and 4e6: memory grows by at most {_ASKED_VECTORS:g} vectors of size d",
            shown("vectors", ".1f"),
            is_whole and most <= _ASKED_VECTORS,
        ),
    )


def _differences(records: Sequence[Record], method: str) -> Target:
    text = f"total gradients by {method} within {ASKED_ERROR:g} of differences of full solves"
    found = [r for r in records if (r["group"], r["method"]) == (DIFFERENCES, method)]
    errors: dict[str, float] = {}
    for r in found:
        error = r["extra"].get("error")
        errors[r["instance"]] = max(
            errors.get(r["instance"], 0.0), float("inf") if error is None else error
        )
    shown = ", ".join(f"{name} {error:.0e}" for name, error in errors.items()) or "not measured"
    return Target(text, shown, bool(errors) and max(errors.values()) < ASKED_ERROR)
