"""Solutions, certificates and tables as text or JSON on stdout."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bilevel.errors import BackendNotFound, ProblemError, UnsupportedProblem

if TYPE_CHECKING:
    from rich.console import Console

    from bilevel.problem.problem import Problem
    from bilevel.response.reaction_map.reaction_map import ReactionMap
    from bilevel.solution import Solution

_WIDTH_IN_FILES = 160
_LONGEST = 12


def console() -> Console:
    """Return a console on the present stdout; as wide as a table needs where it is no terminal."""
    from rich.console import Console

    out = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    if not out.is_terminal:
        out.width = _WIDTH_IN_FILES
    return out


def say(text: str) -> None:
    """Print text as it is, its lines unbroken."""
    print(text)


def say_json(content: dict[str, Any]) -> None:
    """Print one JSON object; numbers that are not finite become null."""
    say(json.dumps(_plain(content), indent=2, allow_nan=False, ensure_ascii=False))


def _plain(content: Any) -> Any:
    import numpy as np

    if isinstance(content, dict):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if isinstance(content, np.generic | np.ndarray):
        return _plain(content.tolist())
    if isinstance(content, float):
        return content + 0.0 if math.isfinite(content) else None  # no negative zeros
    return content


def say_solution(problem: Problem, solution: Solution) -> None:
    """Print a solution's summary and the values of its variables."""
    say(solution.summary())
    if not solution.values:
        return
    owners = {v.id: "leader" for v in problem.variables}
    for follower in problem.followers:
        owners |= {v.id: follower.name for v in follower.variables}
    named: dict[int, list[tuple[str, float]]] = {}
    for entry, (identity, place) in solution.entries.items():
        named.setdefault(identity, []).append((entry, solution.values[identity][place]))
    for name, identity in solution.names.items():
        mark = f"   ({owners[identity]})" if identity in owners else ""
        if identity not in named:
            say(f"{name:<18} {_short(solution.values[identity])}{mark}")
            continue
        entries = named[identity]
        if len(entries) > _LONGEST:
            nonzero = [(entry, value) for entry, value in entries if abs(value) > 1e-9]
            say(f"{name:<18} {len(entries)} entries, {len(nonzero)} not zero{mark}")
            entries = nonzero[:_LONGEST]
        for entry, value in entries:
            say(f"{entry:<18} {_short(value)}{mark}")


def _short(value: Any) -> str:
    import numpy as np

    array = np.asarray(value, float) + 0.0  # no negative zeros
    if not array.shape:
        return f"{array:.9g}"
    text = np.array2string(array, precision=6, suppress_small=True, threshold=_LONGEST, edgeitems=3)
    text = " ".join(text.split())
    if array.size > _LONGEST:
        text += f"   {array.size} entries, {np.count_nonzero(abs(array) > 1e-9)} not zero"
    return text


def save(figure: Any, path: Path) -> None:
    """Write a figure and say where, on stderr.

    Raises
    ------
    ProblemError
        If the file cannot be written.
    """
    try:
        figure.savefig(path)
    except OSError as error:
        raise ProblemError(f"The figure cannot be saved as {str(path)!r}: {error}") from error
    typer.echo(f"figure             {path}", err=True)


def methods_dict(problem: Problem | None) -> dict[str, Any]:
    """Return what ``say_methods`` prints, ready for JSON."""
    from bilevel.cli import methods
    from bilevel.solvers import Auto

    form = None if problem is None else problem.compile()
    found: dict[str, Any] = {"methods": methods.table(form)}
    if form is not None:
        found["structure"] = list(form.structure.sentences())
        try:
            choice = Auto().choose(form)
            found["auto"] = {"solver": str(choice.solver), "why": choice.reason}
        except UnsupportedProblem as error:
            found["auto"] = {"solver": None, "why": str(error)}
    found["backends"] = [{"name": name, "missing": missing} for name, missing in _backends()]
    return found


def say_methods(problem: Problem | None) -> None:
    """Print the table of methods; with a problem, what each says to it and what Auto chooses."""
    from bilevel.cli import methods
    from bilevel.solvers import Auto

    form = None if problem is None else problem.compile()
    if form is None:
        rows = methods.rows(None)
        _say_table(("method", "accepts", "needs", "claims", "settings"), rows)
        say("Written as --method NAME or --method NAME:SETTING=NUMBER,SETTING=NUMBER.")
    else:
        for sentence in form.structure.sentences():
            say(sentence)
        verdicts = [
            (name, "accepts" if accepted else "refuses", reason)
            for name, accepted, reason in methods.rows(form)
        ]
        _say_table(("method", "this problem", "why"), verdicts)
        try:
            choice = Auto().choose(form)
            say(f"auto chooses       {choice.solver}\nwhy                {choice.reason}")
        except UnsupportedProblem as error:
            say(f"auto chooses       nothing: {error}")
    for name, missing in _backends():
        say(f"backend {name:<10} {'installed' if missing is None else f'missing: {missing}'}")


def _backends() -> list[tuple[str, str | None]]:
    """Return each backend, and what to install where its package is missing."""
    from bilevel import backends

    found: list[tuple[str, str | None]] = []
    for name in backends.names():
        try:
            backends.get(name)
            found.append((name, None))
        except BackendNotFound as error:
            found.append((name, str(error)))
    return found


def say_reaction(found: ReactionMap) -> None:
    """Print a reaction map: its regions and the followers' response on each."""
    for line in found.summary().splitlines()[:3]:
        say(line)
    _say_table(("region", "followers' response"), found.rows())


def _say_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table(*titles, box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*row)
    console().print(table)
