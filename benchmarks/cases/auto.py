"""Whether ``Auto`` takes the fastest exact method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import bilevel as bl
from benchmarks import corpora
from benchmarks.case import Case, Instance, Measurement, Method, Record, Target
from benchmarks.families import LPLP_SIZES, OPPOSED_SIZES, QP_SIZES, bilevel_qp, lplp, opposed_qp
from benchmarks.generators import FAMILIES, draw
from benchmarks.measure import measure_solve
from benchmarks.methods import AUTO, ENCODINGS, EXACT
from benchmarks.modelling import to_problem
from benchmarks.statistics import rows
from benchmarks.strains import make_design

#: ``Auto`` is as fast as the best if it takes at most this factor, or this many seconds more.
FACTOR, SECONDS = 1.2, 0.02
_ASKED = 0.9
_COUNTS = {"small": 1, "full": 8}


def _instances(size: str) -> Sequence[Instance]:
    count = _COUNTS[size]
    makers = [(bilevel_qp, QP_SIZES), (opposed_qp, OPPOSED_SIZES[:5]), (lplp, LPLP_SIZES[:2])]
    found = [
        Instance(f"{family} {k:03d}", lambda f=family, k=k: to_problem(draw(f, k)), "random")
        for family in FAMILIES
        for k in range(count)
    ]
    for make, sizes in makers:
        for shape in sizes[:count]:
            name = f"{make.__name__} {'x'.join(map(str, shape))}"
            found += [
                Instance(f"{name} {k}", lambda m=make, s=shape, k=k: to_problem(m(*s, k)), "sized")
                for k in range(max(1, count // 4))
            ]
    if not corpora.missing():
        found += [
            Instance(f"{p.library} {p.name}", lambda p=p: corpora.to_problem(p), "libraries")
            for p in corpora.load()[: 2 if size == "small" else None]
        ]
    if size == "full":
        found += [
            Instance(
                f"{coupling} K={k}",
                lambda c=coupling, k=k: make_design(c, k).problem,
                "strain design",
                20.0,
            )
            for coupling in ("weak", "strong", "pessimistic")
            for k in (1, 2, 3)
        ]
    return found


def _method(name: str, solver: Any) -> Method:
    def run(problem: bl.Problem, limit: float) -> Measurement:
        def judge(solution: bl.Solution) -> tuple[str, str]:
            status = solution.status
            if status is bl.Status.FAILED:
                return "failed", ""
            return ("solved" if status.is_proved else "unproved"), ""

        def extra(solution: bl.Solution) -> Mapping[str, Any]:
            return {"method": solution.stats.method, "reason": solution.stats.reason}

        return measure_solve(problem, solver, limit, judge, extra)

    return Method(name, run)


def missed(records: Sequence[Record]) -> tuple[dict[str, str], int]:
    """Return where ``Auto`` was slower than the best, and how many problems count.

    A problem counts if some exact method proved its answer in every round.
    """
    table = rows([dict(r) | {"group": ""} for r in records])
    auto = next((row for row in table if row.method == AUTO), None)
    names = dict.fromkeys(name for row in table for name in row.seconds)
    lost = {}
    for name in names:
        best = min((row for row in table if name in row.seconds), key=lambda r: r.seconds[name])
        asked = max(FACTOR * best.seconds[name], best.seconds[name] + SECONDS)
        mine = None if auto is None else auto.seconds.get(name)
        if mine is None or mine > asked:
            took = "did not prove it" if mine is None else f"took {mine:.2f} s"
            lost[name] = f"{took}, {best.method} {best.seconds[name]:.2f} s"
    return lost, len(names)


def _judge(records: Sequence[Record]) -> Sequence[Target]:
    targets = []
    groups = list(dict.fromkeys(r["group"] for r in records))
    for group in (None, *groups):
        lost, count = missed([r for r in records if group in (None, r["group"])])
        share = 1.0 - len(lost) / count if count else 0.0
        shown = "; ".join(f"{name}: {text}" for name, text in list(lost.items())[:8])
        text = f"{share:.1%} of {count}" + (f"; not {shown}" if lost and group else "")
        where = "all benchmark problems" if group is None else group
        targets.append(
            Target(
                f"{where}: Auto is as fast as the fastest exact method on {_ASKED:.0%}",
                text,
                share >= _ASKED,
            )
        )
    return targets


CASE = Case(
    name="auto",
    title="The choice of Auto",
    claim="Auto chooses the fastest exact method on at least 90 % of the benchmark problems.",
    instances=_instances,
    methods=tuple(_method(name, solver) for name, solver in (EXACT | ENCODINGS).items()),
    baseline=AUTO,
    time_limit=10.0,
    repeats=3,
    notes=(
        "The problems are those of the other cases. Auto is as fast as the fastest if its median "
        "over the rounds is at most 1.2 times that of the best exact method, or 20 ms more: less "
        "is noise on a shared machine, and Auto's own choice costs time too. A problem counts if "
        "some method proved its answer in every round."
    ),
    judge=_judge,
)
