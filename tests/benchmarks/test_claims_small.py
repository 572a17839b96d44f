"""The oracle is right where the answer is known, and no method contradicts it."""

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.cases.claims import CASE
from benchmarks.generators import FAMILIES, RandomProblem, draw
from benchmarks.judgement import judge
from benchmarks.modelling import to_problem
from benchmarks.oracle import Truth, decide, truth
from benchmarks.peers import textbook_big_m
from benchmarks.run import measure, plan

PER_FAMILY = 5


def by_hand(A, B, b, q, c, lower, upper, **changes):
    """Return a problem with one leader and one follower variable and no leader rows."""
    column = [np.atleast_2d(v).T.astype(float) for v in (A, B)]
    m, flat = len(b), np.zeros((1, 1))
    problem = RandomProblem(
        "by hand",
        "LP-LP",
        (),
        np.array([False]),
        np.array([lower]),
        np.array([upper]),
        np.zeros((2, 2)),
        np.array(c, float),
        np.zeros((0, 2)),
        np.zeros(0),
        np.zeros(0, bool),
        flat,
        flat,
        np.array([q], float),
        *column,
        np.zeros((1, m, 1)),
        np.array(b, float),
        np.zeros(m, bool),
        np.ones(m),
        False,
        False,
        False,
    )
    return replace(problem, **changes)


def carrier():
    # min 3x + y; the follower maximizes y over x+y<=8, 4x+y>=8, 2x+y<=13, 2x<=7y: 8 at (0, 8).
    A, B, b = [1, -4, 2, 2], [1, -1, 1, -7], [8, -8, 13, 0]
    return by_hand(A, B, b, -1, (3, 1), 0.0, 5.0)


def steep(K):
    # min -x-y; the follower minimizes K y over y >= x, 0 <= y <= 10: (5, 5) for every K.
    return by_hand([1, 0, 0], [-1, -1, 1], [0, 0, 10], K, (-1, -1), 0.0, 5.0)


def test_the_oracle_knows_the_textbook():
    assert decide(carrier()).value == pytest.approx(8.0)
    assert decide(steep(3)).value == pytest.approx(-10.0)


def test_the_oracle_tells_why_there_is_no_solution():
    free = {"lower": np.array([-np.inf]), "upper": np.array([np.inf])}
    assert decide(replace(steep(1), **free)).claims == {"OPTIMAL"}  # y <= 10 bounds x
    open_ended = by_hand([1], [-1], [0], 1, (1, 0), -np.inf, 0.0)
    assert decide(open_ended).claims == {"UNBOUNDED"}
    empty = by_hand([0, 0], [1, -1], [0, -1], 1, (1, 0), 0.0, 1.0)
    assert decide(empty).claims == {"INFEASIBLE", "FOLLOWER_INFEASIBLE"}
    falling = by_hand([0], [1], [0], 1, (1, 0), 0.0, 1.0)
    assert decide(falling).claims == {"INFEASIBLE", "FOLLOWER_UNBOUNDED"}
    coupled = replace(steep(1), G=np.array([[1.0, -1.0]]), g=np.array([-1.0]))
    coupled = replace(coupled, g_equal=np.array([False]))
    assert decide(coupled).claims == {"INFEASIBLE"}


def test_the_pessimistic_oracle_takes_the_worst_answer():
    # The follower does not care about y in [0, 10]; the leader pays for it.
    careless = by_hand([0, 0], [-1, 1], [0, 10], 0, (0, 1), 0.0, 1.0)
    careless = replace(careless, binary=np.array([True]))
    assert decide(careless).value == pytest.approx(0.0)
    assert decide(replace(careless, pessimistic=True)).value == pytest.approx(10.0)


def test_the_textbook_errs_with_the_default_of_pao():
    # A multiplier of 100001 does not fit below M = 1e5: "optimal" at (0, 0), and no check of the
    # follower reveals it.
    assert textbook_big_m(steep(1), 1e5, 5.0).value == pytest.approx(-10.0)
    wrong = textbook_big_m(steep(100001), 1e5, 5.0)
    assert wrong.claim == "OPTIMAL"
    assert wrong.value == pytest.approx(0.0)
    # The same by other units of the follower's cost, which change no answer.
    scaled = replace(steep(1), cost_scale=100001.0)
    assert textbook_big_m(scaled, 1e5, 5.0).value == pytest.approx(0.0)
    assert decide(scaled).value == pytest.approx(-10.0)
    assert judge(decide(steep(100001)), 1.0, wrong.claim, wrong.value, None)[0] == "wrong"


@pytest.mark.parametrize(
    ("claim", "outcome"),
    [
        (("OPTIMAL", 5.0, 5.0), "solved"),
        (("OPTIMAL", 5.0, 5.0, False), "wrong"),
        (("OPTIMAL", 6.0, 6.0), "wrong"),
        (("FEASIBLE", 4.0, None), "unproved"),
        (("FEASIBLE", 4.0, 5.5), "unproved"),
        (("FEASIBLE", 4.0, 4.5), "wrong"),
        (("FEASIBLE", 6.0, None), "wrong"),
        (("INFEASIBLE", None, None), "wrong"),
        (("UNBOUNDED", None, None), "wrong"),
        (("NOT_FOUND", None, 4.0), "wrong"),
        (("NOT_FOUND", None, 7.0), "unproved"),
        (("FAILED", None, None), "failed"),
    ],
)
def test_claims_about_a_maximum_of_five(claim, outcome):
    known = Truth(frozenset({"OPTIMAL"}), 5.0, 0)
    assert judge(known, -1.0, *claim)[0] == outcome


@pytest.mark.parametrize(
    ("claims", "status", "bound", "outcome"),
    [
        ({"INFEASIBLE"}, "INFEASIBLE", None, "solved"),
        ({"INFEASIBLE"}, "FOLLOWER_INFEASIBLE", None, "wrong"),
        ({"INFEASIBLE"}, "FEASIBLE", None, "wrong"),
        ({"INFEASIBLE"}, "NOT_FOUND", 3.0, "unproved"),
        ({"UNBOUNDED"}, "UNBOUNDED", None, "solved"),
        ({"UNBOUNDED"}, "FEASIBLE", None, "unproved"),
        ({"UNBOUNDED"}, "OPTIMAL", 1.0, "wrong"),
        ({"UNBOUNDED"}, "INFEASIBLE", None, "wrong"),
    ],
)
def test_claims_where_there_is_no_optimum(claims, status, bound, outcome):
    value = 1.0 if status in ("OPTIMAL", "FEASIBLE") else None
    assert judge(Truth(frozenset(claims), None, 0), 1.0, status, value, bound)[0] == outcome


def test_random_problems_are_the_same_every_time():
    first, second = draw("binary QP", 7), draw("binary QP", 7)
    for name, value in vars(first).items():
        np.testing.assert_array_equal(value, getattr(second, name))


@pytest.mark.parametrize("family", FAMILIES)
def test_random_problems_have_variety(family):
    drawn = [draw(family, number) for number in range(72)]
    traits = {trait for p in drawn for trait in p.traits}
    wanted = {"follower equation", "coupling row", "duplicated row", "leader maximizes"}
    assert wanted | {"follower maximizes", "follower infeasible"} <= traits
    assert sum("plant" not in " ".join(p.traits) for p in drawn) >= 50
    assert all(to_problem(p).compile().n for p in drawn[:6])


QUICK = ("auto", "KKT SOS1 scip", "KKT BigM highs", "StrongDuality SOS1 scip", "user M too small")


def wrong_claims(family, number, methods):
    """Measure one small instance of a family; return wrong claims and how many solved it."""
    jobs = [job for job in plan([CASE], "small", 1) if job.instance.group == family]
    names = list(dict.fromkeys(job.instance.name for job in jobs))
    assert len(names) == PER_FAMILY
    chosen = [job for job in jobs if job.instance.name == names[number] and not job.method.peer]
    chosen = [job for job in chosen if methods is None or job.method.name in methods]
    found = [(job.instance.name, job.method.name, measure(job)) for job in chosen]
    wrong = [(*names, m.status, m.note) for *names, m in found if m.outcome == "wrong"]
    spoilt = {m.status for _, method, m in found if method == "user M too small"}
    assert "OPTIMAL" not in spoilt
    return wrong, sum(m.outcome == "solved" for *_, m in found)


@pytest.mark.parametrize("number", range(PER_FAMILY))
@pytest.mark.parametrize("family", FAMILIES)
def test_no_exact_method_makes_a_wrong_claim(family, number):
    wrong, solved = wrong_claims(family, number, QUICK)
    assert not wrong
    assert solved
    assert truth(family, number).n_programs


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(PER_FAMILY))
@pytest.mark.parametrize("family", FAMILIES)
def test_no_method_at_all_makes_a_wrong_claim(family, number):
    wrong, _ = wrong_claims(family, number, None)
    assert not wrong
