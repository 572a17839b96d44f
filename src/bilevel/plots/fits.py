"""A figure of how well a fitted model predicts what was observed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bilevel.errors import ProblemError
from bilevel.plots.style import COLOURS, GREY, clean, figure_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def fit(
    observed: Any,
    predictions: Mapping[str, Any],
    names: Sequence[str],
    *,
    label: str = "value",
) -> Figure:
    """Return a figure of predicted against observed values, one panel per prediction.

    Parameters
    ----------
    observed
        Shape (observations, series).
    predictions
        Title to values of the same shape, such as those before and after fitting.
    names
        One per series.
    label
        What is observed, with its unit.

    Returns
    -------
    matplotlib.figure.Figure
        A perfect prediction lies on the diagonal; each title ends in the root of the mean squared
        difference.

    Raises
    ------
    BackendNotFound
        If matplotlib is not installed.
    ProblemError
        If there is no prediction, or shapes differ.

    Examples
    --------
    >>> from bilevel import plots
    >>> observed = [[1.0, 5.0], [2.0, 4.0]]
    >>> figure = plots.fit(
    ...     observed, {"start": [[2.0, 5.0], [2.0, 4.0]]}, ["coal", "gas"]
    ... )
    >>> print(figure.axes[0].get_title(loc="left"))
    start: off by 0.5
    """
    wanted = np.asarray(observed, float)
    if not predictions or wanted.ndim != 2 or wanted.shape[1] != len(names) or not wanted.size:
        raise ProblemError(
            f"A figure of a fit needs observations of shape (observations, {len(names)}), at "
            f"least one of them, and at least one prediction; the observations have shape "
            f"{wanted.shape}."
        )
    found = {title: np.asarray(values, float) for title, values in predictions.items()}
    for title, values in found.items():
        if values.shape != wanted.shape:
            raise ProblemError(
                f"Prediction {title!r} has shape {values.shape}, the observations {wanted.shape}."
            )
    figure = figure_of(figsize=(0.8 + 3.8 * len(found), 4.4))
    grid = figure.subplots(1, len(found), sharex=True, sharey=True, squeeze=False)[0]
    everything = np.concatenate([wanted, *found.values()])
    ends = [everything.min(), everything.max()]
    for axes, (title, values) in zip(grid, found.items(), strict=True):
        clean(axes)
        axes.plot(ends, ends, color=GREY, linewidth=0.9, zorder=1)
        for k, name in enumerate(names):
            colour = COLOURS[k % len(COLOURS)]
            style = {"color": colour, "linestyle": "none", "marker": "o", "markersize": 4}
            axes.plot(wanted[:, k], values[:, k], label=name, alpha=0.75, **style)
        error = np.sqrt(np.mean((values - wanted) ** 2))
        axes.set_title(f"{title}: off by {error:.3g}", loc="left", fontsize=11)
        axes.set_xlabel(f"Observed {label}")
    grid[0].set_ylabel(f"Predicted {label}")
    entries = grid[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure
