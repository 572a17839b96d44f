"""Figures of solutions and designs; matplotlib is loaded when the first one is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bilevel.errors import ProblemError
from bilevel.plots.style import COLOURS, DOTTED, GREY, clean, figure_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bilevel.applications.production import Envelope
    from bilevel.solution import Solution


def formats() -> tuple[str, ...]:
    """Return the endings of file names that a figure can be saved under.

    Raises
    ------
    BackendNotFound
        If matplotlib is not installed.

    Examples
    --------
    >>> from bilevel import plots
    >>> "png" in plots.formats(), "xlsx" in plots.formats()
    (True, False)
    """
    return tuple(sorted(figure_of().canvas.get_supported_filetypes()))


def convergence(solution: Solution, *, label: str = "Leader's value") -> Figure:
    """Return a figure of the best value so far and the proved bound over time.

    Parameters
    ----------
    solution
        What ``bl.solve`` returned; its ``stats.trace`` is drawn.
    label
        Name of the vertical axis, with its unit.

    Returns
    -------
    matplotlib.figure.Figure
        Save it by ``figure.savefig("convergence.png")``.

    Raises
    ------
    BackendNotFound
        If matplotlib is not installed.
    ProblemError
        If the solution has neither a value nor a bound at any time.

    Notes
    -----
    Where no bound is proved (bounds from the user, local methods), none is drawn. A problem that
    is solved before the backend reports anything gives two level lines.

    Examples
    --------
    >>> import bilevel as bl
    >>> from bilevel import plots
    >>> solution = bl.solve(bl.instances.get("T16").problem)
    >>> figure = plots.convergence(solution)
    >>> print(round(float(figure.axes[0].lines[0].get_ydata()[-1]), 3))
    10.125
    """
    seconds, incumbents, bounds = _history(solution)
    if np.isnan([incumbents, bounds]).all():
        raise ProblemError(
            f"Nothing can be drawn: the solution ({solution.status.name}) has neither a value nor "
            f"a bound."
        )
    figure = figure_of(figsize=(6.4, 3.8))
    axes = figure.add_subplot()
    clean(axes)
    style = {"drawstyle": "steps-post", "linewidth": 1.8}
    axes.plot(seconds, incumbents, color=COLOURS[0], label="best point so far", **style)
    if not np.isnan(bounds).all():
        dashed = style | {"linestyle": (0, (4, 1.5))}  # so that both are seen where they meet
        axes.plot(seconds, bounds, color=COLOURS[1], label="proved bound", **dashed)
    axes.fill_between(seconds, incumbents, bounds, step="post", color=GREY, alpha=0.18, lw=0)
    axes.plot(seconds[-1:], incumbents[-1:], "o", color=COLOURS[0], markersize=5, clip_on=False)
    axes.set_xlim(0.0, float(seconds[-1]) or 1.0)
    axes.set_xlabel("Time (s)")
    axes.set_ylabel(label)
    gap = "" if solution.gap is None else f", gap {solution.gap:.1g}"
    axes.set_title(f"{solution.status.name}{gap}", loc="right", fontsize=10)
    _keep_readable(axes)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def envelopes(
    strains: Mapping[str, Envelope],
    *,
    wild_type: Envelope | None = None,
    product: str = "product",
    growth_floor: float | None = None,
    panels: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """Return a figure of what strains can produce at each growth rate.

    Parameters
    ----------
    strains
        Production envelopes by the name to show.
    wild_type
        Drawn in grey behind the strains.
    product
        What is produced, for the vertical axis.
    growth_floor
        Least growth of a design, 1/h, drawn as a line: the guaranteed production of a strain is
        the lowest point of its envelope to the right of it.
    panels
        Title to names of strains, for panels side by side; all strains in one panel if left out.

    Returns
    -------
    matplotlib.figure.Figure
        A dot marks the most, a circle the least production at a strain's maximal growth.

    Raises
    ------
    BackendNotFound
        If matplotlib is not installed.
    ProblemError
        If there is no strain, or a panel names one that is not given.

    Examples
    --------
    >>> import numpy as np
    >>> from bilevel import plots
    >>> from bilevel.applications.production import Envelope
    >>> growth = np.linspace(0.0, 0.2, 3)
    >>> strain = Envelope(
    ...     growth, least=np.zeros(3), most=np.array([12.0, 9.0, 6.0])
    ... )
    >>> figure = plots.envelopes({"PYK": strain}, product="succinate")
    >>> print(len(figure.axes))
    1
    """
    shown = dict(panels) if panels is not None else {"": tuple(strains)}
    _check_panels(strains, shown)
    figure = figure_of(figsize=(1.8 + 3.4 * len(shown), 4.4))
    grid = figure.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)[0]
    colour = dict(zip(strains, _repeat(COLOURS, len(strains)), strict=True))
    for axes, (title, names) in zip(grid, shown.items(), strict=True):
        clean(axes)
        if wild_type is not None:
            _region(axes, wild_type, GREY, "wild type", alpha=0.15)
        for name in names:
            _region(axes, strains[name], colour[name], name, alpha=0.2)
        if growth_floor is not None:
            axes.axvline(growth_floor, color="black", linewidth=0.9, linestyle=DOTTED)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("Growth (1/h)")
    grid[0].locator_params(axis="x", nbins=5)
    grid[0].set_xlim(left=0.0)
    grid[0].set_ylim(bottom=0.0)
    grid[0].set_ylabel(f"Production of {product} (mmol/gDW/h)")
    entries = _legend(grid, growth_floor)
    figure.legend(*entries, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _history(solution: Solution) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return seconds, best values and bounds, the last being those of the solution."""
    trace = [*solution.stats.trace]
    last = max([solution.stats.solve_seconds, *(moment[0] for moment in trace)])
    trace.append((last, solution.leader_value, solution.bound))
    if len(trace) == 1:
        trace.insert(0, (0.0, *trace[0][1:]))
    seconds, incumbents, bounds = np.array(trace, float).T
    return seconds, incumbents, bounds


def _keep_readable(axes: Any) -> None:
    """Give a level line a scale that is not made of rounding errors."""
    low, high = axes.get_ylim()
    least = 1e-3 * max(1.0, abs(low), abs(high))
    if high - low < least:
        middle = 0.5 * (low + high)
        axes.set_ylim(middle - least, middle + least)
    axes.ticklabel_format(axis="y", useOffset=False)


def _region(axes: Any, envelope: Envelope, colour: str, name: str, alpha: float) -> None:
    growth = envelope.growth
    least = envelope.least
    most = envelope.most
    outline = np.concatenate([most, least[::-1], most[:1]])
    around = np.concatenate([growth, growth[::-1], growth[:1]])
    axes.fill_between(growth, least, most, color=colour, alpha=alpha, lw=0)
    axes.plot(around, outline, color=colour, linewidth=1.6, label=name, solid_joinstyle="round")
    ends = {"color": colour, "linestyle": "none", "marker": "o", "markersize": 6}
    ends |= {"zorder": 4, "clip_on": False}
    axes.plot(growth[-1:], most[-1:], **ends)
    axes.plot(growth[-1:], least[-1:], markerfacecolor="white", **ends)


def _legend(grid: Iterable[Any], growth_floor: float | None) -> tuple[list[Any], list[str]]:
    """Return a column of strains, each once, and a column of what the marks mean."""
    from matplotlib.lines import Line2D

    strains: dict[str, Any] = {}
    for axes in grid:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            strains.setdefault(name, handle)
    mark = {"color": "black", "marker": "o", "linestyle": "none", "markersize": 6}
    marks = [
        (Line2D([], [], **mark), "most at maximal growth (promised)"),
        (Line2D([], [], markerfacecolor="white", **mark), "least at maximal growth"),
    ]
    if growth_floor is not None:
        dotted = Line2D([], [], color="black", linewidth=0.9, linestyle=DOTTED)
        marks.append((dotted, f"growth floor, {growth_floor:g} /h"))
    # Columns are filled one after the other and are equally long.
    length = max(len(strains), len(marks))
    blank = (Line2D([], [], linestyle="none"), "")
    columns = [[(handle, name) for name, handle in strains.items()], marks]
    entries = [entry for c in columns for entry in c + [blank] * (length - len(c))]
    return [handle for handle, _ in entries], [name for _, name in entries]


def _check_panels(strains: Mapping[str, Any], panels: Mapping[str, Sequence[str]]) -> None:
    if not strains or not panels:
        raise ProblemError("A figure of production envelopes needs at least one strain to show.")
    for title, names in panels.items():
        if not names:
            raise ProblemError(f"Panel {title!r} names no strain, so it would be empty.")
        for name in names:
            if name not in strains:
                raise ProblemError(
                    f"Panel {title!r} shows strain {name!r}, of which there is no envelope; there "
                    f"are {list(strains)}."
                )


def _repeat(items: Sequence[str], count: int) -> list[str]:
    return [items[i % len(items)] for i in range(count)]
