"""What the benchmark of layers must reach, from its records."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.case import Record, Target
from benchmarks.layer_data import ASKED_ERROR

#: Variables and batch.
Shape = tuple[int, int]

OURS, MOREAU, PROXQP, CVXPYLAYERS = "bilevel", "moreau.torch", "proxsuite", "cvxpylayers"
TIGHT, COMPILING, NEIGHBOURS, CHECKED = "tight", "compile", "infeasible", "differences"

#: How many times as fast as the faster of Moreau and ProxQP.
ASKED: dict[Shape, float] = {(10, 1): 1.0, (10, 128): 1.3, (50, 128): 2.0, (100, 32): 2.0}
_ASKED_CVXPYLAYERS, _ASKED_MEDIAN = 15.0, 1e-10
_ASKED_N, _ASKED_SECONDS, _ASKED_MEGABYTES = 400, 2.0, 300.0


def group_of(shape: Shape) -> str:
    """Return the name of the batches of a size."""
    return f"n = {shape[0]}, batch {shape[1]}"


def judge_layers(records: Sequence[Record]) -> Sequence[Target]:
    """Return the targets of a full run."""
    return (
        *(_beside_the_faster(records, shape, asked) for shape, asked in ASKED.items()),
        _beside_cvxpylayers(records),
        *_exactness(records),
        _compiling(records),
        *_promises(records),
    )


def _milliseconds(records: Sequence[Record], shape: Shape) -> dict[str, float]:
    """Return each method's median time per instance."""
    times: dict[str, list[float]] = {}
    for r in records:
        if r["group"] == group_of(shape) and r["outcome"] in ("solved", "wrong"):
            times.setdefault(r["method"], []).append(1e3 * r["seconds"])
    return {method: median(found) for method, found in times.items()}


def _beside_the_faster(records: Sequence[Record], shape: Shape, asked: float) -> Target:
    times = _milliseconds(records, shape)
    text = f"{group_of(shape)}: {asked:g}x as fast as the faster of {MOREAU} and {PROXQP}"
    if not {OURS, MOREAU, PROXQP} <= set(times):
        return Target(text, "not measured", False)
    ratio = min(times[MOREAU], times[PROXQP]) / times[OURS]
    shown = ", ".join(f"{name} {times[name]:.3g} ms" for name in (OURS, MOREAU, PROXQP))
    return Target(text, f"{ratio:.2f}x ({shown})", ratio >= asked)


def _beside_cvxpylayers(records: Sequence[Record]) -> Target:
    text = f"{_ASKED_CVXPYLAYERS:g}x as fast as {CVXPYLAYERS}' default everywhere"
    times = {shape: _milliseconds(records, shape) for shape in ASKED}
    if not all({OURS, CVXPYLAYERS} <= set(found) for found in times.values()):
        return Target(text, "not measured", False)
    ratios = {shape: found[CVXPYLAYERS] / found[OURS] for shape, found in times.items()}
    shown = "; ".join(f"{group_of(shape)}: {ratio:.0f}x" for shape, ratio in ratios.items())
    return Target(text, shown, min(ratios.values()) >= _ASKED_CVXPYLAYERS)


def _exactness(records: Sequence[Record]) -> Sequence[Target]:
    known = [r["extra"] | r for r in records if "median_error" in r["extra"]]
    ours = [r for r in known if r["method"] == OURS]
    others = list(dict.fromkeys(r["method"] for r in known if r["peer"]))

    def worst(name: str, method: str = OURS) -> float:
        # JSON has no infinity: an error that is no number was written as null.
        found = [r[name] for r in known if r["method"] == method]
        return max((float("inf") if e is None else e for e in found), default=float("inf"))

    unsolved = sum(r["outcome"] != "solved" for r in ours) + sum(
        r["outcome"] == "failed" and r["method"] == OURS for r in records
    )
    above, silent = (sum(r[name] for r in ours) for name in ("above", "above_unflagged"))
    shown = "; ".join(
        f"{method}: {worst('median_error', method):.0e}, {worst('largest_error', method):.0e}"
        for method in others
    )
    return (
        Target(
            f"median error of gradients at most {_ASKED_MEDIAN:g} in every batch",
            f"{worst('median_error'):.1e}",
            worst("median_error") <= _ASKED_MEDIAN,
        ),
        Target(
            f"largest error at most {ASKED_ERROR:g} where no active row is about to change",
            f"{worst('largest_error'):.1e}",
            worst("largest_error") <= ASKED_ERROR,
        ),
        Target(
            f"every error above {ASKED_ERROR:g} is flagged in the report",
            f"{above - silent} of {above}, over {sum(r['instances'] for r in ours)} gradients"
            + (f"; {unsolved} measurements were not solved" if unsolved else ""),
            bool(ours) and silent == unsolved == 0,
        ),
        Target("the peers' errors are shown: worst median, largest", shown or "none ran", True),
    )


def _compiling(records: Sequence[Record]) -> Target:
    def found(method: str) -> tuple[float, float] | None:
        name = f"{COMPILING}, n = {_ASKED_N}"
        mine = [r for r in records if (r["instance"], r["method"]) == (name, method)]
        mine = [r for r in mine if r["outcome"] == "solved"]
        if not mine:
            return None
        return median(r["seconds"] for r in mine), median(r["extra"]["megabytes"] for r in mine)

    shown = {m: found(m) for m in (OURS, CVXPYLAYERS)}
    ours = shown[OURS]
    return Target(
        f"a QP of {_ASKED_N} variables with all data as parameters compiles in "
        f"{_ASKED_SECONDS:g} s and {_ASKED_MEGABYTES:g} MB",
        "; ".join(f"{m} {one[0]:.2g} s, {one[1]:.0f} MB" for m, one in shown.items() if one),
        ours is not None and ours[0] <= _ASKED_SECONDS and ours[1] <= _ASKED_MEGABYTES,
    )


def _promises(records: Sequence[Record]) -> Sequence[Target]:
    beside = [r for r in records if r["group"] == NEIGHBOURS]
    checked = [r for r in records if r["group"] == CHECKED]
    kept = sum(r["outcome"] == "solved" for r in beside)
    errors: dict[str, float] = {}
    for r in checked:
        error = r["extra"].get("error")
        error = float("inf") if error is None else error
        errors[r["instance"]] = max(errors.get(r["instance"], 0.0), error)
    return (
        Target(
            "three instances beside an infeasible one keep values and gradients bit for bit",
            f"{kept} of {len(beside)} batches",
            kept == len(beside) > 0,
        ),
        Target(
            f"gradients match finite differences of full re-solves to {ASKED_ERROR:g}",
            ", ".join(f"{name} {error:.0e}" for name, error in errors.items()),
            bool(errors) and max(errors.values()) <= ASKED_ERROR,
        ),
    )
