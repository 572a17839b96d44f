"""Wrong input to smooth problems: the message names the object, the cause and the remedy."""

import warnings

import numpy as np
import pytest
import torch

import bilevel as bl
from bilevel import BilevelWarning, ProblemError, SolveFailed, Status, adjoints
from bilevel.errors import UnsupportedDerivative, UnsupportedProblem
from bilevel.layers import SmoothBilevelLayer

ZERO = torch.zeros((), dtype=torch.float64)


def leader(x, y):
    return (x - 1) ** 2 + y**2


def follower(x, y):
    return (y - x) ** 2


PROBLEM = bl.SmoothProblem(leader, follower)
GIVEN = bl.SmoothProblem(lambda x, y, z: leader(x, y), lambda x, y, z: (y - x - z).square().sum())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: bl.SmoothProblem(3, follower), "F of a SmoothProblem must be a function"),
        (lambda: bl.SmoothProblem(leader, None), "f of a SmoothProblem must be a function"),
        (lambda: bl.SmoothProblem(leader, follower, g=1.0), "g of a SmoothProblem"),
        (lambda: bl.solve(PROBLEM), "needs start="),
        (lambda: bl.solve(PROBLEM, start=ZERO), "needs start="),
        (lambda: bl.solve(PROBLEM, start=(0.0, ZERO)), "tensors of floating-point numbers"),
        (lambda: bl.solve(PROBLEM, start=(ZERO.long(), ZERO)), "floating-point"),
        (lambda: bl.solve(PROBLEM, start=(ZERO.float(), ZERO)), "x has dtype torch.float32"),
        (lambda: bl.solve(PROBLEM, start={"x": ZERO, "y": ZERO}), "needs start="),
        (lambda: bl.solve(GIVEN, start=(ZERO, ZERO), parameters=0.5), "input must consist of ten"),
        (
            lambda: bl.solve(GIVEN, start=(ZERO, ZERO), parameters=(np.ones(2),)),
            "input must consist of tensors",
        ),
        (
            lambda: bl.solve(GIVEN, start=(ZERO, ZERO), parameters={"price": 0.5}),
            "input must consist of tensors",
        ),
        (
            lambda: bl.solve(GIVEN, start=(ZERO, ZERO), parameters=torch.zeros(1)),
            "dtype torch.float32 and the start torch.float64",
        ),
        (lambda: bl.solve(PROBLEM, start=(ZERO, ZERO), time_limit="1 s"), "time_limit"),
        (
            lambda: bl.solve(PROBLEM, start=(ZERO, ZERO), seed=3),
            "takes no seed for a SmoothProblem",
        ),
        (
            lambda: bl.solve(PROBLEM, start=(ZERO, ZERO), options={"no_such": 1}, rtol="nonsense"),
            "takes no rtol and no options for a SmoothProblem",
        ),
        (lambda: bl.solve(PROBLEM, bl.Auto(), start=(ZERO, ZERO)), "bl.ReducedNewton"),
        (lambda: bl.HypergradientDescent(max_steps=0), "steps >= 1"),
        (lambda: bl.HypergradientDescent(follower=3), "follower must be a function"),
        (lambda: bl.HypergradientDescent(optimizer="adam"), "optimizer must be a function"),
        (lambda: bl.SOBA(optimizer=torch.optim.Adam([ZERO.clone()])), "optimizer must be a func"),
        (
            lambda: SmoothBilevelLayer(leader, follower, start=(ZERO.float(),) * 2)(ZERO[None]),
            "dtype torch.float64 and the start torch.float32",
        ),
        (
            lambda: SmoothBilevelLayer(leader, follower, start=(ZERO, ZERO))(torch.zeros(0)),
            "dtype",
        ),
        (
            lambda: SmoothBilevelLayer(leader, follower, start=(ZERO, ZERO))(ZERO),
            "no instance",
        ),
        (lambda: adjoints.Implicit("lu"), "method must be one of"),
        (lambda: adjoints.Implicit(rtol=0.0), "0 < rtol < 1"),
        (lambda: adjoints.Unrolled(0), "steps >= 1"),
        (lambda: SmoothBilevelLayer(leader, start=(ZERO, ZERO)), "needs F and f"),
        (lambda: SmoothBilevelLayer(PROBLEM, follower, start=(ZERO, ZERO)), "itself"),
        (
            lambda: SmoothBilevelLayer(PROBLEM, start=(ZERO, ZERO), barrier_parameter=-1),
            "barrier_parameter must be positive",
        ),
        (
            lambda: SmoothBilevelLayer(PROBLEM, start=(ZERO, ZERO), inequalities="penalty"),
            "inequalities must be one of",
        ),
        (
            lambda: SmoothBilevelLayer(PROBLEM, start=(ZERO, ZERO), on_failure="skip"),
            "on_failure must be one of",
        ),
        (
            lambda: SmoothBilevelLayer(PROBLEM, start=(ZERO, ZERO), adjoint=adjoints.Unrolled()),
            "SmoothBilevelLayer cannot use Unrolled as its adjoint: it has no method leader",
        ),
        (
            lambda: SmoothBilevelLayer(PROBLEM, start=(ZERO, ZERO), in_dims=1)(torch.ones(2)),
            "in_dims must be 0 or None",
        ),
        (
            lambda: SmoothBilevelLayer(PROBLEM, start=(ZERO, ZERO))(np.ones(2)),
            "must consist of tensors",
        ),
        (
            lambda: SmoothBilevelLayer(
                lambda x, y, a, b: x * a + y * b, follower, start=(ZERO, ZERO)
            )(torch.ones(2).double(), torch.ones(3).double()),
            "different batch sizes",
        ),
    ],
)
def test_malformed_arguments(make, words):
    with pytest.raises(ProblemError, match=words):
        make()


def test_functions_that_return_no_scalar_or_no_tensor():
    vector = bl.SmoothProblem(lambda x, y: torch.stack([x, y]), follower)
    with pytest.raises(ProblemError, match="F must return a scalar"):
        bl.solve(vector, start=(ZERO, ZERO))
    number = bl.SmoothProblem(leader, lambda x, y: 1.0)
    with pytest.raises(ProblemError, match="returned float, not a tensor"):
        bl.solve(number, start=(ZERO, ZERO))


def test_a_leaders_constraints_are_refused_by_descent():
    given = bl.SmoothProblem(leader, follower, G=lambda x, y: x - 1)
    with pytest.raises(UnsupportedProblem, match="ReducedNewton"):
        bl.solve(given, bl.HypergradientDescent(), start=(ZERO, ZERO))


def test_a_followers_constraints_are_refused_by_unrolling_and_nesting():
    given = bl.SmoothProblem(leader, follower, g=lambda x, y: -y)
    with pytest.raises(UnsupportedDerivative, match="without constraints"):
        adjoints.Unrolled().attach(given, ZERO, ZERO)
    layer = SmoothBilevelLayer(
        lambda x, y, z: leader(x, y) + z * x, lambda x, y, z: follower(x, y),
        g=lambda x, y, z: -y, start=(ZERO, ZERO), adjoint=adjoints.Implicit("nested"),
    )  # fmt: skip
    z = torch.ones(1).double().requires_grad_()
    with pytest.raises(UnsupportedDerivative, match="without constraints"):
        layer(z)[0].sum().backward()


def test_an_answer_that_is_none_is_told():
    x = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    with pytest.warns(BilevelWarning, match="this is not an answer"):
        adjoints.Implicit().attach(PROBLEM, x, ZERO + 3)


def test_a_follower_that_has_not_converged_is_no_answer():
    lazy = bl.HypergradientDescent(follower=lambda x, y: y + 0.1, max_steps=3)
    with (
        pytest.warns(BilevelWarning, match="this is not an answer"),
        pytest.raises(SolveFailed, match="follower's optimality conditions fail"),
    ):
        bl.solve(PROBLEM, lazy, start=(ZERO, ZERO))


@pytest.mark.parametrize("solver", [bl.ReducedNewton(), bl.HypergradientDescent(max_steps=5)])
def test_a_follower_at_a_saddle_is_no_answer(solver):
    def saddle(x, y):
        return y[0] ** 2 - y[1] ** 2 + x * y[0]

    given = bl.SmoothProblem(lambda x, y: (x - 1) ** 2, saddle)
    solution = bl.solve(given, solver, start=(ZERO, torch.zeros(2).double()), throw=False)
    assert solution.status is Status.FAILED
    assert "no minimum" in solution.stats.note or "fail" in solution.stats.note


def test_what_is_not_finite_stops_at_the_last_good_point():
    def breaks(x, y):
        return (x - 3) ** 2 + torch.where(x > 1, torch.nan, 0.0) + y**2

    given = bl.SmoothProblem(breaks, follower)
    solver = bl.HypergradientDescent(lambda x: torch.optim.SGD(x, lr=0.05))
    solution = bl.solve(given, solver, start=(ZERO, ZERO), throw=False)
    assert "not finite" in solution.stats.note
    assert 0 < float(solution.x) <= 1
    assert solution.status is Status.FEASIBLE


def test_time_limit_and_callback_keep_the_point():
    seen = []

    def stop(progress):
        seen.append(progress.incumbent)
        return len(seen) == 4

    slow = bl.HypergradientDescent(lambda x: torch.optim.SGD(x, lr=1e-3))
    solution = bl.solve(PROBLEM, slow, start=(ZERO, ZERO), callback=stop)
    assert solution.status is Status.FEASIBLE
    assert "callback" in solution.stats.note
    assert len(seen) == 4
    solution = bl.solve(PROBLEM, slow, start=(ZERO, ZERO), time_limit=1.0)
    assert "time limit" in solution.stats.note
    assert solution.x > 0


def test_ctrl_c_keeps_the_point():
    count = []

    def interrupt(x, y):
        count.append(1)
        if len(count) == 5:
            raise KeyboardInterrupt
        return x.clone()

    solver = bl.HypergradientDescent(lambda x: torch.optim.SGD(x, lr=0.01), follower=interrupt)
    solution = bl.solve(PROBLEM, solver, start=(ZERO, ZERO))
    assert "interrupted" in solution.stats.note
    assert solution.status is Status.FEASIBLE
    assert solution.x > 0


def test_shapes_that_change_are_named():
    solver = bl.HypergradientDescent(follower=lambda x, y: torch.ones(2).double())
    with pytest.raises(ProblemError, match="y has another structure or other shapes"):
        bl.solve(PROBLEM, solver, start=(ZERO, ZERO))


def _hinge(x, y):
    return (y - x).square().sum() + y.relu().sum().square() / 4


def test_lost_third_derivatives_are_told_once_and_where_they_matter():
    pair = torch.ones(2, dtype=torch.float64)
    layer = SmoothBilevelLayer(lambda x, y: ((x - 1) ** 2 + y**2).sum(), _hinge, start=(pair, pair))
    with pytest.warns(BilevelWarning, match=r"f of the SmoothBilevelLayer uses relu.*softplus"):
        layer()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer()
        # A zero-sum game needs none, and a leader's kinks are none of the follower's.
        SmoothBilevelLayer(
            bl.SmoothProblem.min_max(lambda x, y: ((x - 1) ** 2).sum() - _hinge(x, y)),
            start=(pair, pair),
        )()
        SmoothBilevelLayer(
            lambda x, y: ((x - 1) ** 2).sum() + y.relu().sum() ** 2,
            lambda x, y: ((y - x) ** 2).sum(),
            start=(pair, pair),
        )()
