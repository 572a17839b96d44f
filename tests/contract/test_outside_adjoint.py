"""Adjoints written outside the package, from the architecture page alone, in the public classes."""

from dataclasses import dataclass
from functools import partial

import cvxpy as cp
import numpy as np
import pytest
import torch

import bilevel as bl
from bilevel import adjoints
from bilevel.adjoints import (
    AbstractAdjoint,
    AbstractRule,
    AbstractSmoothAdjoint,
    Diagnosis,
    DifferentiableResponse,
    Form,
    GradientKind,
    Prepared,
)
from bilevel.layers import BilevelLayer, FollowerLayer, SmoothBilevelLayer


def number(value):
    return torch.tensor(value, dtype=torch.float64)


# ------------------------------------------------------------------- one level, in matrices


class _StraightThroughRule(AbstractRule):
    """``y`` by ``-q``: what the gradient would be without constraints and with ``P = 1``."""

    what = "an answer differentiated straight through"
    order = 1
    differentiable = 1

    def __init__(self, solve):
        self._solve = solve
        self.diagnosis = None

    def forward(self, H, q, A, b):
        found = self._solve(*(one.numpy(force=True) for one in (H, q, A, b)))
        self.diagnosis = Diagnosis.of(GradientKind.SURROGATE, found.usable)
        return torch.from_numpy(found.y), torch.from_numpy(found.z)

    def backward(self, inputs, outputs, grads):
        return None, -grads[0], None, None

    def probe(self):
        return torch.full((len(self.diagnosis.usable),), torch.nan)


@dataclass(frozen=True)
class StraightThrough(AbstractAdjoint):
    """The identity in place of a linear program's derivative, which is zero or none."""

    form: Form = Form.DENSE

    def prepare(self, program, *, with_multipliers):
        return Prepared(self.form, _StraightThroughRule)


class _FiniteDifferenceRule(AbstractRule):
    """The vector-Jacobian product by solving again for each entry of the data."""

    what = "an answer differentiated by differences"
    order = 1
    differentiable = 2

    def __init__(self, solve, step):
        self._solve = solve
        self._step = step
        self.diagnosis = None

    def forward(self, *inputs):
        self._data = [one.numpy(force=True) for one in inputs]
        found = self._solve(*self._data)
        self.diagnosis = Diagnosis.of(GradientKind.CLASSICAL, found.usable)
        return torch.from_numpy(found.y), torch.from_numpy(found.z)

    def backward(self, inputs, outputs, grads):
        weights = [
            np.zeros(tuple(one.shape)) if grad is None else grad.numpy(force=True)
            for one, grad in zip(outputs, grads, strict=True)
        ]

        def value(data):
            found = self._solve(*data)
            return (found.y * weights[0]).sum(-1) + (found.z * weights[1]).sum(-1)

        slopes = []
        for k, array in enumerate(self._data):
            slope = np.zeros_like(array)
            for place in np.ndindex(*array.shape[1:]):
                sides = []
                for sign in (1, -1):
                    moved = [one.copy() for one in self._data]
                    moved[k][(slice(None), *place)] += sign * self._step
                    sides.append(value(moved))
                slope[(slice(None), *place)] = (sides[0] - sides[1]) / (2 * self._step)
            slopes.append(torch.from_numpy(slope))
        return slopes

    def probe(self):
        return torch.full((len(self.diagnosis.usable),), torch.nan)


@dataclass(frozen=True)
class FiniteDifferences(AbstractAdjoint):
    """Central differences of full solves again."""

    step: float = 1e-5

    def prepare(self, program, *, with_multipliers):
        return Prepared(Form.DENSE, lambda solve: _FiniteDifferenceRule(solve, self.step))


def cheapest(adjoint, **options):
    """The cheapest vertex of the simplex."""
    y, c = cp.Variable(3, name="y"), cp.Parameter(3, name="c")
    problem = cp.Problem(cp.Minimize(c @ y), [y >= 0, cp.sum(y) == 1])
    return FollowerLayer(problem, [c], [y], adjoint=adjoint, **options)


@pytest.mark.parametrize("form", list(Form), ids=lambda form: form.name)
def test_an_adjoint_from_outside_differentiates_a_linear_program(form):
    layer = cheapest(StraightThrough(form))
    if form is Form.SPARSE:
        layer = cheapest(StraightThrough(form), backend="highs")
    costs = number([[3.0, 1.0, 2.0], [1.0, 4.0, 2.0]]).requires_grad_()
    found = layer.solve(costs)
    torch.testing.assert_close(found.values[0], number([[0.0, 1, 0], [1, 0, 0]]))
    assert {kind.name for kind in found.report.kind} == {"SURROGATE"}
    assert found.report.adjoint_residual.isnan().all()
    weights = number([[1.0, 2.0, 3.0], [-1.0, 0.0, 1.0]])
    (found.values[0] * weights).sum().backward()
    assert torch.equal(costs.grad, -weights)
    costs.grad = None
    (layer(costs)[0] * weights).sum().backward()  # as a call, without the report
    assert torch.equal(costs.grad, -weights)


def test_instances_without_an_answer_keep_their_meaning():
    layer = cheapest(StraightThrough(), on_failure="nan")
    found = layer.solve(number([[3.0, 1.0, 2.0], [torch.nan, 1.0, 2.0]]))
    assert [status.name for status in found.status] == ["OPTIMAL", "FAILED"]
    assert [kind.name for kind in found.report.kind] == ["SURROGATE", "NONE"]
    assert found.values[0][1].isnan().all()
    with pytest.raises(bl.BilevelError, match="instance"):
        cheapest(StraightThrough())(number([torch.nan, 1.0, 2.0]))


def test_differences_from_outside_agree_with_the_formulas():
    y, p, c = cp.Variable(3), cp.Parameter(3), cp.Parameter()
    total = cp.sum(y) <= c
    problem = cp.Problem(cp.Minimize(cp.sum_squares(y - p)), [y >= 0, total])
    points = number([[0.2, 0.9, -1.0], [0.1, 0.2, 0.3]])
    grads = []
    for adjoint in (FiniteDifferences(), adjoints.KKT()):
        layer = FollowerLayer(problem, [p, c], [y, total.dual_variables[0]], adjoint=adjoint)
        inputs = points.clone().requires_grad_(), number(1.0).requires_grad_()
        answers, multiplier = layer(*inputs)
        ((answers * points).sum() + multiplier.sum()).backward()
        grads.append([one.grad for one in inputs])
        assert bl.gradcheck(layer, (points, number(1.0))).passed
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    with pytest.raises(bl.BilevelError, match="second derivative of an answer differentiated by"):
        layer = FollowerLayer(problem, [p, c], [y], adjoint=FiniteDifferences())
        point = points[0].requires_grad_()
        (slope,) = torch.autograd.grad(layer(point, number(1.0))[0][0], point, create_graph=True)
        slope[0].backward()


def test_cones_need_an_adjoint_for_cones():
    y, p = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.norm(y - p)), [y >= 0])
    with pytest.raises(bl.UnsupportedProblem, match=r"has cones, but StraightThrough.*Cone\(\)"):
        FollowerLayer(problem, [p], [y], adjoint=StraightThrough())


# ------------------------------------------------------------------------ functions in torch


@dataclass(frozen=True)
class NewtonStep(AbstractSmoothAdjoint):
    """One step of Newton's method from the answer, differentiated: exact, with a dense Hessian.

    Bolte, Pauwels and Vaiter, *One-step differentiation of iterative algorithms* (2023), section 3.
    """

    def differentiate(self, problem, x, y, z, start=None):
        step = self._step(lambda w: problem.f(x, w, *z), y.detach())
        return DifferentiableResponse(step)

    def leader(self, st, u, z):
        scalar = st.at(z).leader

        def row(i, values):
            return scalar(torch.cat([u[:i], values[None], u[i + 1 :]]))[i]

        steps = [self._step(partial(row, i), u[i]) for i in range(len(u))]
        return _Answer(torch.stack(steps))

    def _step(self, f, point):
        H = torch.autograd.functional.hessian(f, point).reshape(point.numel(), -1)
        point = point.clone().requires_grad_()
        (slope,) = torch.autograd.grad(f(point), point, create_graph=True)
        step = torch.linalg.solve(H, slope.reshape(-1))
        return point.detach() - step.reshape(point.shape)


class _Answer:
    def __init__(self, u):
        self.answer = (u,)

    def probe(self):
        return torch.zeros(len(self.answer[0]))


def leader(x, y, *z):
    return (y - 1).square().sum() + 0.1 * x.square().sum() + sum(x.sum() * one for one in z)


def follower(x, y, *z):
    return (y.exp() - x * y).sum() + 0.5 * y.square().sum()


START = number([1.0, 2.0]), number([0.0, 0.0])


def test_a_smooth_adjoint_from_outside_finds_the_hypergradient_that_implicit_finds():
    problem = bl.SmoothProblem(leader, follower)
    y = bl.solvers.smooth.Newton().answer(problem, *START)
    slopes = []
    for adjoint in (NewtonStep(), adjoints.Implicit()):
        x = START[0].clone().requires_grad_()
        leader(x, adjoint.attach(problem, x, y)).backward()
        slopes.append(x.grad)
        solver = bl.HypergradientDescent(adjoint=adjoint, max_steps=5)
        found = bl.solve(problem, solver, start=START, throw=False)
        slopes.append(found.x)
    torch.testing.assert_close(slopes[0], slopes[2], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(slopes[1], slopes[3], rtol=1e-8, atol=1e-10)


def test_a_smooth_layer_takes_it():
    z = number([0.1, -0.2]).requires_grad_()
    grads = []
    for adjoint in (NewtonStep(), adjoints.Implicit()):
        layer = SmoothBilevelLayer(leader, follower, start=START, adjoint=adjoint)
        found = layer.solve(z)
        assert float(found.report.residual.max()) < 1e-8
        assert found.report.adjoint_residual.shape == (2,)
        weighted = (found.values[0] * number([1.0, 2.0])).sum()
        grads.append(torch.autograd.grad(weighted, z)[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-6, atol=1e-9)


# ---------------------------------------------------------------------------------- refusals


class Nothing:
    """No adjoint."""


def bilevel_layer(adjoint):
    x, y, p = cp.Variable(name="x"), cp.Variable(name="y"), cp.Parameter(name="p")
    one = bl.Follower(cp.Minimize(cp.square(y - x)), [y >= 0], [y])
    problem = bl.Problem(cp.Minimize(cp.square(x - p) + y), [x >= -2, x <= 2], [one])
    return BilevelLayer(problem, [p], [x, y], adjoint=adjoint)


LAYERS = {
    "FollowerLayer": (cheapest, "prepare", adjoints.KKT),
    "BilevelLayer": (bilevel_layer, "prepare_bilevel", adjoints.KKT),
    "SmoothBilevelLayer": (
        lambda adjoint: SmoothBilevelLayer(leader, follower, start=START, adjoint=adjoint),
        "leader",
        adjoints.Implicit,
    ),
    "HypergradientDescent": (
        lambda adjoint: bl.HypergradientDescent(adjoint=adjoint),
        "differentiate",
        adjoints.Implicit,
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_no_adjoint_is_refused_by_name(name):
    make, method, own = LAYERS[name]
    with pytest.raises(
        bl.ProblemError, match=rf"{name} cannot.*Nothing.*no method {method}\("
    ) as e:
        make(Nothing())
    assert f"adjoints.{own.__name__}()" in str(e.value)
    with pytest.raises(bl.ProblemError, match=rf"{name} needs an object.*write {own.__name__}\(\)"):
        make(own)


def test_a_rule_without_a_report_is_refused_where_the_report_is_asked_for():
    class Silent(_StraightThroughRule):
        def forward(self, *inputs):
            answers = super().forward(*inputs)
            self.diagnosis = None
            return answers

    class Quiet(StraightThrough):
        def prepare(self, program, *, with_multipliers):
            return Prepared(Form.DENSE, Silent)

    layer = cheapest(Quiet())
    assert layer(number([3.0, 1.0, 2.0]))[0].tolist() == [0.0, 1.0, 0.0]
    with pytest.raises(bl.ProblemError, match=r"has no report.*diagnosis"):
        layer.solve(number([3.0, 1.0, 2.0]))
