"""Figures of reaction maps: what followers answer, and what is left for the leader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bilevel.errors import ProblemError
from bilevel.plots.style import COLOURS, DOTTED, GREY, clean, figure_of
from bilevel.structure import Stance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bilevel.response.reaction_map.reaction_map import ReactionMap, Region

_PER_REGION = 40
_PER_SIDE = 41
_BESIDE = 1e-6
# So that answers are seen where they coincide.
_DASHES = ("-", (0, (4, 2)), (0, (1, 1)))


def reaction(
    found: ReactionMap,
    *,
    mark: Sequence[float] | None = None,
    span: tuple[float, float] | None = None,
    label: str = "Leader's value",
) -> Figure:
    """Return a figure of a reaction map and of the leader's reduced objective.

    Parameters
    ----------
    found
        What ``bl.reaction`` returned, over one or two parameters.
    mark
        Parameters to mark, such as those of a solution, shape ``(d,)``.
    span
        First and last parameter to show, where there is one parameter; the domain, or a margin
        around the kinks, if left out.
    label
        Name of the leader's value, with its unit.

    Returns
    -------
    matplotlib.figure.Figure
        Over one parameter: the answers above the reduced objective, kinks dotted, several best
        answers as a bar. At the latter the filled dot is the optimistic value, the circle the
        pessimistic one. In the plane: the regions beside the reduced objective.

    Raises
    ------
    BackendNotFound
        If matplotlib is not installed.
    ProblemError
        If the map has no parameter.

    Notes
    -----
    Where the leader's constraints fail for the answer, no value is drawn.

    Examples
    --------
    >>> import bilevel as bl
    >>> from bilevel import plots
    >>> figure = plots.reaction(
    ...     bl.reaction(bl.instances.get("T2").problem), mark=[2.0]
    ... )
    >>> print(len(figure.axes))
    2
    """
    if not found.parameters:
        raise ProblemError("A reaction map without parameters is one answer: nothing to draw.")
    if len(found.parameters) == 1:
        return _over_line(found, mark, span or _window(found), label)
    return _over_plane(found, mark, label)


def _over_line(
    found: ReactionMap, mark: Sequence[float] | None, span: tuple[float, float], label: str
) -> Figure:
    figure = figure_of(figsize=(6.4, 5.4))
    above, below = figure.subplots(2, 1, sharex=True)
    low, high = span
    for axes in (above, below):
        clean(axes)
        for kink in found.kinks:
            axes.axvline(kink.corners[0, 0], color="black", linewidth=0.9, linestyle=DOTTED)
    names = dict(enumerate(found.answers))  # each goes to one line only
    for region in found.regions:
        first, last = _inner(region, low, high)
        if last <= first:
            continue
        _answers(above, found, np.linspace(first, last, 2), names)
        _values(below, found, np.linspace(first, last, _PER_REGION))
    for part in found.set_valued:
        if part.dimension == 0 and low <= part.corners[0, 0] <= high:
            _tie(above, below, found, part)
    if mark is not None:
        value = found.leader_value(mark)
        below.plot(mark[0], value, "o", color=COLOURS[1], markersize=7, zorder=5, clip_on=False)
    above.set_ylabel("Answer")
    below.set_ylabel(label)
    below.set_xlabel(found.parameters[0])
    below.set_xlim(low, high)
    if len(found.answers) > 1:
        figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def _window(found: ReactionMap) -> tuple[float, float]:
    """Return what is shown of a line: the domain, or a margin around the kinks."""
    low = float(found.domain.min())
    high = float(found.domain.max())
    ends = [end for r in found.regions for end in r.corners.ravel() if np.isfinite(end)] or [0.0]
    margin = max(1.0, 0.75 * (max(ends) - min(ends)))
    return (
        low if np.isfinite(low) else min(ends) - margin,
        high if np.isfinite(high) else max(ends) + margin,
    )


def _inner(region: Region, low: float, high: float) -> tuple[float, float]:
    """Return the ends of a region as shown, not quite at its border, where answers may jump."""
    first = max(low, region.corners.min())
    last = min(high, region.corners.max())
    room = _BESIDE * (last - first)
    return first + room, last - room


def _answers(axes: Any, found: ReactionMap, grid: np.ndarray, names: dict[int, str]) -> None:
    ranges = np.array([found.ranges([t]) for t in grid])
    for i in range(len(found.answers)):
        colour = COLOURS[i % len(COLOURS)]
        low, high = ranges[:, :, i].T
        if np.isfinite([low, high]).all() and (high - low > 1e-9).any():
            axes.fill_between(grid, low, high, color=colour, alpha=0.2, lw=0)
        for end in (low, high):
            style = {"color": colour, "linestyle": _DASHES[i % len(_DASHES)], "linewidth": 1.8}
            axes.plot(grid, end, label=names.pop(i, None), **style)


def _values(axes: Any, found: ReactionMap, grid: np.ndarray) -> None:
    best = [found.leader_value([t]) for t in grid]
    axes.plot(grid, best, color=COLOURS[0], linewidth=1.8)
    if found.set_valued:
        worst = [found.leader_value([t], Stance.PESSIMISTIC) for t in grid]
        if not np.allclose(best, worst, equal_nan=True):
            axes.plot(grid, worst, color=COLOURS[1], linewidth=1.8, linestyle=(0, (4, 1.5)))


def _tie(above: Any, below: Any, found: ReactionMap, part: Region) -> None:
    theta = part.corners[0]
    for i, (low, high) in enumerate(zip(*found.ranges(theta), strict=True)):
        above.plot([theta[0]] * 2, [low, high], color=COLOURS[i % len(COLOURS)], linewidth=3.5)
    dot = {"marker": "o", "color": COLOURS[0], "markersize": 6, "zorder": 4, "clip_on": False}
    below.plot(theta[0], found.leader_value(theta, Stance.PESSIMISTIC), mfc="white", **dot)
    below.plot(theta[0], found.leader_value(theta), **dot)


def _over_plane(found: ReactionMap, mark: Sequence[float] | None, label: str) -> Figure:
    figure = figure_of(figsize=(9.6, 4.2))
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    for i, region in enumerate(found.regions):
        hatch = None if region.is_unique else "///"
        colour = COLOURS[i % len(COLOURS)]
        left.fill(*region.corners.T, facecolor=colour, alpha=0.25, hatch=hatch, linewidth=0)
    for kink in found.kinks:
        left.plot(*kink.corners.T, color="black", linewidth=1.0)
    for part in found.set_valued:
        if part.dimension < 2:
            style = {"color": COLOURS[1], "linewidth": 3.0, "marker": "o", "markersize": 4}
            left.plot(*part.corners.T, **style)
    (low, high), (bottom, top) = np.array([found.domain.min(axis=0), found.domain.max(axis=0)]).T
    x = np.linspace(low, high, _PER_SIDE)
    y = np.linspace(bottom, top, _PER_SIDE)
    values = np.array([[_value(found, np.array([a, b])) for a in x] for b in y])
    if np.isfinite(values).sum() > 1:
        filled = right.contourf(x, y, np.ma.masked_invalid(values), levels=16, cmap="cividis")
        figure.colorbar(filled, ax=right, label=label)
    for kink in found.kinks:
        right.plot(*kink.corners.T, color="white", linewidth=0.8)
    if mark is not None:
        right.plot(*mark, "o", color=COLOURS[1], markersize=7, zorder=5, clip_on=False)
    left.set_ylabel(found.parameters[1])
    for axes in (left, right):
        axes.set_xlabel(found.parameters[0])
        axes.spines[["top", "right"]].set_color(GREY)
    left.set_title(f"{len(found)} regions", loc="left", fontsize=11)
    return figure


def _value(found: ReactionMap, theta: np.ndarray) -> float:
    try:
        return found.leader_value(theta)
    except ProblemError:  # beside the domain
        return np.nan
