"""The figures of docs/gallery.md, drawn by ``make.py`` from what the examples find."""

import contextlib
import io
import runpy
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bilevel.plots.style import COLOURS, DOTTED, GREY, clean, figure_of

BLUE, RED, GREEN = COLOURS[:3]
EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> dict:
    """Return what an example leaves behind."""
    sys.path.insert(0, str(EXAMPLES))  # as a script has it
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return runpy.run_path(str(EXAMPLES / f"{name}.py"))
    finally:
        sys.path.remove(str(EXAMPLES))


def pair() -> tuple[Figure, list]:
    """Return a figure with two panels."""
    figure = figure_of(figsize=(8.4, 3.4))
    axes = list(figure.subplots(1, 2))
    for each in axes:
        clean(each)
    return figure, axes


def one_weight_per_feature() -> Figure:
    """Return the weights of ridge regression, and what they gain and lose."""
    found = example("07_one_weight_per_feature")
    figure, (left, right) = pair()
    names = ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]
    weights = found["ridge"].many.x.numpy() / np.log(10)
    left.axhline(found["ridge"].one.x[0] / np.log(10), color=GREY, label="one common weight")
    left.plot(names, weights, "o", color=BLUE, label="one each")
    left.set_ylabel("weight, power of ten")
    left.set_title("Ridge regression, diabetes", loc="left", fontsize=10)
    left.legend(frameon=False, fontsize=9)
    cases = [found["ridge"], found["cancer"]]
    ratios = np.array(
        [(c.many.leader_value / c.one.leader_value, c.test[1] / c.test[0]) for c in cases]
    )
    places = np.arange(2)
    right.bar(places - 0.2, ratios[:, 0], 0.38, color=BLUE, label="validation")
    right.bar(places + 0.2, ratios[:, 1], 0.38, color=RED, label="test")
    right.axhline(1, color=GREY, linestyle=DOTTED)
    right.set_xticks(places, ["ridge, diabetes", "logistic, breast cancer"])
    right.set_ylabel("loss, one common weight = 1")
    right.set_title("What more weights gain", loc="left", fontsize=10)
    right.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def lasso() -> Figure:
    """Return the coefficients over the weight with their kinks, and the validation loss."""
    import torch  # figures of other pages need none

    found = example("08_lasso_kink")
    figure, (left, right) = pair()
    layer, best = found["layers"][1], float(np.exp(found["found"].x[0]))
    axis = np.geomspace(2e-3, 0.65, 200)
    left.plot(axis, layer(torch.tensor(axis))[0].numpy(), color=BLUE, linewidth=1.2)
    for kink in found["kinks"]:
        left.axvline(kink, color=GREY, linewidth=0.8, linestyle=DOTTED)
    left.set_ylabel("coefficients")
    left.set_title("Answers; dotted: kinks", loc="left", fontsize=10)
    losses = [found["validation"](np.log([weight]))[0] for weight in axis]
    right.plot(axis, losses, color=BLUE, linewidth=1.6)
    right.plot([best], [found["found"].fun], "o", color=RED, label="tuned")
    right.set_ylabel("validation loss")
    right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlim(axis[0], axis[-1])
        axes.set_xlabel("weight")
    return figure


def clean_labels() -> Figure:
    """Return the weights of right and wrong labels, and what they bring."""
    found = example("09_clean_labels")
    figure, (left, right) = pair()
    wrong, bins = found["wrong"], np.linspace(0, 1, 21)
    parts = [found["weights"][~wrong], found["weights"][wrong]]
    left.hist(parts, bins, color=[BLUE, RED], label=["right label", "wrong label"])
    left.set_xlabel("weight of a sample")
    left.set_ylabel("samples")
    left.legend(frameon=False, fontsize=9, loc="upper center")
    names, shares = zip(*found["found"].items(), strict=True)
    colours = [RED if name == "weighted" else BLUE for name in names]
    right.barh(names, shares, color=colours)
    right.bar_label(right.containers[0], fmt="%.3f", padding=3, fontsize=9)
    right.set_xlim(0.5, 1.05)
    right.invert_yaxis()
    right.grid(visible=False)
    right.set_xlabel("test accuracy")
    return figure


def denoising() -> Figure:
    """Return three digits with noise and without, and the stiffness of a bar."""
    found = example("10_denoising")
    figure = figure_of(figsize=(8.4, 3.4))
    left, right = figure.subfigures(1, 2)
    rows = {
        "clean": found["clean"][found["judged"]],
        "noisy": found["noisy"][found["judged"]],
        "denoised": found["denoised"],
    }
    grid = left.subplots(3, 5)
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(line, images[:5], strict=True):
            axes.imshow(image.detach().reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
        line[0].set_ylabel(name, fontsize=9)
    axes = right.subplots()
    clean(axes)
    parts = np.arange(41)
    axes.stairs(found["direct"], parts, color=GREY, label="differences of displacements")
    axes.stairs(found["stiffness"], parts, color=BLUE, linewidth=2.4, label="true")
    axes.stairs(found["found"], parts, color=RED, linewidth=1.4, label="total variation")
    axes.set_ylim(0, 6.5)
    axes.set_xlabel("spring")
    axes.set_ylabel("stiffness")
    axes.legend(frameon=False, fontsize=9)
    return figure


def consolidation() -> Figure:
    """Return what five tasks in sequence leave of each, and on average."""
    found = example("11_consolidation")
    figure, (left, right) = pair()
    names, pairs = list(found["right"]), ["0, 1", "2, 3", "4, 5", "6, 7", "8, 9"]
    shown = {"no penalty": GREY, "one weight": BLUE, "a weight each": RED}
    for name, colour in shown.items():
        left.plot(pairs, found["right"][name], "o-", color=colour, label=name)
    left.set_xlabel("task, in the order of training")
    left.set_ylabel("test accuracy at the end")
    left.legend(frameon=False, fontsize=9, loc="lower right")
    colours = [shown.get(name, GREEN) for name in names]
    right.barh(names, [np.mean(found["right"][name]) for name in names], color=colours)
    right.bar_label(right.containers[0], fmt="%.3f", padding=3, fontsize=9)
    right.set_xlim(0.5, 1.05)
    right.invert_yaxis()
    right.grid(visible=False)
    right.set_xlabel("test accuracy, mean over the tasks")
    return figure


def price_from_demand() -> Figure:
    """Return the demand that was measured, and what training on profit gains where."""
    found = example("14_price_from_demand")
    figure, (left, right) = pair()
    base, rows = found["base"].numpy(), np.arange(len(found["eco"]))
    for start, demand, colour in zip(base, found["measured"](rows), COLOURS, strict=False):
        label = f"regular apples ${start:.2f}"
        left.plot(start + 0.2 * np.arange(3), demand, "o-", color=colour, label=label)
    left.set_ylim(0, 3)
    left.set_xlabel("price of ecolabelled apples")
    left.set_ylabel("pounds per household")
    left.legend(frameon=False, fontsize=9)
    places = np.arange(len(found["costs"]))
    right.bar(places - 0.2, 100 * found["gains"][0], 0.38, color=BLUE, label="those learned from")
    right.bar(places + 0.2, 100 * found["gains"][1], 0.38, color=RED, label="the other half")
    right.axhline(0, color=GREY, linewidth=0.8)
    right.set_xticks(places, [f"${cost:.2f}" for cost in found["costs"].tolist()])
    right.set_xlabel("cost of a pound")
    right.set_ylabel("gain in profit, cents per household")
    right.legend(frameon=False, fontsize=9)
    return figure


def few_shots() -> Figure:
    """Return samples of a task, and how well each start adapts."""
    found = example("12_few_shots")
    figure = figure_of(figsize=(8.4, 3.4))
    left, right = figure.subfigures(1, 2)
    grid = left.subplots(3, 5)
    for line, rows in zip(grid, found["judged"][1][0], strict=True):
        for axes, row in zip(line, rows[:5], strict=True):
            axes.imshow(found["X"][row].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
    grid[0, 0].set_title("shown", fontsize=9)
    grid[0, 2].set_title("to be told apart", fontsize=9)
    axes = right.subplots()
    clean(axes)
    names, shares = list(found["right"]), np.array(list(found["right"].values()))
    places = np.arange(len(names))
    for shift, column, colour, label in ((-0.2, 0, BLUE, "digits seen"), (0.2, 1, RED, "others")):
        bars = axes.bar(places + shift, shares[:, column], 0.38, color=colour, label=label)
        axes.bar_label(bars, fmt="%.2f", fontsize=9)
    axes.axhline(1 / 3, color=GREY, linestyle=DOTTED)
    axes.set_xticks(places, [name.replace(" ", "\n") for name in names])
    axes.set_ylim(0, 1.2)
    axes.set_ylabel("accuracy; dotted: by chance")
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper center")
    return figure


def suppression() -> Figure:
    """Return the boxes kept in two scenes by one threshold and by learned ones, and these."""
    found = example("13_suppression")
    test, limits, right = found["test"], found["limits"], found["right"]
    figure = figure_of(figsize=(8.4, 3.8))
    left, right_part = figure.subfigures(1, 2, width_ratios=[1.15, 1])
    grid = left.subplots(2, 2)
    gain = right["by content"] - right["one threshold"]
    for line, kind in zip(grid, (test.digits <= 6, test.digits > 6), strict=True):
        rows = np.flatnonzero(kind)
        row = rows[np.argsort(gain[rows].numpy(), kind="stable")[3 * len(rows) // 4]]
        for axes, name in zip(line, ("one threshold", "by content"), strict=True):
            cut = found["cuts"](test.iou[row], limits[name][row], 0)
            kept = ((found["suppressed"](cut) * test.real[row]) > 0).numpy()
            axes.imshow(test.canvas[row], cmap="gray_r", vmin=0, vmax=1.4)
            for down, across in test.boxes[row][kept]:
                corner = (across - 0.5, down - 0.5)
                axes.add_patch(Rectangle(corner, 8, 8, fill=False, edgecolor=RED, linewidth=1))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(
                f"{name}, {limits[name][row]:.2f}: {kept.sum()} kept of {test.digits[row]} digits",
                fontsize=7.5,
            )
    axes = right_part.subplots()
    clean(axes)
    ink = (test.canvas > 0.3).mean((1, 2))
    for kind, colour, label in (
        (test.digits <= 6, BLUE, "sparse"),
        (test.digits > 6, RED, "crowded"),
    ):
        axes.plot(ink[kind], limits["by content"][kind], ".", color=colour, label=label)
    axes.axhline(limits["one threshold"][0], color=GREY, label="one threshold")
    axes.set_xlabel("share of dark pixels in the scene")
    axes.set_ylabel("threshold")
    axes.legend(frameon=False, fontsize=9)
    return figure


FIGURES = {
    "gallery-weights": one_weight_per_feature,
    "gallery-lasso": lasso,
    "gallery-labels": clean_labels,
    "gallery-denoising": denoising,
    "gallery-consolidation": consolidation,
    "gallery-shots": few_shots,
    "gallery-suppression": suppression,
    "gallery-price": price_from_demand,
}
