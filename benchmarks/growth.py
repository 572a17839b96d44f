"""Curves of time and nodes against size, one line per method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.case import Record


def draw_growth(records: Sequence[Record], file: Path) -> Path | None:
    """Draw medians over the instances of each size; hollow where a limit was met.

    A measurement that was not solved counts with its whole time, so its median is a lower bound.
    ``None`` without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    sizes = list(dict.fromkeys(r["group"] for r in records))
    methods = list(dict.fromkeys(r["method"] for r in records))
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    for axis, name in zip(figure.subplots(1, 2), ("seconds", "nodes"), strict=True):
        for number, method in enumerate(methods):
            places, heights, full = [], [], []
            for place, size in enumerate(sizes):
                found = [r for r in records if (r["group"], r["method"]) == (size, method)]
                values = [_value(r, name) for r in found if r["outcome"] != "refused"]
                known = [value for value in values if value is not None]
                if not known:
                    continue
                places.append(place)
                heights.append(median(known))
                full.append(all(r["outcome"] == "solved" for r in found))
            colour = f"C{number}"
            style = "--" if any(r["peer"] for r in records if r["method"] == method) else "-"
            axis.plot(places, heights, style, color=colour, label=method)
            for place, height, solved in zip(places, heights, full, strict=True):
                axis.plot(place, height, "o", color=colour, mfc=colour if solved else "white")
        axis.set(yscale="log", ylabel=name)
        axis.set_xticks(range(len(sizes)), sizes, rotation=45, fontsize=7)
        axis.grid(alpha=0.25)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120, metadata={"Software": None})
    return file


def _value(record: Record, name: str) -> float | None:
    if name == "seconds":
        return record["seconds"]
    # Solved without branching counts as one node.
    nodes = record["extra"].get("nodes")
    return None if nodes is None else max(nodes, 1)
