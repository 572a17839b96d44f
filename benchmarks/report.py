"""Records to a page: targets, tables, performance profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import OUTCOMES, Case, Record
from benchmarks.journal import read
from benchmarks.run import KEY
from benchmarks.statistics import Row, latest, profile, rows

_SHOWN_PROBLEMS = 12
_MOST_LISTED = 20


def write(files: Sequence[Path], cases: Mapping[str, Case], page: Path) -> str:
    """Write a page and its figures for the records of some files; return the page's text."""
    records = latest((r for file in files for r in read(file)), KEY)
    page.parent.mkdir(parents=True, exist_ok=True)
    parts = [
        "# Benchmarks",
        "Written by `python -m benchmarks report`. Times are wall-clock seconds, medians over "
        "rounds per instance and then over the instances that the method solved; ratios are "
        "geometric means over the instances that both solved. All methods of a case ran in one "
        "process, after each other on each instance, with equal thread counts.",
    ]
    order = {name: i for i, name in enumerate(cases)}
    records.sort(key=lambda r: (order.get(r["case"], len(order)), r["case"], r["size"]))
    for (name, size), found in groupby(records, key=lambda r: (r["case"], r["size"])):
        parts += _section(cases.get(name), name, size, list(found), page.parent)
    text = "\n\n".join(parts) + "\n"
    page.write_text(text, encoding="utf-8")
    return text


def _section(
    case: Case | None, name: str, size: str, records: Sequence[Record], folder: Path
) -> list[str]:
    parts = [f"## {case.title if case else name} (`{name}`, {size})"]
    if case is not None:
        parts.append(case.claim)
        if targets := _targets(case, size, records):
            parts.append(targets)
    table = rows(records)
    parts.append(_table(table, case.baseline if case else None))
    if len({r["instance"] for r in records}) <= _MOST_LISTED:
        parts.append(_by_instance(table))
    if problems := _problems(records):
        parts.append(problems)
    if figure := draw_profiles(table, folder / f"profile-{name}-{size}.png"):
        parts.append(f"![Performance profile]({figure.name})")
    if case is not None and case.draw is not None:
        own = case.draw(records, folder / f"figure-{name}-{size}.png")
        parts += [] if own is None else [f"![{case.title}]({own.name})"]
    if case is not None and case.notes:
        parts.append(case.notes)
    parts.append(_made_with(records))
    return parts


def _targets(case: Case, size: str, records: Sequence[Record]) -> str:
    if size != "full":
        return ""
    targets = case.judge(records)
    lines = [
        f"| {target.text} | {target.found} | {'yes' if target.reached else '**no**'} |"
        for target in targets
    ]
    return "\n".join(["| target | found | reached |", "|---|---|---|", *lines]) if lines else ""


def _table(table: Sequence[Row], baseline: str | None) -> str:
    grouped = len({row.group for row in table}) > 1
    heads = [*(["group"] if grouped else []), "method", *OUTCOMES, "median s"]
    heads += [f"time / {baseline}"] if baseline else []
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    reference = {row.group: row for row in table if row.method == baseline}
    for row in table:
        cells = [row.group] if grouped else []
        cells.append(f"{row.method} (peer)" if row.peer else row.method)
        cells += [_count(row, outcome) for outcome in OUTCOMES]
        cells.append(_number(row.median))
        if baseline:
            other = reference.get(row.group)
            cells.append(_number(None if other is None else row.ratio(other)))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _count(row: Row, outcome: str) -> str:
    count = row.count(outcome)
    return f"**{count}**" if count and outcome in ("wrong", "failed") else str(count)


def _by_instance(table: Sequence[Row]) -> str:
    """Each instance's median seconds, or how it ended; one table per group."""
    parts = []
    for group, found in groupby(table, key=lambda row: row.group):
        methods = list(found)
        heads = [group or "instance", *(row.method for row in methods)]
        lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for name in dict.fromkeys(name for row in methods for name in row.outcomes):
            cells = [_ending(row, name) for row in methods]
            lines.append("| " + " | ".join([name, *cells]) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _ending(row: Row, name: str) -> str:
    if name in row.seconds:
        return f"{row.seconds[name]:.3g} s"
    return row.outcomes.get(name, "")


def _problems(records: Sequence[Record]) -> str:
    """Wrong and failed measurements of the library, one line each."""
    bad = [r for r in records if r["outcome"] in ("wrong", "failed") and not r["peer"]]
    lines = [
        f"- {r['outcome']}: {r['instance']}, {r['method']}, round {r['round']}: "
        f"{r['status']} {r['note']}"
        for r in bad[:_SHOWN_PROBLEMS]
    ]
    if len(bad) > _SHOWN_PROBLEMS:
        lines.append(f"- and {len(bad) - _SHOWN_PROBLEMS} more")
    return "\n".join(lines)


def draw_profiles(table: Sequence[Row], file: Path) -> Path | None:
    """Draw a performance profile per group; failures count. ``None`` without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    groups = [(name, list(found)) for name, found in groupby(table, key=lambda row: row.group)]
    # Groups of one instance have no profile worth a panel each.
    if all(len(row.outcomes) == 1 for row in table):
        return None
    columns = min(len(groups), 3)
    lines = -(-len(groups) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * lines), layout="constrained")
    axes = np.ravel(figure.subplots(lines, columns, squeeze=False))
    colours = _colours(table)
    for axis, (name, found) in zip(axes, groups, strict=False):
        _draw(axis, name, found, colours)
    for axis in axes[len(groups) :]:
        axis.set_visible(False)
    figure.legend(*_legend(axes[: len(groups)]), loc="outside lower center", ncols=3, fontsize=7)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120, metadata={"Software": None})
    return file


def _draw(axis: Any, name: str, found: Sequence[Row], colours: Mapping[str, Any]) -> None:
    curves = profile(found)
    last = max([10.0, *(ratios[-1] for ratios, _ in curves.values() if len(ratios))])
    for row in found:
        ratios, count = curves[row.method]
        x = np.concatenate([[1.0], ratios, [last]])
        y = np.append(np.arange(len(ratios) + 1), len(ratios)) / count
        line = {"ls": "--" if row.peer else "-", "lw": 1.3, "drawstyle": "steps-post"}
        axis.plot(x, y, color=colours[row.method], label=row.method, **line)
    axis.set(xscale="log", xlim=(1.0, last), ylim=(0.0, 1.02), title=name)
    axis.set_xlabel("time / best time", fontsize=8)
    axis.set_ylabel("share of instances solved", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.25)


def _colours(table: Sequence[Row]) -> dict[str, Any]:
    from matplotlib import colormaps

    methods = list(dict.fromkeys(row.method for row in table))
    palette = colormaps["tab20"]
    return {method: palette(i % 20) for i, method in enumerate(methods)}


def _legend(axes: Sequence[Any]) -> tuple[list[Any], list[str]]:
    found = {}
    for axis in axes:
        for handle, text in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(text, handle)
    return list(found.values()), list(found)


def _made_with(records: Sequence[Record]) -> str:
    seen = dict.fromkeys(
        (
            r["machine"],
            r["threads"],
            r["commit"],
            ", ".join(f"{name} {text}" for name, text in r["versions"].items()),
        )
        for r in records
    )
    days = sorted({r["when"][:10] for r in records})
    lines = [
        f"Measured on {machine}, {threads} thread(s), commit {commit}, with {versions}."
        for machine, threads, commit, versions in seen
    ]
    return "\n".join([*lines, f"{len(records)} measurements, {' to '.join({days[0], days[-1]})}."])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
