"""What a new user of layers found wrong or unclear, each with an oracle of its own."""

from __future__ import annotations

import copy
import pickle

import cvxpy as cp
import numpy as np
import pytest
import torch

import bilevel as bl
from bilevel import adjoints
from bilevel.adjoints import GradientKind
from bilevel.layers import BatchFailed, BilevelLayer, FollowerLayer, tensors_of
from bilevel.status import Status

DOUBLE = torch.float64


def test_a_declared_sign_that_does_not_hold_is_an_instance_without_an_answer():
    # Convex only for g >= 0: with -0.1 the compiled epigraph gave 3.0, but 3.05 is right.
    v, g = cp.Variable(), cp.Parameter(nonneg=True, name="g")
    problem = cp.Problem(cp.Minimize(cp.square(v - 3) + g * cp.abs(v)), [cp.abs(v) <= 4])
    layer = FollowerLayer(problem, [g], [v], on_failure="nan")
    weight = torch.tensor([0.5, -0.1], dtype=DOUBLE, requires_grad=True)
    answer = layer.solve(weight)
    assert answer.status == (Status.OPTIMAL, Status.FAILED)
    assert "sign" in answer.report.notes[1]
    answer.values[0][0].backward()
    np.testing.assert_allclose(weight.grad, [-0.5, 0.0], atol=1e-9)
    with pytest.raises(BatchFailed, match="sign that a parameter declares"):
        FollowerLayer(problem, [g], [v])(torch.tensor(-0.1))
    with pytest.raises(BatchFailed, match="sign"):
        torch.func.vmap(FollowerLayer(problem, [g], [v]))(torch.tensor([0.5, -0.1]))


@pytest.mark.parametrize("attribute", [{"diag": True}, {"sparsity": ([0, 1], [0, 1])}])
def test_parameters_that_would_ignore_entries_are_refused(attribute):
    x, d = cp.Variable(2), cp.Parameter((2, 2), name="d", **attribute)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - d @ np.ones(2))))
    with pytest.raises(bl.ProblemError, match="d is declared"):
        FollowerLayer(problem, [d], [x])
    y = cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(cp.square(y - cp.sum(d @ np.ones(2)))), [y >= 0], [y])
    leader = bl.Problem(cp.Minimize(cp.square(y)), [], [follower])
    with pytest.raises(bl.ProblemError, match="d is declared"):
        BilevelLayer(leader, [d], [y])


SLACK = {
    "norm1": lambda x: [cp.norm1(x) <= 10],
    "norm_inf": lambda x: [cp.norm_inf(x) <= 10],
    "norm2": lambda x: [cp.norm(x) <= 10],
    "sum_squares": lambda x: [cp.sum_squares(x) <= 100],
    "redundant equations": lambda x: [x[0] + x[1] == 3, 2 * x[0] + 2 * x[1] == 6],
}


@pytest.mark.parametrize("name", SLACK)
@pytest.mark.parametrize("policy", ["lstsq", "raise"])
def test_a_constraint_with_room_is_no_reason_for_doubt(name, policy):
    x, q = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - q)), SLACK[name](x))
    adjoint = (adjoints.Cone if name in ("norm2", "sum_squares") else adjoints.KKT)(policy)
    layer = FollowerLayer(problem, [q], [x], adjoint=adjoint)
    for point in ([1.0, 2.0], [3.0, 0.0]):
        at = torch.tensor(point, dtype=DOUBLE)
        answer = layer.solve(at)
        assert answer.report.kind == (GradientKind.CLASSICAL,), answer.report.summary()
        assert float(answer.report.margin[0]) > 1e-6
        assert bl.gradcheck(layer, at).passed


def test_a_norm_at_its_limit_or_asked_for_its_multipliers_is_judged_as_before():
    x, q = cp.Variable(2), cp.Parameter(2)
    rows = [x[0] + x[1] == 3, 2 * x[0] + 2 * x[1] == 6]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - q)), rows)
    layer = FollowerLayer(problem, [q], [x, rows[0].dual_variables[0]])
    assert layer.solve(torch.tensor([1.0, 0.0])).report.kind == (GradientKind.SURROGATE,)
    tight = cp.Problem(cp.Minimize(cp.sum_squares(x - q)), [cp.norm1(x) <= 1])
    layer = FollowerLayer(tight, [q], [x])
    # (2, 1) is projected onto the corner (1, 0) where the side begins: a kink.
    assert not layer.solve(torch.tensor([2.0, 1.0], dtype=DOUBLE)).report.kind[0].is_exact
    assert layer.solve(torch.tensor([2.0, 1.5], dtype=DOUBLE)).report.kind[0].is_exact


def bilevel_layer(**settings):
    x, y, p = cp.Variable(name="x"), cp.Variable(name="y"), cp.Parameter(name="p")
    follower = bl.Follower(cp.Minimize(cp.square(y - x)), [y >= p], [y])
    problem = bl.Problem(cp.Minimize(cp.square(x - 2) + y), [x >= -1, x <= 1], [follower])
    return BilevelLayer(problem, [p], [x, y], **settings)


@pytest.mark.parametrize("copying", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_layers_can_be_copied(copying):
    y, q = cp.Variable(2), cp.Parameter(2)
    single = FollowerLayer(cp.Problem(cp.Minimize(cp.sum_squares(y - q)), [y >= 0]), [q], [y])
    for layer, at in ((single, torch.tensor([1.0, -1.0])), (bilevel_layer(), torch.tensor(0.5))):
        expected = layer(at)
        for one, other in zip(expected, copying(layer)(at), strict=True):
            torch.testing.assert_close(one, other)


def test_a_margin_does_not_contradict_its_kind():
    # The leader stays at the follower's kink x = 2 for 1.5 < a < 2.5.
    x, y, a = cp.Variable(name="x"), cp.Variable(name="y"), cp.Parameter(name="a", value=2.2)
    follower = bl.Follower(cp.Maximize(y), [y <= x, y <= 4 - x, y >= 0], [y])
    problem = bl.Problem(cp.Minimize(cp.square(x - a) - y), [x >= 0, x <= 4], [follower])
    layer = BilevelLayer(problem, [a], [x, y])
    report = layer.solve(*tensors_of([a])).report
    assert report.kind == (GradientKind.CLASSICAL,)
    assert float(report.margin[0]) > 1e-3
    assert bl.gradcheck(layer, tensors_of([a])).passed


def test_mistakes_are_named():
    with pytest.raises(bl.ProblemError, match="solver must be an object"):
        bilevel_layer(solver="branching")
    with pytest.raises(bl.ProblemError, match="solver must be an object"):
        bilevel_layer(solver=bl.Branching)
    with pytest.raises(bl.ProblemError, match=r"BilevelLayer cannot use Cone .*adjoints\.KKT"):
        bilevel_layer(adjoint=adjoints.Cone())
    y, q = cp.Variable(), cp.Parameter(name="q")
    problem = cp.Problem(cp.Minimize(cp.square(y - q)), [y >= 0])
    with pytest.raises(bl.ProblemError, match="must be a list"):
        FollowerLayer(problem, q, [y])
    with pytest.raises(bl.UnsupportedProblem, match="not affine in its parameters"):
        FollowerLayer(cp.Problem(cp.Minimize(cp.square(y) + y), [y >= cp.exp(q) * q]), [q], [y])
    at = torch.tensor([1.0, 2.0], requires_grad=True)
    answers = FollowerLayer(problem, [q], [y])(at)[0]
    with pytest.raises(bl.errors.UnsupportedDerivative, match="cannot be batched"):
        torch.autograd.grad(answers, at, torch.eye(2), is_grads_batched=True)


def test_an_eigenvalue_of_a_symmetric_parameter():
    y, C = cp.Variable(3), cp.Parameter((3, 3), symmetric=True, name="C")
    cost = cp.lambda_max(cp.diag(y) + C) + 0.1 * cp.sum_squares(y)
    problem = cp.Problem(cp.Minimize(cost))
    layer = FollowerLayer(problem, [C], [y])
    torch.manual_seed(0)
    root = torch.randn(3, 3, dtype=DOUBLE)
    C.value = ((root + root.T) / 2).numpy()
    problem.solve(solver="CLARABEL")
    found = layer(torch.from_numpy(C.value))[0]
    # CVXPY's own solve is right to 1e-8 in its value, and so to a root of that in its point.
    point = found.numpy()
    value = np.linalg.eigvalsh(np.diag(point) + C.value)[-1] + 0.1 * point @ point
    assert value <= problem.value + 1e-8
    np.testing.assert_allclose(point, y.value, atol=1e-3)
    assert bl.gradcheck(layer, torch.from_numpy(C.value)).passed
    free = cp.Parameter((3, 3), name="free")
    with pytest.raises(bl.ProblemError, match="contains no variable"):
        FollowerLayer(cp.Problem(cp.Minimize(cp.lambda_max(cp.diag(y) + free))), [free], [y])


@pytest.mark.parametrize("weight", [0.5, 0.7])
def test_a_program_that_one_route_solves_inaccurately_is_solved_by_another(weight):
    """Total variation of an image: DAQP's multipliers were off by 3e-8 for some images."""
    rng, d = np.random.default_rng(0), np.diff(np.eye(8), axis=0)
    D = np.vstack([np.kron(np.eye(8), d), np.kron(d, np.eye(8))])
    u, w, m = cp.Variable(64), cp.Parameter(nonneg=True), cp.Parameter(64)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(u - m) / 2 + w * cp.norm1(D @ u)))
    image = np.zeros((8, 8))
    image[2:6, 1:4], image[4:7, 4:7] = 1, 0.5
    images = torch.tensor(image.ravel() + 0.25 * rng.normal(size=(12, 64)))
    answer = FollowerLayer(problem, [w, m], [u]).solve(torch.tensor(weight).double(), images)
    assert answer.report.residual.max() <= 1e-8
