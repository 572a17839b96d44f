"""Records to a page: what was printed, what was found, figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.statistics import latest

from experiments.case import Case, Expected, Record, expected

#: The committed page is the one of the standard size.
_COMMITTED = "standard"


def page(folder: Path, size: str) -> Path:
    """Return where the page of a size is written."""
    return folder / ("report.md" if size == _COMMITTED else f"report-{size}.md")


def write(
    paper: str, cases: Mapping[str, Case], size: str, records: Sequence[Record], folder: Path
) -> str:
    """Write the page of a paper at a size, with figures; return its text."""
    found = latest((r for r in records if r["size"] == size), ("case", "run"))
    parts = [
        f"# {paper} ({size})",
        f"Written by `python -m experiments run {paper} --size {size}`; README.md says what for.",
    ]
    # Cases with printed numbers first.
    for name, case in sorted(cases.items(), key=lambda pair: not expected(paper, pair[0]).runs):
        own = [r for r in found if r["case"] == name]
        order = {run.name: i for i, run in enumerate(case.runs(size))}
        own = sorted((r for r in own if r["run"] in order), key=lambda r: order[r["run"]])
        if own:
            parts += _section(paper, case, own, len(order), folder)
    if found:
        parts.append(_made_with(found))
    text = "\n\n".join(parts) + "\n"
    page(folder, size).parent.mkdir(parents=True, exist_ok=True)
    page(folder, size).write_text(text, encoding="utf-8")
    return text


def _section(
    paper: str, case: Case, records: Sequence[Record], wanted: int, folder: Path
) -> list[str]:
    printed = expected(paper, case.name)
    parts = [f"## {case.title}", case.claim]
    missing = wanted - len(records)
    if missing:
        parts.append(f"{missing} of {wanted} runs are still missing.")
    parts += [_verdict(printed, records), _table(case, printed, records)]
    good = [r for r in records if "error" not in r]
    parts += [f"![{case.title}]({file.name})" for file in case.figures(good, folder)]
    return [part for part in parts if part]


def comparisons(printed: Expected, record: Record) -> dict[str, tuple[float, Any, bool]]:
    """Return for each printed number of a run: expected, found, and whether they agree."""
    wanted, found = printed.runs.get(record["run"], {}), record["found"]
    return {
        name: (number, found.get(name), printed.agrees(number, found.get(name)))
        for name, number in wanted.items()
    }


def _verdict(printed: Expected, records: Sequence[Record]) -> str:
    pairs = [pair for record in records for pair in comparisons(printed, record).values()]
    if not pairs:
        return ""
    good = sum(agrees for *_, agrees in pairs)
    return (
        f"**{good} of {len(pairs)} printed numbers reproduced** ({printed.source}; tolerance "
        f"{printed.atol:g}{f' + {printed.rtol:g} |value|' if printed.rtol else ''})."
    )


def _table(case: Case, printed: Expected, records: Sequence[Record]) -> str:
    names = list(dict.fromkeys(n for r in records for n in printed.runs.get(r["run"], {})))
    heads = ["run", *case.columns, *(f"printed {name}" for name in names), "reproduced"]
    heads = heads if names else heads[:-1]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for record in records:
        pairs = comparisons(printed, record)
        cells = [record["run"], *(_cell(record["found"].get(name)) for name in case.columns)]
        if "error" in record:
            cells[1] = f"**{record['error']}**"
        cells += [_cell(pairs[name][0]) if name in pairs else "" for name in names]
        if names:
            good = all(agrees for *_, agrees in pairs.values())
            cells.append(("yes" if good else "**no**") if pairs else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}" if abs(value) > 5e-7 else "0"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def _made_with(records: Sequence[Record]) -> str:
    seen = dict.fromkeys(
        (
            r["machine"],
            r["commit"],
            ", ".join(f"{name} {text}" for name, text in r["versions"].items()),
        )
        for r in records
    )
    hours = sum(r["wall_seconds"] for r in records) / 3600
    lines = [f"Made on {m}, commit {commit}, with {versions}." for m, commit, versions in seen]
    return "\n".join([*lines, f"{len(records)} runs, {hours:.2f} hours in all."])
