"""Runs cases: round by round, all methods of an instance after each other, one JSON line each."""

from __future__ import annotations

import faulthandler
import gc
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.case import Case, Instance, Measurement, Method
from benchmarks.environment import describe, with_threads
from benchmarks.journal import Journal

KEY = ("case", "size", "instance", "method", "round")

# A solver that ignores its limit gets this much longer before its process is ended.
_PATIENCE, _GRACE_SECONDS = 3.0, 60.0


@dataclass(frozen=True)
class Job:
    """One measurement to make."""

    case: Case
    size: str
    instance: Instance
    method: Method
    round: int

    @property
    def limit(self) -> float:
        return self.instance.time_limit or self.case.time_limit

    @property
    def fields(self) -> dict[str, Any]:
        return {
            "case": self.case.name,
            "size": self.size,
            "group": self.instance.group,
            "instance": self.instance.name,
            "method": self.method.name,
            "peer": self.method.peer,
            "round": self.round,
        }


def plan(
    cases: Sequence[Case],
    size: str,
    repeats: int | None = None,
    part: tuple[int, int] = (1, 1),
) -> Iterator[Job]:
    """Yield all measurements, rounds outermost; each round begins with another method.

    ``part = (i, n)`` takes every ``n``-th instance, from the ``i``-th on.
    """
    first, step = part[0] - 1, part[1]
    for case in cases:
        if case.missing():
            continue
        instances = case.instances(size)[first::step]
        for number in range(case.repeats if repeats is None else repeats):
            turn = number % len(case.methods)
            methods = [*case.methods[turn:], *case.methods[:turn]]
            for instance in instances:
                for method in methods:
                    if method.applies(instance):
                        yield Job(case, size, instance, method, number)


def select(cases: Sequence[Case], methods: Sequence[str]) -> list[Case]:
    """Return the cases with some of their methods; a case that has none of them is left out.

    Parameters
    ----------
    cases
        The cases.
    methods
        Names of methods; ``"ours"`` stands for all that are not peers, ``"peers"`` for the others.
    """
    known = {method.name for case in cases for method in case.methods}
    if unknown := sorted(set(methods) - known - {"ours", "peers"}):
        words = ", ".join(["ours", "peers", *sorted(known)])
        raise ValueError(f"there is no method {', '.join(unknown)}; known: {words}")
    chosen = []
    for case in cases:
        kept = [
            method
            for method in case.methods
            if method.name in methods or ("peers" if method.peer else "ours") in methods
        ]
        if kept:
            chosen.append(replace(case, methods=kept))
    return chosen


def run(
    jobs: Sequence[Job],
    journal: Journal,
    *,
    threads: int = 1,
    watch: bool = False,
    progress: Callable[[Job], None] | None = None,
) -> int:
    """Make every measurement that the journal lacks; return how many were made.

    ``watch`` ends the process when a measurement ignores its time limit by far; ``supervise``
    starts it again.
    """
    made = 0
    bury(journal, threads)
    for job in jobs:
        if job.fields not in journal:
            journal.begin(job.fields)
            try:
                journal.add(record(job, measure(job, watch), threads))
            except KeyboardInterrupt:
                journal.end()
                raise
            made += 1
        if progress is not None:
            progress(job)
    return made


def bury(journal: Journal, threads: int) -> None:
    """Record the measurement that ended an earlier process, so that it is not tried again."""
    fields = journal.died()
    if fields is None:
        return
    ended = Measurement("failed", "CRASHED", note="The process ended during this measurement.")
    if fields not in journal:
        journal.add(_line(fields, ended, threads))
    journal.end()


def measure(job: Job, watch: bool = False) -> Measurement:
    """Make one measurement; whatever goes wrong becomes a failed one."""
    gc.collect()
    if watch:
        faulthandler.dump_traceback_later(_PATIENCE * job.limit + _GRACE_SECONDS, exit=True)
    try:
        subject = job.instance.build()
        began = time.perf_counter()
        measured = job.method.run(subject, job.limit)
        elapsed = time.perf_counter() - began
    except Exception as error:  # one bad instance must not cost the run
        return Measurement("failed", "ERROR", note=f"{type(error).__name__}: {error}"[:500])
    finally:
        if watch:
            faulthandler.cancel_dump_traceback_later()
    return measured if measured.seconds is not None else replace(measured, seconds=elapsed)


def record(job: Job, measured: Measurement, threads: int) -> dict[str, Any]:
    """Return one JSON line's content."""
    return _line(job.fields | {"time_limit": job.limit}, measured, threads)


def _line(fields: dict[str, Any], measured: Measurement, threads: int) -> dict[str, Any]:
    when = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "threads": threads}
    return fields | vars(measured) | when | describe()


def supervise(arguments: Sequence[str], output: Path, threads: int) -> int:
    """Run ``python -m benchmarks run ... --worker`` until it ends by itself; return its exit code.

    All methods share that one process, with the same number of threads. Should one of them take the
    process down, it is recorded as failed and a new process goes on behind it.
    """
    command = [sys.executable, "-m", "benchmarks", "run", *arguments, "--worker"]
    while True:
        try:
            code = subprocess.run(command, env=with_threads(threads), check=False).returncode
        except KeyboardInterrupt:
            Journal(output, KEY).end()
            return 130
        journal = Journal(output, KEY)
        if code == 0 or journal.died() is None:
            return code
        bury(journal, threads)
