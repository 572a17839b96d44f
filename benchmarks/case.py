"""What a case is: problems, methods, and the number they must reach."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SIZES = ("small", "full")

#: How a measurement ends, from best to worst. ``solved``: a claim that is complete and true.
#: ``refused``: the method says that it is not valid here. ``unproved``: nothing false is claimed,
#: but the answer is not complete. ``failed``: an error, a crash, or an answer that its own check
#: rejected. ``wrong``: a claim that is not true.
OUTCOMES = ("solved", "refused", "unproved", "failed", "wrong")


@dataclass(frozen=True)
class Measurement:
    """What one method did with one instance.

    ``seconds`` is what is compared; ``None`` leaves it to the harness's wall clock.
    """

    outcome: str
    status: str = ""
    value: float | None = None
    bound: float | None = None
    seconds: float | None = None
    certificate: Mapping[str, Any] | None = None
    note: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome must be one of {OUTCOMES}, not {self.outcome!r}")


@dataclass(frozen=True)
class Instance:
    """One problem; ``build`` makes a fresh one for every measurement, outside the measured time."""

    name: str
    build: Callable[[], Any] = field(repr=False)
    group: str = ""
    time_limit: float | None = None


@dataclass(frozen=True)
class Method:
    """``run(built instance, time limit in seconds)``; ``groups`` are those it applies to."""

    name: str
    run: Callable[[Any, float], Measurement] = field(repr=False)
    peer: bool = False
    groups: frozenset[str] | None = None

    def applies(self, instance: Instance) -> bool:
        return self.groups is None or instance.group in self.groups


@dataclass(frozen=True)
class Target:
    """A number to reach, and what was found."""

    text: str
    found: str
    reached: bool


Record = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One benchmark.

    ``baseline`` names the method that times are compared with; ``judge`` turns the records of one
    size into targets, and ``draw`` makes a figure of its own of them. ``missing`` says why the case
    cannot run here; it is then left out.
    """

    name: str
    title: str
    claim: str
    instances: Callable[[str], Sequence[Instance]] = field(repr=False)
    methods: Sequence[Method] = field(repr=False)
    baseline: str
    time_limit: float
    repeats: int = 3
    notes: str = ""
    judge: Callable[[Sequence[Record]], Sequence[Target]] = field(
        default=lambda records: (), repr=False
    )
    draw: Callable[[Sequence[Record], Path], Path | None] | None = field(default=None, repr=False)
    missing: Callable[[], str] = field(default=lambda: "", repr=False)


def discover(package: str, attribute: str = "CASE") -> dict[str, Any]:
    """Return the object of each module of a package that holds one, by its name."""
    parent = importlib.import_module(package)
    found = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(parent.__path__)):
        case = getattr(importlib.import_module(f"{package}.{module}"), attribute, None)
        if case is None:
            continue
        if case.name in found:
            raise ValueError(f"two cases of {package} are called {case.name!r}")
        found[case.name] = case
    return found


def all_cases() -> dict[str, Case]:
    """Return every case in ``benchmarks/cases``."""
    return discover("benchmarks.cases")
