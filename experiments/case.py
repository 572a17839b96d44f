"""What an experiment is: runs at three sizes, printed numbers to compare with, figures."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.case import discover

ROOT = Path(__file__).parent

#: ``small``: minutes, run by the tests. ``standard``: what two cores do in at most two hours; its
#: results and report are committed. ``paper``: the printed settings.
SIZES = ("small", "standard", "paper")

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One resumable piece of work; ``measure`` returns what is to be recorded."""

    name: str
    measure: Callable[[], Mapping[str, Any]] = field(repr=False)


@dataclass(frozen=True)
class Case:
    """One table or figure of a paper.

    ``runs`` gives the work at a size, ``columns`` the recorded fields that its table shows,
    ``figures`` writes figures into a folder from the records and returns their files.
    """

    name: str
    title: str
    claim: str
    runs: Callable[[str], Sequence[Run]] = field(repr=False)
    columns: Sequence[str]
    figures: Callable[[Sequence[Record], Path], Sequence[Path]] = field(
        default=lambda records, folder: (), repr=False
    )


@dataclass(frozen=True)
class Expected:
    """The printed numbers of a case: by run, then by recorded field."""

    source: str = ""
    atol: float = 0.0
    rtol: float = 0.0
    runs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def agrees(self, expected: float, found: Any) -> bool:
        """Whether a recorded number is the printed one, up to the printed digits."""
        if not isinstance(found, (int, float)):
            return False
        return abs(found - expected) <= self.atol + self.rtol * abs(expected)


def papers() -> tuple[str, ...]:
    """Return the names of all papers: the folders that hold printed numbers."""
    return tuple(sorted(file.parent.name for file in ROOT.glob("*/expected.toml")))


def cases(paper: str) -> dict[str, Case]:
    """Return the cases of a paper, one per module of its folder."""
    return discover(f"experiments.{paper}")


def expected(paper: str, case: str) -> Expected:
    """Return the printed numbers of a case; none if its paper prints none."""
    with (ROOT / paper / "expected.toml").open("rb") as file:
        return Expected(**tomllib.load(file).get(case, {}))
