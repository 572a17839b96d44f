"""LP-LP by size: time, the share that is solved, first certified points and gaps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import median

from benchmarks.case import Case, Instance, Measurement, Method, Record, Target
from benchmarks.families import LPLP_SIZES, lplp
from benchmarks.gurobi import gurobi_sos1
from benchmarks.measure import Answer, answer_of, contradictions, measure_form
from benchmarks.methods import AUTO, EXACT, SOS1
from benchmarks.modelling import to_problem
from benchmarks.statistics import Row, rows
from bilevel.problem.standard import StandardForm

COUNTS = {"small": 1, "full": 20}
BRANCHING = "Branching"
_LIMITS = {LPLP_SIZES[0]: 10.0, LPLP_SIZES[1]: 10.0, LPLP_SIZES[2]: 20.0}
_QUICK = ", 1 s"


def _group(size: tuple[int, int, int, int]) -> str:
    return f"({','.join(map(str, size))})"


_EASY, _MIDDLE, _HARD = (_group(size) for size in LPLP_SIZES)


def _instances(size: str) -> Sequence[Instance]:
    def build(shape: tuple[int, int, int, int], k: int) -> StandardForm:
        return to_problem(lplp(*shape, k)).compile()

    shapes = LPLP_SIZES if size == "full" else LPLP_SIZES[:1]
    wanted = [(shape, _group(shape), _LIMITS[shape]) for shape in shapes]
    if size == "full":
        # A run of its own: an incumbent counts once its certificate is accepted.
        wanted.append((LPLP_SIZES[2], _HARD + _QUICK, 1.0))
    return [
        Instance(f"{group} {k}", lambda s=shape, k=k: build(s, k), group, limit)
        for shape, group, limit in wanted
        for k in range(COUNTS[size])
    ]


def _method(name: str, answer: Answer, peer: bool = False) -> Method:
    def run(form: StandardForm, limit: float) -> Measurement:
        return measure_form(form, answer, limit)

    return Method(name, run, peer)


def _judge(records: Sequence[Record]) -> Sequence[Target]:
    table = {(row.group, row.method): row for row in rows(records)}
    ours, scip = table.get((_EASY, BRANCHING)), table.get((_EASY, SOS1))
    ratio = None if ours is None or scip is None else ours.ratio(scip)
    middle = [_solved(table.get((_MIDDLE, method))) for method in (BRANCHING, SOS1)]
    quick = [r for r in records if r["group"] == _HARD + _QUICK and r["method"] == BRANCHING]
    certified = sum(bool((r["certificate"] or {}).get("accepted")) for r in quick)
    gaps = {method: _gap(records, method) for method in (BRANCHING, SOS1)}
    refuted = contradictions(records)
    return (
        Target(
            f"{_EASY}: {BRANCHING} as fast as SCIP's SOS1",
            "not measured" if ratio is None else f"{ratio:.2f}x its time",
            ratio is not None and ratio <= 1.0 and _solved(ours) >= _solved(scip),
        ),
        Target(
            f"{_MIDDLE}: solved at least as often as by SCIP's SOS1 in 10 s",
            f"{middle[0]} against {middle[1]}",
            0 < middle[1] <= middle[0],
        ),
        Target(
            f"{_HARD}: a certified incumbent within 1 s, always",
            f"{certified} of {len(quick)}",
            bool(quick) and certified == len(quick),
        ),
        Target(
            f"{_HARD}: the gap after 20 s, reported beside SCIP's",
            ", ".join(f"{method}: {text}" for method, text in gaps.items()),
            all(text != "none" for text in gaps.values()),
        ),
        Target(
            "no claim is refuted by another method's verified point",
            "; ".join([f"{len(refuted)} in {len(records)} measurements", *refuted[:5]]),
            not refuted,
        ),
    )


def _solved(row: Row | None) -> int:
    return 0 if row is None else row.count("solved")


def _gap(records: Sequence[Record], method: str) -> str:
    found = [r for r in records if (r["group"], r["method"]) == (_HARD, method)]
    gaps = [r["extra"]["gap"] for r in found if r["extra"].get("gap") is not None]
    if not found:
        return "none"
    middle = f"median {median(gaps):.1%}, largest {max(gaps):.1%}" if gaps else "no gap"
    return f"{middle}, {len(found) - len(gaps)} of {len(found)} without one"


CASE = Case(
    name="lplp",
    title="LP-LP",
    claim=(
        "Branching is as fast as SCIP's SOS1 on (5,8,8,0), solves at least as much of (10,15,15,5) "
        "in 10 s, and always has a certified incumbent of (20,30,30,10) within 1 s."
    ),
    instances=_instances,
    methods=(
        *(_method(name, answer_of(solver)) for name, solver in EXACT.items() if name != AUTO),
        _method("Gurobi SOS1", partial(gurobi_sos1, traced=True), True),
    ),
    baseline=SOS1,
    time_limit=10.0,
    repeats=1,
    notes=(
        "Sizes are (leader variables, follower variables, follower inequalities, follower "
        "equations); the follower's variables are also nonnegative, so that (5,8,8,0) has 16 "
        "complementarity conditions (`benchmarks/families.py`). Measured from the matrices, one "
        "thread; compiling and the certificate stand outside the measured time. A record keeps the "
        "trace of incumbents and bounds."
    ),
    judge=_judge,
)
