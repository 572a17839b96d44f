"""Sized families are what they say; peers and methods agree on them; growth is drawn."""

import builtins

import numpy as np
import pytest
from benchmarks.cases import bilevel_qp as qp_case
from benchmarks.cases import lplp as lplp_case
from benchmarks.families import LPLP_SIZES, bilevel_qp, lplp, opposed_qp
from benchmarks.generators import draw
from benchmarks.growth import draw_growth
from benchmarks.gurobi import gurobi_sos1
from benchmarks.measure import answer_of, contradictions, measure_form
from benchmarks.methods import SOS1
from benchmarks.modelling import to_problem
from benchmarks.peers import PeerAnswer
from benchmarks.run import measure, plan
from scipy.optimize import linprog

import bilevel as bl
from bilevel.solvers.starts import initial_point

SHAPES = [(bilevel_qp, (6, 4)), (opposed_qp, (4, 4)), (lplp, LPLP_SIZES[0]), (lplp, (3, 4, 4, 2))]
IDS = ["benign", "opposed", "LP-LP", "LP-LP with equations"]


@pytest.mark.parametrize(("make", "shape"), SHAPES, ids=IDS)
def test_the_same_numbers_make_the_same_problem(make, shape):
    first, second, other = make(*shape, 3), make(*shape, 3), make(*shape, 4)
    for name, value in vars(first).items():
        np.testing.assert_array_equal(value, getattr(second, name))
    assert not np.array_equal(first.c, other.c)


def test_sizes_are_what_the_names_say():
    assert [len(bilevel_qp(n, m, 0).b) for n, m in ((3, 2), (20, 15), (60, 40))] == [1, 8, 20]
    assert len(opposed_qp(8, 6, 0).b) == 12
    p = lplp(5, 8, 8, 2, 0)
    assert (p.nx, p.ny, int(p.equal.sum()), int((~p.equal).sum())) == (5, 8, 2, 8 + 8)


@pytest.mark.parametrize(("make", "shape"), SHAPES, ids=IDS)
def test_a_decision_has_an_answer_and_followers_are_bounded(make, shape):
    for number in range(5):
        p = make(*shape, number)
        point = initial_point(to_problem(p).compile())
        assert point is not None
        if p.P.any():
            assert np.linalg.eigvalsh(p.P)[0] > 0.05
            continue
        # Multipliers with q + B'lam = 0 exist whatever x is, so the follower is bounded.
        signs = [(None, None) if equation else (0, None) for equation in p.equal]
        assert linprog(np.zeros(len(p.b)), A_eq=p.B.T, b_eq=-p.q, bounds=signs).status == 0


@pytest.mark.parametrize(("make", "shape"), SHAPES, ids=IDS)
def test_gurobi_and_scip_agree(make, shape):
    pytest.importorskip("gurobipy")
    form = to_problem(make(*shape, 0)).compile()
    peer = measure_form(form, gurobi_sos1, 20.0)
    ours = measure_form(form, answer_of(bl.SingleLevel()), 20.0)
    assert (peer.outcome, ours.outcome) == ("solved", "solved")
    assert peer.value == pytest.approx(ours.value, abs=1e-5)
    assert peer.certificate["accepted"]


@pytest.mark.parametrize("name", ["T1", "T14"])
def test_gurobi_knows_the_textbook(name):
    pytest.importorskip("gurobipy")
    problem = bl.instances.get(name).problem
    form, ours = problem.compile(), bl.solve(problem)
    answer = gurobi_sos1(form, 10.0, traced=True)
    assert answer.claim == "OPTIMAL"
    value = form.objective.sign * form.objective.evaluate(answer.z)
    assert value == pytest.approx(ours.leader_value, abs=1e-5)
    assert answer.trace[-1][1] is not None


def test_gurobi_refuses_what_it_does_not_write():
    pytest.importorskip("gurobipy")
    drawn = (draw("binary LP", number) for number in range(72))
    products = to_problem(next(p for p in drawn if p.T.any())).compile()
    assert measure_form(products, gurobi_sos1, 1.0).outcome == "refused"


def test_gurobi_is_left_out_with_a_reason_where_it_is_missing(monkeypatch):
    real = builtins.__import__

    def absent(name, *arguments, **more):
        if name == "gurobipy":
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    form = to_problem(bilevel_qp(3, 2, 0)).compile()
    measured = measure_form(form, gurobi_sos1, 1.0)
    assert measured.outcome == "refused"
    assert "extra `gurobi`" in measured.note


def answering(claim, z=None, bound=None):
    return lambda form, limit: PeerAnswer(claim, z, None, bound, "")


@pytest.mark.parametrize(
    ("claim", "outcome"),
    [
        ("INFEASIBLE", "wrong"),
        ("UNBOUNDED", "wrong"),
        ("FAILED", "failed"),
        ("NOT_FOUND", "unproved"),
    ],
)
def test_a_feasible_problem_is_not_to_be_called_infeasible(claim, outcome):
    form = to_problem(bilevel_qp(3, 2, 0)).compile()
    assert measure_form(form, answering(claim), 1.0).outcome == outcome


def test_a_point_that_is_no_answer_is_not_counted():
    form = to_problem(bilevel_qp(3, 2, 0)).compile()
    best = answer_of(bl.SingleLevel())(form, 10.0)
    moved = best.z.copy()
    moved[form.followers[0].columns] += 0.1
    measured = measure_form(form, answering("OPTIMAL", moved), 1.0)
    assert measured.outcome == "failed"
    assert not measured.certificate["accepted"]
    assert measure_form(form, answering("OPTIMAL", best.z), 1.0).outcome == "solved"


def record(method, outcome, value, bound=None, accepted=True, **more):
    kept = {"accepted": accepted} if value is not None else None
    fields = {"instance": "one", "group": "4x4", "peer": False, "seconds": 1.0, "extra": {}}
    return fields | {
        "method": method,
        "outcome": outcome,
        "value": value,
        "bound": bound,
        "certificate": kept,
        **more,
    }


def test_verified_points_refute_claims():
    best = record("a", "solved", 1.0, 1.0)
    assert not contradictions([best, record("b", "unproved", 2.0, 0.5)])
    assert len(contradictions([best, record("b", "solved", 1.1, 1.0)])) == 1
    assert len(contradictions([best, record("b", "unproved", 2.0, 1.5)])) == 1
    # What its own check rejects refutes nobody.
    assert not contradictions([best, record("b", "failed", 0.5, None, accepted=False)])
    assert not contradictions([best, record("b", "refused", None)])


@pytest.mark.parametrize("case", [qp_case.CASE, lplp_case.CASE], ids=lambda case: case.name)
def test_small_sizes_run(case):
    jobs = [job for job in plan([case], "small", 1) if job.method.name == SOS1]
    assert [measure(job).outcome for job in jobs] == ["solved"] * len(jobs)


def test_targets_are_not_reached_without_measurements():
    for case in (qp_case.CASE, lplp_case.CASE):
        found = case.judge([record(SOS1, "solved", 1.0, 1.0)])
        assert not any(target.reached for target in found[:-1])
        assert found[-1].reached


def test_growth_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    groups = ("3x3", "4x4")
    found = [
        record(method, outcome, 1.0, group=group, seconds=seconds, extra={"nodes": 3})
        for group in groups
        for method, outcome, seconds in (("a", "solved", 0.1), ("b", "unproved", 60.0))
    ]
    assert draw_growth(found, tmp_path / "growth.png").is_file()
