"""No wrong claim, in numbers: 500 random problems of every class against enumeration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.case import Case, Instance, Record, Target
from benchmarks.cases.claims import build, ours
from benchmarks.generators import FAMILIES
from benchmarks.methods import AUTO, EXACT, LOCAL

PER_FAMILY = {"small": 4, "full": 500}


def _instances(size: str) -> Sequence[Instance]:
    return [
        Instance(f"{family} {number:03d}", lambda f=family, i=number: build(f, i), family)
        for family in FAMILIES
        for number in range(PER_FAMILY[size])
    ]


def _judge(records: Sequence[Record]) -> Sequence[Target]:
    targets = []
    for family in FAMILIES:
        found = [r for r in records if r["group"] == family and r["outcome"] != "refused"]
        wrong = Counter(r["method"] for r in found if r["outcome"] == "wrong")
        count = len({r["instance"] for r in found})
        text = f"{wrong.total()} in {len(found)} solves of {count} problems"
        text += f": {dict(wrong)}" if wrong else ""
        reached = not wrong and count >= PER_FAMILY["full"]
        targets.append(Target(f"{family}: no wrong claim on 500 problems", text, reached))
    return targets


CASE = Case(
    name="enumeration",
    title="500 problems per class against enumeration",
    claim="No method makes a wrong claim on 500 random problems of any class and stance.",
    instances=_instances,
    methods=tuple(ours(name, solver) for name, solver in (EXACT | LOCAL).items()),
    baseline=AUTO,
    time_limit=5.0,
    repeats=1,
    notes=(
        "The problems and the oracle are those of the case `claims`, which compares more encodings "
        "on fewer problems. The pessimistic class has binary leaders and linear followers, because "
        "the oracle enumerates decisions. `--part 1/2` and `--part 2/2`, each with an output of "
        "its own, share the work between two cores. The first run found two wrong claims: QP-QP "
        "360, UNBOUNDED by Branching on DAQP's word, and binary QP 162, OPTIMAL at 67.5 instead of "
        "48.5 by SCIP with costs of 1e5. Both are mended and regression tests; what was concerned "
        "(Auto and Branching on quadratic followers, SCIP on binary QPs) was measured again, as "
        "the commits of the rows tell."
    ),
    judge=_judge,
)
