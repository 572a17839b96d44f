"""Minibatches at both levels: work until the deterministic solver's validation loss is reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.case import Case, Instance, Measurement, Method, Record, Target

if TYPE_CHECKING:
    from benchmarks.minibatch_data import Curve, Digits

DEFAULT, LOOSE = "HypergradientDescent", "descent, loose"
SOBA_SGD, SOBA_ADAM, SABA, STOCBIO = "SOBA (SGD)", "SOBA (Adam)", "SABA (Adam)", "stocBiO"
_OTHERS = (LOOSE, SOBA_SGD, SOBA_ADAM, SABA, STOCBIO)
_DRAWS = {"small": 1, "full": 3}
#: Points of a curve that a record keeps, about.
_KEPT = 60


def _instances(size: str) -> Sequence[Instance]:
    def build(seed: int) -> Callable[[], Digits]:
        def make() -> Digits:
            from benchmarks.minibatch_data import Digits

            digits = Digits.draw(size, seed)
            _ = digits.reference  # made once, outside the measured time of the others
            return digits

        return make

    return [Instance(f"cleaning, draw {seed}", build(seed)) for seed in range(_DRAWS[size])]


def _default(digits: Digits, limit: float) -> Measurement:
    del limit
    return measurement(digits.reference, digits.reference.values[-1])


def _run(name: str) -> Callable[[Digits, float], Measurement]:
    def run(digits: Digits, limit: float) -> Measurement:
        from benchmarks.minibatch_data import watch
        from benchmarks.minibatch_methods import method

        curve = watch(digits, method(name, digits), limit)
        return measurement(curve, digits.reference.values[-1])

    return run


def measurement(curve: Curve, asked: float) -> Measurement:
    """Return where a curve reaches a loss, and the curve."""
    k = curve.first(asked)
    step = len(curve.values) // _KEPT + 1
    extra: dict[str, Any] = {
        "asked": asked,
        "curve": [
            [round(p, 3), v]
            for p, v in zip(curve.passes[::step], curve.values[::step], strict=True)
        ],
    }
    if k is None:
        return Measurement(
            "unproved", curve.status, min(curve.values), seconds=curve.seconds[-1],
            note=f"ended at {curve.values[-1]:.5g}, {asked:.5g} asked", extra=extra,
        )  # fmt: skip
    extra |= {
        "gradients": curve.gradients[k],
        "products": curve.products[k],
        "passes": curve.passes[k],
    }
    return Measurement(
        "solved", curve.status, curve.values[k], seconds=curve.seconds[k], extra=extra
    )


def _passes(records: Sequence[Record], method: str) -> dict[str, float]:
    return {
        r["instance"]: r["extra"]["passes"]
        for r in records
        if r["method"] == method and r["outcome"] == "solved"
    }


def judge_minibatch(records: Sequence[Record]) -> Sequence[Target]:
    """Return how many times less work each stochastic method needs than either descent."""
    found, draws = [], {r["instance"] for r in records}
    for method in (SOBA_SGD, SOBA_ADAM, SABA, STOCBIO):
        mine, texts, reached = _passes(records, method), [], True
        for rival in (DEFAULT, LOOSE):
            other = _passes(records, rival)
            ratios = [other[name] / mine[name] for name in mine if name in other]
            if not ratios:
                continue
            mean = float(np.exp(np.mean(np.log(ratios))))
            texts.append(f"{mean:.2g} times fewer than {rival} ({min(ratios):.2g} at least)")
            reached = reached and min(ratios) > 1
        missed = len(draws) - len(mine)
        texts += [f"{missed} of {len(draws)} draws not reached"] if missed else []
        text = f"{method} reaches the deterministic loss in fewer passes"
        found.append(Target(text, "; ".join(texts), reached and not missed))
    return found


def draw_minibatch(records: Sequence[Record], file: Path) -> Path | None:
    """Draw the validation loss over the work, all draws in one picture."""
    if find_spec("matplotlib") is None:
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    curves(records).savefig(file, dpi=120, metadata={"Software": None})
    return file


def curves(records: Sequence[Record]) -> Any:
    """Return the figure of the validation loss over the work."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axis, drawn = figure.subplots(), [r for r in records if "curve" in r["extra"]]
    for i, method in enumerate((DEFAULT, *_OTHERS)):
        for k, r in enumerate(one for one in drawn if one["method"] == method):
            passes, values = np.transpose(r["extra"]["curve"])
            axis.plot(
                np.maximum(passes, 1.0), values, color=colormaps["tab10"](i), lw=1.0, alpha=0.8,
                ls="--" if method in (DEFAULT, LOOSE) else "-", label=None if k else method,
            )  # fmt: skip
    for r in drawn:
        axis.axhline(r["extra"]["asked"], color="0.7", lw=0.6, zorder=0)
    axis.set(xscale="log", xlim=(1, None))
    axis.set_xlabel("gradients and products, in passes over the data", fontsize=8)
    axis.set_ylabel("validation loss at the follower's response", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.25)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=7)
    return figure


def _why_missing() -> str:
    for package, extra in (("torch", "torch"), ("sklearn", "dev")):
        if find_spec(package) is None:
            return f"{package} is not installed (extra `{extra}`)."
    return ""


CASE = Case(
    name="minibatch",
    title="Minibatches at both levels",
    claim=(
        "On handwritten digits, SOBA reaches the validation loss of the deterministic solver in "
        "fewer gradients and products, counted in passes over the data."
    ),
    instances=_instances,
    methods=(
        Method(DEFAULT, _default),
        *(Method(name, _run(name), name == STOCBIO) for name in _OTHERS),
    ),
    baseline=DEFAULT,
    time_limit=120.0,
    repeats=1,
    notes=(
        "Data hyper-cleaning: 40 % of 1,000 labels are wrong, each sample has a weight, 400 clean "
        "samples judge. The loss asked is that of `HypergradientDescent()` with its default "
        "tolerances and optimizer after 100 steps. What is looked at is `F(x, y(x))` with the "
        "follower's response computed afresh, for all methods alike; neither that nor a solve of "
        "the follower for the last `x`, which all need, is counted. A pass is a gradient of one of "
        "the objectives, or a product with a second derivative, over all of its samples; in time a "
        "product costs about twice a gradient, and the descents take most of them. `descent, "
        "loose` solves the follower to 1e-3 and its linear system to 1e-2, with SGD. The "
        "optimizers' steps are those of `RATE` in `minibatch_methods`; `python -m "
        "benchmarks.minibatch_methods` shows what three of each give on a draw that is not "
        "measured. Batches are 1/50 of either level's samples. "
        "stocBiO takes ten steps of the follower and ten terms of a Neumann series a step."
    ),
    judge=judge_minibatch,
    draw=draw_minibatch,
    missing=_why_missing,
)
