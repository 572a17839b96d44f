"""Figures of reaction maps: how followers respond, and what is left for the leader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cvxpy as cp
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
# Neighbours differ in both, so that responses are seen where they coincide.
_DASHES = ("-", (0, (4, 2)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
_STYLES = len(COLOURS) * len(_DASHES)


def reaction(
    found: ReactionMap,
    *,
    variables: Sequence[cp.Variable | str] | cp.Variable | str | None = None,
    mark: Sequence[float] | None = None,
    span: tuple[float, float] | None = None,
    label: str = "Leader's value",
) -> Figure:
    """Return a figure of a reaction map and of the leader's reduced objective.

    Parameters
    ----------
    found
        What ``bl.reaction`` returned, over one or two parameters.
    variables
        Which of the followers' responses to draw over one parameter: variables, their names, or
        names of entries such as ``"y[2]"``. All if left out.
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
        Over one parameter: the responses above the reduced objective, kinks dotted, several best
        responses as a bar. At the latter the filled dot is the optimistic value, the circle the
        pessimistic one. In the plane: the regions beside the reduced objective.

    Raises
    ------
    BackendNotFound
        If matplotlib is not installed.
    ProblemError
        If the map has no parameter, nothing of it lies in the span, a variable is none of the
        followers', or there are more responses than styles to tell them apart (24).

    Notes
    -----
    Where the leader's constraints fail for the response, no value is drawn; where they fail for
    every response shown, the figure says so.

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
        raise ProblemError("A reaction map without parameters is one response: nothing to draw.")
    if len(found.parameters) == 1:
        return _over_line(found, _chosen(found, variables), mark, _span(found, span), label)
    for name, given in (("variables", variables), ("span", span)):
        if given is not None:
            raise ProblemError(
                f"{name} belongs to a figure over one parameter; this map has two "
                f"({', '.join(found.parameters)}). Leave it out."
            )
    return _over_plane(found, mark, label)


def _chosen(found: ReactionMap, variables: Any) -> dict[int, str]:
    """Return the places of the responses to draw, with their names."""
    responses = found.responses
    listed = [variables] if isinstance(variables, (str, cp.Variable)) else variables
    chosen: list[int] = list(range(len(responses))) if listed is None else []
    for one in () if listed is None else listed:
        if not isinstance(one, (str, cp.Variable)):
            raise ProblemError(
                f"variables must hold CVXPY variables or their names, not objects of type "
                f"{type(one).__name__}."
            )
        name = one if isinstance(one, str) else one.name()
        entries = getattr(one, "entries", ())
        own = [
            i
            for i, response in enumerate(responses)
            if response == name or response.startswith(f"{name}[") or response in entries
        ]
        if not own:
            raise ProblemError(
                f"{name} is none of the followers' responses, which are: {', '.join(responses)}."
            )
        chosen += own
    places = dict.fromkeys(chosen)
    if not places:
        raise ProblemError("Nothing can be drawn: variables names no response.")
    if len(places) > _STYLES:
        raise ProblemError(
            f"{len(places)} responses cannot be told apart in one figure, which has {_STYLES} "
            f"styles of lines; choose some, such as variables=[{responses[0]!r}]."
        )
    return {i: responses[i] for i in places}


def _span(found: ReactionMap, span: tuple[float, float] | None) -> tuple[float, float]:
    """Return what is shown of a line, checked."""
    low, high = _window(found) if span is None else span
    if not (np.isfinite([low, high]).all() and low < high):
        raise ProblemError("span must be two finite numbers, the first below the second.")
    if not any(np.less(*_inner(region, low, high)) for region in found.regions):
        raise ProblemError(
            f"Nothing can be drawn for {found.parameters[0]} between {low:.6g} and {high:.6g}: the "
            f"map covers {found.domain.min():.6g} to {found.domain.max():.6g}."
            if found.regions
            else "Nothing can be drawn: the map has no region, so the followers have no best "
            "response to any decision, or to single ones only."
        )
    return float(low), float(high)


def _over_line(
    found: ReactionMap,
    chosen: dict[int, str],
    mark: Sequence[float] | None,
    span: tuple[float, float],
    label: str,
) -> Figure:
    figure = figure_of(figsize=(6.4, 5.4))
    above, below = figure.subplots(2, 1, sharex=True)
    low, high = span
    for axes in (above, below):
        clean(axes)
        for kink in found.kinks:
            axes.axvline(kink.corners[0, 0], color="black", linewidth=0.9, linestyle=DOTTED)
    styles = {i: _style(k) for k, i in enumerate(chosen)}
    names = dict(chosen)  # each goes to one line only
    has_values = False
    for region in found.regions:
        first, last = _inner(region, low, high)
        if last <= first:
            continue
        _answers(above, found, np.linspace(first, last, 2), styles, names)
        has_values |= _values(below, found, np.linspace(first, last, _PER_REGION))
    for part in found.set_valued:
        if part.dimension == 0 and low <= part.corners[0, 0] <= high:
            has_values |= _tie(above, below, found, part, styles)
    if not has_values:
        _say(below)
    if mark is not None:
        value = found.leader_value(mark)
        below.plot(mark[0], value, "o", color=COLOURS[1], markersize=7, zorder=5, clip_on=False)
    above.set_ylabel("Answer")
    below.set_ylabel(label)
    below.set_xlabel(found.parameters[0])
    below.set_xlim(low, high)
    if len(chosen) > 1 or len(found.responses) > 1:
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
    """Return the ends of a region as shown, not quite at its border, where responses may jump."""
    first = max(low, region.corners.min())
    last = min(high, region.corners.max())
    room = _BESIDE * (last - first)
    return first + room, last - room


def _style(k: int) -> dict[str, Any]:
    """Return the style of curve ``k``: at each round through the colours the dashes move on."""
    turn, colour = divmod(k, len(COLOURS))
    dashes = _DASHES[(colour - turn) % len(_DASHES)]
    return {"color": COLOURS[colour], "linestyle": dashes, "linewidth": 1.8}


def _say(axes: Any) -> None:
    """Write into a panel without values why there are none."""
    text = "no value: the leader's constraints\nfail for every response shown"
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set_yticks([])


def _answers(
    axes: Any,
    found: ReactionMap,
    grid: np.ndarray,
    styles: dict[int, dict[str, Any]],
    names: dict[int, str],
) -> None:
    ranges = np.array([found.ranges([t]) for t in grid])
    for i, style in styles.items():
        low, high = ranges[:, :, i].T
        if np.isfinite([low, high]).all() and (high - low > 1e-9).any():
            axes.fill_between(grid, low, high, color=style["color"], alpha=0.2, lw=0)
        for end in (low, high):
            axes.plot(grid, end, label=names.pop(i, None), **style)


def _values(axes: Any, found: ReactionMap, grid: np.ndarray) -> bool:
    """Draw the leader's values; return whether there are any."""
    best = [found.leader_value([t]) for t in grid]
    axes.plot(grid, best, color=COLOURS[0], linewidth=1.8)
    if found.set_valued:
        worst = [found.leader_value([t], Stance.PESSIMISTIC) for t in grid]
        if not np.allclose(best, worst, equal_nan=True):
            axes.plot(grid, worst, color=COLOURS[1], linewidth=1.8, linestyle=(0, (4, 1.5)))
    return bool(np.isfinite(best).any())


def _tie(
    above: Any, below: Any, found: ReactionMap, part: Region, styles: dict[int, dict[str, Any]]
) -> bool:
    """Draw several best responses as a bar and both values; return whether there is a value."""
    theta = part.corners[0]
    low, high = found.ranges(theta)
    for i, style in styles.items():
        above.plot([theta[0]] * 2, [low[i], high[i]], color=style["color"], linewidth=3.5)
    dot = {"marker": "o", "color": COLOURS[0], "markersize": 6, "zorder": 4, "clip_on": False}
    best = found.leader_value(theta)
    below.plot(theta[0], found.leader_value(theta, Stance.PESSIMISTIC), mfc="white", **dot)
    below.plot(theta[0], best, **dot)
    return bool(np.isfinite(best))


def _over_plane(found: ReactionMap, mark: Sequence[float] | None, label: str) -> Figure:
    if not found.regions:
        raise ProblemError(
            "Nothing can be drawn: the map has no region, so the followers have no best response "
            "to any decision, or along lines only."
        )
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
    else:
        _say(right)
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
