"""The benchmark of minibatches: work is counted at the losses, and a loss is reached or not."""

import dataclasses

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

import torch
from benchmarks import minibatch_methods
from benchmarks.cases import minibatch as case
from benchmarks.minibatch_data import Curve, Digits, watch

import bilevel as bl

CURVE = Curve((0, 1.5, 3.0), (0, 1.0, 2.0), (0.0, 0.1, 0.2), (3.0, 1.0, 2.0), "FEASIBLE")


def test_where_a_curve_reaches_a_loss():
    found = case.measurement(CURVE, 1.2)
    assert (found.outcome, found.value, found.seconds) == ("solved", 1.0, 0.1)
    assert found.extra["passes"] == 2.5
    assert found.extra["curve"] == [[0, 3.0], [2.5, 1.0], [5.0, 2.0]]
    missed = case.measurement(CURVE, 0.9)
    assert missed.outcome == "unproved"
    assert "passes" not in missed.extra
    assert "0.9 asked" in missed.note


def test_every_method_runs_and_is_counted_alike(tmp_path):
    digits = Digits.draw("small", 0)
    asked, records = digits.reference.values[-1], []
    assert asked < digits.reference.values[0]
    for method in case.CASE.methods:
        found = method.run(digits, 60.0)
        assert found.outcome in ("solved", "unproved"), found.note
        assert found.extra["curve"][0][1] == pytest.approx(digits.reference.values[0], rel=0.2)
        records.append(
            dataclasses.asdict(found)
            | {"method": method.name, "instance": "one", "peer": method.peer}
        )
    default = records[0]
    assert default["outcome"] == "solved"
    assert default["extra"]["passes"] == digits.reference.passes[-1]
    targets = case.judge_minibatch(records)
    assert len(targets) == 4
    assert case.draw_minibatch(records, tmp_path / "figure.png").stat().st_size > 5000


def test_a_method_that_misses_a_draw_has_not_reached_its_target():
    def record(method, instance, passes, outcome="solved"):
        extra = {"passes": passes} if outcome == "solved" else {}
        return {"method": method, "instance": instance, "extra": extra, "outcome": outcome}

    both = [record(m, i, 100.0) for m in (case.DEFAULT, case.LOOSE) for i in "ab"]
    good = [record(case.SOBA_SGD, "a", 10.0), record(case.SOBA_SGD, "b", 50.0)]
    target = case.judge_minibatch(both + good)[0]
    assert target.reached
    assert "4.5 times fewer" in target.found
    assert "2 at least" in target.found
    missed = case.judge_minibatch([*both, good[0], record(case.SOBA_SGD, "b", 0, "unproved")])[0]
    assert not missed.reached
    assert "1 of 2" in missed.found
    slow = case.judge_minibatch([*both, good[0], record(case.SOBA_SGD, "b", 150.0)])[0]
    assert not slow.reached


def test_the_count_is_the_solvers_own():
    digits = Digits.draw("small", 1)
    found = []

    def run(problem, start, watched, limit):
        # The first of four steps moves nothing: the last move is seen after three hypergradients.
        three = bl.HypergradientDescent(torch.optim.Adam, max_steps=3)
        found.append(bl.solve(digits.problem, three, start=start))
        four = bl.HypergradientDescent(watched(torch.optim.Adam), max_steps=4)
        return bl.solve(problem, four, start=start).status.name

    curve = watch(digits, run, 60.0)
    assert len(curve.values) == 4
    assert (curve.gradients[0], curve.products[0]) == (0, 0)
    assert curve.gradients[-1] == pytest.approx(found[0].stats.gradients)
    assert curve.products[-1] == pytest.approx(found[0].stats.products)


def test_stocbio_descends_on_a_problem_in_closed_form():
    """``y(x) = x`` and ``F = (y - 1)^2``: it ends at one."""
    f = bl.SampleMean(lambda x, y, A: ((y - x) ** 2).mean() * A.mean(), torch.ones(100).double())
    F = bl.SampleMean(lambda x, y, A: ((y - 1) ** 2).mean() * A.mean(), torch.ones(50).double())
    x = []

    def watched(optimizer):
        def make(leaves):
            x.extend(leaves)
            return optimizer(leaves)

        return make

    sgd = lambda leaves: torch.optim.SGD(leaves, lr=0.4)  # noqa: E731
    start = torch.zeros(2, 1).double()
    minibatch_methods.stocbio(
        sgd, (5, 10), 40, bl.SmoothProblem(F, f), (start[0], start[1]), watched, 60.0
    )
    assert x[0].item() == pytest.approx(1, abs=1e-3)
