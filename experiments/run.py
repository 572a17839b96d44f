"""Does the runs that are missing and records each as one JSON line."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.environment import describe
from benchmarks.journal import Journal

from experiments.case import Case, Run

# A run that ended in an error counts as missing: its key holds the error.
KEY = ("paper", "case", "size", "run", "error")


@dataclass(frozen=True)
class Job:
    """One run of a case."""

    paper: str
    case: Case
    size: str
    run: Run

    @property
    def fields(self) -> dict[str, str]:
        return {
            "paper": self.paper,
            "case": self.case.name,
            "size": self.size,
            "run": self.run.name,
        }


def plan(paper: str, cases: Sequence[Case], size: str) -> list[Job]:
    """Return all runs of some cases."""
    return [Job(paper, case, size, run) for case in cases for run in case.runs(size)]


def journal(folder: Path, size: str) -> Journal:
    """Return the records of a size; each size has its own file."""
    return Journal(folder / f"results-{size}.jsonl", KEY)


def run(
    jobs: Sequence[Job], records: Journal, progress: Callable[[Job], None] | None = None
) -> int:
    """Do what the journal lacks; return how many runs failed."""
    failed = 0
    for job in jobs:
        if progress is not None:
            progress(job)
        if job.fields in records:
            continue
        began, found, error = time.perf_counter(), {}, None
        try:
            found = dict(job.run.measure())
        except Exception as trouble:  # the other runs go on
            error, failed = f"{type(trouble).__name__}: {trouble}"[:500], failed + 1
        seconds = {"wall_seconds": time.perf_counter() - began}
        when = {"when": datetime.now(UTC).isoformat(timespec="seconds")}
        ending = {} if error is None else {"error": error}
        records.add(job.fields | {"found": found} | seconds | ending | when | describe())
    return failed
