"""The field's test libraries: every confirmed optimum of BASBLib and BOLIB, with a certificate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import bilevel as bl
from benchmarks.case import Case, Instance, Measurement, Method, Record, Target
from benchmarks.corpora import TOLERANCE, Listed, load, missing, to_problem
from benchmarks.measure import measure_solve
from benchmarks.methods import AUTO, EXACT, LOCAL

_ASKED = 0.5
_SMALL = 3


@dataclass(frozen=True, eq=False)
class Subject:
    """A listed problem and the same in CVXPY."""

    listed: Listed
    problem: bl.Problem


def _instances(size: str) -> Sequence[Instance]:
    found = load()
    if size == "small":
        groups = dict.fromkeys(listed.library for listed in found)
        found = [p for g in groups for p in [q for q in found if q.library == g][:_SMALL]]
    return [
        Instance(f"{p.library} {p.name}", lambda p=p: Subject(p, to_problem(p)), p.library)
        for p in found
    ]


def _method(name: str, solver: Any) -> Method:
    def run(subject: Subject, limit: float) -> Measurement:
        listed = subject.listed

        def judge(solution: bl.Solution) -> tuple[str, str]:
            return judge_listed(listed, solution)

        def extra(solution: bl.Solution) -> Mapping[str, Any]:
            return {
                "F_star": listed.F_star,
                "own_check": listed.own,
                "reference": listed.reference,
                "right": is_right(listed, solution),
                "better": is_better(listed, solution),
                "point": {name: solution[name] for name in solution.names},
            }

        return measure_solve(subject.problem, solver, limit, judge, extra)

    return Method(name, run)


def is_right(listed: Listed, solution: bl.Solution) -> bool:
    """Whether the certificate is accepted and the value is the reference, or better than both."""
    value, certificate = solution.leader_value, solution.certificate
    if value is None or certificate is None or not certificate.accepted:
        return False
    near = abs(value - listed.reference) <= TOLERANCE * max(1.0, abs(listed.reference))
    return near or is_better(listed, solution)


def is_better(listed: Listed, solution: bl.Solution) -> bool:
    """Whether an accepted certificate shows a value below both listed ones."""
    value, certificate = solution.leader_value, solution.certificate
    if value is None or certificate is None or not certificate.accepted:
        return False
    known = min(v for v in (listed.F_star, listed.own) if v is not None)
    return value < known - TOLERANCE * max(1.0, abs(known))


def judge_listed(listed: Listed, solution: bl.Solution) -> tuple[str, str]:
    """Return the outcome of a solution; the problems have an optimum, and minimize."""
    status, value, known = solution.status, solution.leader_value, listed.reference
    tolerance = TOLERANCE * max(1.0, abs(known))
    if status is bl.Status.FAILED:
        return "failed", ""
    if status.is_proved and not status.has_point:
        return "wrong", f"{status.name}, but {known:.9g} is listed."
    if is_better(listed, solution):
        return "solved", f"{value:.9g} is better than {listed.F_star:.9g} and {listed.own:.9g}."
    if solution.bound is not None and solution.bound > known + tolerance:
        return "wrong", f"bound {solution.bound:.9g}, but {known:.9g} is listed."
    if status is not bl.Status.OPTIMAL:
        return "unproved", ""
    if is_right(listed, solution):
        return "solved", ""
    return "wrong", f"OPTIMAL with {value:.9g}, but {known:.9g} is listed."


def _judge(records: Sequence[Record]) -> Sequence[Target]:
    ours = [r for r in records if r["method"] == AUTO]
    refused = {r["instance"]: r["note"] for r in ours if r["outcome"] == "refused"}
    taken = [r for r in ours if r["outcome"] != "refused"]
    names = dict.fromkeys(r["instance"] for r in taken)
    wrong = [
        name
        for name in names
        if not all(r["extra"].get("right") for r in taken if r["instance"] == name)
    ]
    seconds = median(r["seconds"] for r in taken) if taken else float("inf")
    slow = {
        name: middle
        for name in names
        if (middle := median(r["seconds"] for r in taken if r["instance"] == name)) >= _ASKED
    }
    better = {r["instance"]: r["note"] for r in taken if r["extra"].get("better")}
    return (
        Target(
            "every problem right, certificate accepted",
            f"{len(names) - len(wrong)} of {len(names)}" + _list(wrong),
            not wrong and bool(names),
        ),
        Target(
            f"median below {_ASKED:g} s",
            f"{seconds:.2f} s; longer: "
            + (", ".join(f"{name} {t:.2f} s" for name, t in slow.items()) or "none"),
            seconds < _ASKED,
        ),
        Target(
            "what is refused is named",
            "; ".join(f"{name}: {why}" for name, why in refused.items()) or "nothing is refused",
            True,
        ),
        Target(
            "better values than both listed are shown with their certificate",
            "; ".join(f"{name}: {why}" for name, why in better.items()) or "none was found",
            True,
        ),
    )


def _list(names: Sequence[str]) -> str:
    return f"; not {', '.join(names)}" if names else ""


CASE = Case(
    name="libraries",
    title="BASBLib and BOLIB",
    claim=(
        "All confirmed optima of BASBLib (LP-LP, LP-QP, QP-QP) and BOLIB (followers LP or convex "
        "QP) are found, |F - F*| <= 1e-4 max(1, |F*|), with an accepted certificate; the median "
        "time is below 0.5 s."
    ),
    instances=_instances,
    methods=tuple(_method(name, solver) for name, solver in (EXACT | LOCAL).items()),
    baseline=AUTO,
    time_limit=20.0,
    repeats=3,
    notes=(
        "The problems are read from their sources' expressions and written in CVXPY as they are "
        "printed; a leader's terms of degree three and four become products of auxiliary leader "
        "variables (`benchmarks/corpora.py`). Values are compared with the more precise of the "
        "library's value and the value of an independent multistart search: the listed one where "
        "both agree, otherwise the search's. A problem whose follower has curved constraints, or "
        "terms that are no polynomial, is refused and named. Times include compiling and the "
        "certificate."
    ),
    judge=_judge,
    missing=missing,
)
