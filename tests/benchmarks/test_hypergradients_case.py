"""The benchmark of hypergradients: its reference is right, and errors are noticed."""

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks.cases import hypergradients as case
from benchmarks.hypergradient_checks import TOTALS
from benchmarks.hypergradient_data import Regression, Shape
from benchmarks.hypergradient_targets import (
    BY_HAND,
    DIFFERENCES,
    MEMORY,
    MINRES,
    NESTED,
    OURS,
    OURS_DIAGONAL,
    SMALL,
    TORCHOPT,
    TORCHOPT_GRADIENT,
    UNROLLED,
    judge_hypergradients,
)
from benchmarks.run import measure, plan
from scipy import optimize, sparse
from scipy.special import expit


def outer_loss(one, x):
    """The held-out loss where another method finds the inner solution."""
    A, penalty = one.A, np.exp(x)

    def slope(w):
        return -(A.T @ expit(-(A @ w))) / A.shape[0] + penalty * w

    w = optimize.root(slope, one.w, tol=1e-14).x
    return np.logaddexp(0, -(one.V @ w)).mean()


@pytest.mark.parametrize("is_dense", [False, True])
def test_the_reference_is_the_derivative_of_full_solves_and_its_bound_holds(is_dense):
    one = Regression.draw(Shape(30, 40, is_dense))
    direction = np.random.default_rng(1).normal(size=30)
    ends = [outer_loss(one, one.x + sign * 1e-4 * direction) for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / 2e-4
    assert slope == pytest.approx(one.hypergradient @ direction, rel=1e-5)
    A = one.A.toarray() if sparse.issparse(one.A) else one.A
    H = A.T @ np.diag(one.curvature) @ A + np.diag(one.penalty)
    np.testing.assert_allclose(np.diag(H), one.diagonal)
    exact = -np.linalg.solve(H, one.slope) * one.penalty * one.w
    assert one.error(exact) < 1e-12
    assert one.bound < 1e-11
    assert one.error(1.01 * exact) == pytest.approx(0.01)


def test_the_small_size_is_solved_by_all_to_the_same_accuracy():
    pytest.importorskip("torchopt")
    found = {(j.instance.name, j.method.name): measure(j) for j in plan([case.CASE], "small", 1)}
    for (instance, method), one in found.items():
        asked = ("solved", "unproved") if method == UNROLLED else ("solved",)
        assert one.outcome in asked, (instance, method, one)
        assert one.extra["error"] < (1e-2 if method == UNROLLED else 1e-8)
    (large,) = (one for one in found.values() if "vectors" in one.extra)
    assert large.extra["residual"] < 1e-8
    assert large.extra["reference_bound"] < 1e-10


def test_differences_notice_a_wrong_total_gradient(monkeypatch):
    from bilevel.adjoints.smooth.stationarity import Hessian

    total = TOTALS[2]
    assert total.error("minres") < 1e-9
    whole = Hessian.along
    monkeypatch.setattr(Hessian, "along", lambda H, of, v: whole(H, of, v * (1 + 1e-6)))
    assert total.error("minres") == pytest.approx(1e-6, rel=1e-2)


def test_an_inaccurate_hypergradient_is_called_wrong(monkeypatch):
    from benchmarks import hypergradient_methods

    def off(subject, rtol):
        import torch

        return torch.from_numpy(subject.regression.hypergradient * (1 + 1e-7))

    monkeypatch.setattr(hypergradient_methods, "implicit", off)
    subject = hypergradient_methods.Subject(Regression.draw(Shape(200, 100)))
    assert case._calls(OURS, "implicit")(subject, 1.0).outcome == "wrong"


def timed(method, seconds, group, outcome="solved"):
    return {"group": group, "instance": group, "method": method, "outcome": outcome,
            "seconds": seconds, "extra": {"error": 1e-9}}  # fmt: skip


def test_targets_compare_with_the_faster_form_and_with_accurate_methods_alone():
    records = [timed(OURS, 1.0, SMALL), timed(TORCHOPT, 4.0, SMALL)]
    records += [timed(TORCHOPT_GRADIENT, 2.9, SMALL), timed(UNROLLED, 31.0, SMALL, "unproved")]
    found = judge_hypergradients(records)
    assert [target.reached for target in found[:4]] == [False, False, True, False]
    assert found[0].found.startswith("2.90x")
    assert found[1].found == "not measured"
    middle = "d = 10,000, sparse"
    records = [timed(OURS, 3.0, middle), timed(OURS_DIAGONAL, 1.05, middle)]
    records += [timed(BY_HAND, 1.0, middle), timed(TORCHOPT, 0.1, middle, "wrong")]
    assert judge_hypergradients(records)[3].reached
    assert not judge_hypergradients([*records, timed(TORCHOPT, 0.1, middle)])[3].reached


def test_targets_see_memory_residuals_and_differences():
    def large(d, vectors, outcome="solved"):
        extra = {"vectors": vectors, "residual": 1e-9}
        return timed(OURS, 1.0, MEMORY, outcome) | {"instance": d, "extra": extra}

    both = [large("1e6", 9.0), large("4e6", 14.0)]
    assert [t.reached for t in judge_hypergradients(both)[5:7]] == [True, True]
    assert [t.reached for t in judge_hypergradients([*both, large("4e6", 15.5)])[5:7]] == [
        True,
        False,
    ]
    bad = [*both, large("4e6", 9.0, "wrong")]
    assert [t.reached for t in judge_hypergradients(bad)[5:7]] == [False, False]
    rows = [timed(method, 1.0, DIFFERENCES) for method in (MINRES, NESTED)]
    assert [t.reached for t in judge_hypergradients(rows)[7:]] == [True, True]
    rows[1] = rows[1] | {"extra": {"error": None}}
    assert [t.reached for t in judge_hypergradients(rows)[7:]] == [True, False]
