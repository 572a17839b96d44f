"""Table 1 and figure 2(b): controllers trained under attack, and what attacks then cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from bilevel.learning import FitStatus, fit
from experiments.bigrad.game import ATTACKS, Controller, Systems, systems
from experiments.case import Case, Record, Run

#: How each controller is trained: under which attack.
_TRAINED = {"OptNet": "two-step", "Bilevel": "game"}
#: Seeds, trajectories to train on, trajectories to judge by, horizon, gradient steps.
_SIZES = {
    "small": (2, 2, 2, 3, (1, 2)),
    "standard": (10, 8, 64, 20, (10, 30)),
    "paper": (10, 64, 512, 20, (10, 30)),
}
#: Chosen on seeds 100 to 104, which nothing else uses.
_RATE = 0.1

_Weights = dict[str, Tensor]


def _made(size: str) -> tuple[Systems, Tensor]:
    seeds, trajectories, _, horizon, _ = _SIZES[size]
    given = systems(tuple(range(seeds)))
    return given, given.noise(trajectories, 0, horizon)


@cache
def trained(size: str, name: str) -> tuple[Mapping[int, _Weights], np.ndarray]:
    """Return a controller's weights after 10 and 30 steps, and its costs (steps, seeds).

    All seeds are trained at once. Their losses are added and plain gradient descent moves each
    weight by its own derivative, so that no seed changes another's path.
    """
    given, noise = _made(size)
    controller, curve, weights = Controller(given), [], {}

    def loss(model: torch.nn.Module, noise: Tensor) -> Tensor:
        costs = model(noise, _TRAINED[name]).mean(0)
        curve.append(costs.detach().numpy())
        return costs.sum()

    with TemporaryDirectory() as folder:
        for steps in _SIZES[size][4]:
            history = fit(
                controller, loss, noise,
                optimizer=lambda parameters: torch.optim.SGD(parameters, lr=_RATE),
                epochs=steps, batch_size=len(noise), checkpoint=folder, progress=False,
            )  # fmt: skip
            if history.status is not FitStatus.COMPLETED:
                raise RuntimeError(f"training ended with {history.status.name}: {history.note}")
            weights[steps] = {k: v.clone() for k, v in controller.state_dict().items()}
    return weights, np.array(curve)


@cache
def costs(size: str, name: str, steps: int, attack: str) -> np.ndarray:
    """Return a controller's average cost for each seed, on noise that no training has seen.

    The noise is the same for all controllers and attacks.
    """
    (given, _), (_, _, trajectories, horizon, _) = _made(size), _SIZES[size]
    controller = Controller(given, saturates=name == "LQR")
    if steps:
        controller.load_state_dict(trained(size, name)[0][steps])
    with torch.no_grad():
        return controller(given.noise(trajectories, 1, horizon), attack).mean(0).numpy()


def _cost(size: str, name: str, steps: int) -> Mapping[str, Any]:
    found = {attack: costs(size, name, steps, attack) for attack in ATTACKS}
    own = found[_TRAINED.get(name, "game")]
    line = {"steps": steps, "own attack": float(own.mean())}
    for attack, values in found.items():
        line[attack] = float(values.mean())
        line[f"{attack} deviation"] = float(values.std(ddof=1))
        line[f"{attack} costs"] = values.tolist()
    if steps == max(_SIZES[size][4]):
        line["curve"] = trained(size, name)[1].tolist()
    return line


def _difference(size: str, first: tuple[str, int], second: tuple[str, int]) -> Mapping[str, Any]:
    """Compare two controllers seed by seed; negative: the first one costs less."""
    line: dict[str, Any] = {}
    for attack in ATTACKS:
        one, other = (costs(size, *who, attack) for who in (first, second))
        line[attack] = float((one - other).mean())
        line[f"{attack} deviation"] = float((one - other).std(ddof=1))
        line[f"{attack} wins"] = int((one < other).sum())
        line[f"{attack} p"] = float(stats.wilcoxon(one, other).pvalue)
    return line


def _runs(size: str) -> Sequence[Run]:
    counts = _SIZES[size][4]
    single = [("LQR", 0), *((name, k) for k in counts for name in _TRAINED)]
    pairs = [(("Bilevel", k), ("OptNet", k)) for k in counts]
    pairs += [((name, k), ("LQR", 0)) for k in counts for name in _TRAINED]
    return [
        *(Run(_named(*who), lambda who=who: _cost(size, *who)) for who in single),
        *(
            Run(f"{_named(*a)} minus {b[0]}", lambda a=a, b=b: _difference(size, a, b))
            for a, b in pairs
        ),
    ]


def _named(name: str, steps: int) -> str:
    return f"{name}, {steps} steps" if steps else name


def _figures(records: Sequence[Record], folder: Path) -> Sequence[Path]:
    if not any("curve" in r["found"] for r in records):
        return ()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "training.png"
    curves(records).savefig(file, metadata={"Software": None})
    return (file,)


def curves(records: Sequence[Record]) -> Any:
    """Return the figure of the average cost during training.

    Each controller is under the attack that it is trained on.
    """
    from bilevel.plots.style import COLOURS, clean, figure_of

    shown = {r["run"].split(",")[0]: r["found"] for r in records if "curve" in r["found"]}
    figure = figure_of(figsize=(7.0, 3.2))
    panels = figure.subplots(1, 2)
    for colour, name in zip(COLOURS, _TRAINED, strict=False):
        if name not in shown:
            continue
        curve = np.array(shown[name]["curve"])
        for axes, values, label in (
            (panels[0], curve, "average cost"),
            (panels[1], curve / curve[0], "relative to the start"),
        ):
            steps, mean = np.arange(len(values)), values.mean(1)
            error = values.std(1, ddof=1) / np.sqrt(values.shape[1])
            axes.plot(steps, mean, color=colour, label=f"{name}, {_TRAINED[name]} attack")
            axes.fill_between(steps, mean - error, mean + error, color=colour, alpha=0.2, lw=0)
            axes.set(xlabel="gradient steps", ylabel=label)
            clean(axes)
    panels[0].legend(frameon=False, fontsize=8)
    return figure


CASE = Case(
    name="optimal_control",
    title="Optimal control with an adversary (table 1, figure 2b)",
    claim=(
        "Average cost over 20 steps, mean and standard deviation over random systems. The paper's "
        "claim: a controller that is trained through the game (Bilevel) costs less under attack "
        "than one trained against an adversary who looks at its first answer (OptNet), and that "
        "one less "
        "than saturated LQR. Rows with `minus` are paired differences, negative where the first "
        "costs less, with the seeds on which it does and Wilcoxon's p."
    ),
    runs=_runs,
    columns=(
        "own attack",
        "game",
        "game deviation",
        "two-step",
        "two-step deviation",
        "none",
        "none deviation",
        "game wins",
        "game p",
        "two-step wins",
        "two-step p",
    ),
    figures=_figures,
)
