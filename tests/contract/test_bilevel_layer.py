"""The bilevel layer: gradients are those of full re-solves, at both levels and at kinks."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch

import bilevel as bl
from bilevel import adjoints
from bilevel.adjoints import GradientKind
from bilevel.layers import BatchFailed, BilevelLayer, FollowerLayer, tensors_of
from bilevel.status import Status

torch.set_default_dtype(torch.float32)


def family(seed, leader, follower="qp"):
    """Return a random problem with parameters in every part of both levels."""
    g = np.random.default_rng(seed)
    nx, ny, m = 2, 3, 4
    names = {"p": nx, "r": ny, "b": m, "w": 1}
    p = {name: cp.Parameter(size, name=name) for name, size in names.items()}
    for name, size in names.items():
        p[name].value = g.normal(size=size) if name != "b" else 0.5 + g.random(size)
    A = cp.Parameter((m, ny), name="A", value=g.normal(size=(m, ny)))
    x, y = cp.Variable(nx, name="x"), cp.Variable(ny, name="y")
    C, root = g.normal(size=(ny, nx)), g.normal(size=(ny, ny))
    cost = cp.quad_form(y, root @ root.T + np.eye(ny)) / 2 + (C @ x + p["r"]) @ y
    rows = [A @ y <= p["b"] + g.normal(size=(m, nx)) @ x]
    if follower == "socp":
        rows = [cp.norm(y - g.normal(size=(ny, nx)) @ x) <= 1 + cp.sum(p["b"]) / 4, A[:2] @ y <= 1]
        rows[1] = A[0] @ y <= p["b"][0]
    lower = bl.Follower(cp.Minimize(cost), rows, [y], name="carrier")
    c, d = g.normal(size=nx), g.normal(size=ny)
    if leader == "qp":
        objective = cp.sum_squares(x - p["p"]) + d @ y + cp.sum_squares(y) / 2
    else:
        objective = (c + p["p"]) @ x + d @ y + p["w"][0] * y[0]
    if leader == "qp":
        objective = objective + p["w"][0] * y[0]
    problem = bl.Problem(cp.Minimize(objective), [x >= -1, x <= 1], [lower])
    return problem, [*p.values(), A], [x, y], rows


CASES = [(seed, leader, "qp", 3) for leader in ("qp", "lp") for seed in range(3)]
# A solve with cones takes long, and each entry of a parameter takes two.
CASES += [(0, "qp", "socp", 2), pytest.param(1, "qp", "socp", 3, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("seed", "leader", "follower", "entries"), CASES)
def test_gradients_match_full_solves(seed, leader, follower, entries):
    problem, parameters, variables, rows = family(seed, leader, follower)
    duals = [rows[0].dual_variables[0]] if follower == "qp" else []
    if follower == "socp":
        pytest.importorskip("casadi", reason="followers with cones are solved by IPOPT")
    # Both sides of a difference need the same local answer, not the best of several.
    solver = bl.Continuation(starts=1) if follower == "socp" else None
    layer = BilevelLayer(problem, parameters, [*variables, *duals], solver=solver)
    found = bl.gradcheck(layer, tensors_of(parameters), most=entries)
    assert found.passed, found.summary()
    assert found.kinds == (GradientKind.CLASSICAL,)


def test_values_and_multipliers_are_those_of_the_solver():
    problem, parameters, variables, rows = family(1, "qp")
    dual = problem.followers[0].dual(rows[0])
    value = problem.followers[0].value
    layer = BilevelLayer(problem, parameters, [*variables, dual, value])
    found = layer(*tensors_of(parameters))
    solution = bl.solve(problem, rtol=1e-9)
    for tensor, variable in zip(found[:2], variables, strict=True):
        np.testing.assert_allclose(tensor.numpy(), solution[variable], atol=1e-6)
    x, y = variables
    seen = [x, *(p for p in parameters if p.name() in ("r", "b", "A"))]
    alone = FollowerLayer(problem.followers[0], seen, [y, dual, value], backend="clarabel")
    again = alone(found[0], *tensors_of(seen[1:]))
    for one, other in zip(found[1:], again, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-9)


def test_the_answer_moves_along_with_a_kink():
    # y = max(x - p, 0); the leader likes y small and x large: it stays at the kink x = p.
    x, y, p = cp.Variable(name="x"), cp.Variable(name="y"), cp.Parameter(name="p")
    follower = bl.Follower(cp.Minimize(cp.square(y - x + p)), [y >= 0], [y])
    problem = bl.Problem(cp.Minimize(3 * y - x), [x >= -5, x <= 5], [follower])
    layer = BilevelLayer(problem, [p], [x, y])
    at = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    answer = layer.solve(at)
    np.testing.assert_allclose(answer.values[0].detach(), at.detach(), atol=1e-9)
    answer.values[0].sum().backward()
    np.testing.assert_allclose(at.grad, [1.0, 1.0, 1.0], atol=1e-9)
    assert answer.report.kind == (GradientKind.CLASSICAL,) * 3


def test_a_price_in_the_leaders_problem():
    x, a, b = cp.Variable(name="x"), cp.Variable(name="a"), cp.Variable(name="b")
    need = cp.Parameter(name="need", value=10.0)
    demand = a + b >= need
    market = bl.Follower(
        cp.Minimize(2 * a + cp.square(b) / 2), [demand, a <= x, a >= 0, b >= 0], [a, b]
    )
    price = market.dual(demand)
    problem = bl.Problem(cp.Minimize(4 * price + cp.square(x) / 2), [x >= 0, x <= 10], [market])
    layer = BilevelLayer(problem, [need], [x, price, b, market.value])
    found = bl.gradcheck(layer, tensors_of([need]))
    assert found.passed, found.summary()


def test_several_followers_and_a_nash_game_among_them():
    x, p = cp.Variable(name="x"), cp.Parameter(2, name="p", value=[1.0, 0.4])
    y, z = cp.Variable(name="y"), cp.Variable(name="z")
    first = bl.Follower(cp.Minimize(cp.square(y - p[0] - x + z / 2)), [y >= 0], [y], name="first")
    second = bl.Follower(cp.Minimize(cp.square(z - p[1] + y / 2)), [z <= 2], [z], name="second")
    problem = bl.Problem(
        cp.Minimize(cp.square(x - 1) + cp.square(y) + z), [x >= -2, x <= 2], [first, second]
    )
    layer = BilevelLayer(problem, [p], [x, y, z])
    assert bl.gradcheck(layer, tensors_of([p])).passed


def test_stackelberg_and_nash_differ():
    # The follower copies the leader: y = x + p. A leader that sees it minimizes x (x + p - 1).
    x, y, p = cp.Variable(name="x"), cp.Variable(name="y"), cp.Parameter(name="p")
    follower = bl.Follower(cp.Minimize(cp.square(y - x - p)), [], [y])
    problem = bl.Problem(cp.Minimize(cp.square(x) + x * (y - 1)), [x >= -3, x <= 3], [follower])
    at = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    for equilibrium, value, slope in (
        ("stackelberg", (1 - 0.2) / 4, -0.25),
        ("nash", (1 - 0.2) / 3, -1 / 3),
    ):
        (best,) = BilevelLayer(problem, [p], [x], equilibrium=equilibrium)(at)
        (gradient,) = torch.autograd.grad(best, at)
        assert float(best.detach()) == pytest.approx(value, abs=1e-9)
        assert float(gradient) == pytest.approx(slope, abs=1e-9)


def test_an_integer_leader_is_a_constant():
    k = cp.Variable(boolean=True, name="k")
    x, y, p = cp.Variable(name="x"), cp.Variable(name="y"), cp.Parameter(name="p", value=0.5)
    follower = bl.Follower(cp.Minimize(cp.square(y - x - 2 * k)), [y <= 3], [y])
    problem = bl.Problem(
        cp.Minimize(cp.square(y - 2 - p) + 0.1 * cp.square(x) + 0.01 * k),
        [x >= 0, x <= 1],
        [follower],
    )
    layer = BilevelLayer(problem, [p], [x, y, k])
    found = bl.gradcheck(layer, tensors_of([p]))
    assert found.passed, found.summary()


def simple(**settings):
    x, y, p = cp.Variable(name="x"), cp.Variable(name="y"), cp.Parameter(name="p")
    follower = bl.Follower(cp.Minimize(cp.square(y - x)), [y >= p], [y])
    problem = bl.Problem(cp.Minimize(cp.square(x - 2) + y), [x >= -1, x <= 1], [follower])
    rows = problem.replace(constraints=[*problem.constraints, y <= 4])
    return BilevelLayer(rows, [p], [x, y], **settings)


@pytest.mark.parametrize("policy", ["nan", "zero"])
def test_an_infeasible_instance_costs_nobody_else(policy):
    layer = simple(on_failure=policy)
    good = torch.tensor([0.0, 2.0, -1.0], dtype=torch.float64, requires_grad=True)
    mixed = torch.tensor([0.0, 9.0, 2.0, -1.0], dtype=torch.float64, requires_grad=True)
    alone, answer = layer(good), layer.solve(mixed)
    assert [s.has_point for s in answer.status] == [True, False, True, True]
    assert answer.status[1] is Status.INFEASIBLE
    assert answer.report.kind[1] is GradientKind.NONE
    keep = [0, 2, 3]
    for one, other in zip(answer.values, alone, strict=True):
        assert torch.equal(one[keep], other)
        bad = one[1].detach()
        assert bool(bad.isnan()) if policy == "nan" else float(bad) == 0.0
    sum(v[keep].sum() for v in answer.values).backward()
    sum(v.sum() for v in alone).backward()
    assert torch.equal(mixed.grad[keep], good.grad)
    assert float(mixed.grad[1]) == 0.0


def test_raise_names_the_instance():
    with pytest.raises(BatchFailed, match="instance 1: INFEASIBLE") as caught:
        simple()(torch.tensor([0.0, 9.0, 2.0]))
    assert caught.value.instances == (1,)


def test_precision_shape_and_second_derivatives():
    layer = simple()
    x, y = layer(torch.tensor(0.0))
    assert x.dtype is torch.float32
    assert x.shape == ()
    p = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(p)[1].sum(), p, create_graph=True)
    with pytest.raises(bl.errors.UnsupportedDerivative, match="second derivative"):
        torch.autograd.grad(slope.sum(), p)
    with pytest.raises(bl.errors.UnsupportedDerivative, match=r"torch\.func"):
        torch.func.jacrev(lambda q: layer(q)[0])(p.detach())


def test_batched_is_looped_and_warm_starts_change_nothing():
    problem, parameters, variables, _ = family(2, "qp")
    layer = BilevelLayer(problem, parameters, variables)
    fixed = tensors_of(parameters)
    p = torch.stack([fixed[0], fixed[0] + 0.1, fixed[0] - 0.2]).requires_grad_()
    shared = fixed[1].clone().requires_grad_()
    batched = layer(p, shared, *fixed[2:])
    again = layer(p, shared, *fixed[2:], warm_start=True)
    again = layer(p, shared, *fixed[2:], warm_start=True)
    sum(v.sum() for v in batched).backward()
    slopes = torch.zeros_like(shared)
    for i in range(3):
        one, q = p[i].detach().clone().requires_grad_(), shared.detach().clone().requires_grad_()
        single = layer(one, q, *fixed[2:])
        for a, b, c in zip(batched, single, again, strict=True):
            np.testing.assert_allclose(a[i].detach(), b.detach(), atol=1e-9)
            np.testing.assert_allclose(c[i].detach(), b.detach(), atol=1e-7)
        sum(v.sum() for v in single).backward()
        np.testing.assert_allclose(p.grad[i], one.grad, atol=1e-9)
        slopes += q.grad
    np.testing.assert_allclose(shared.grad, slopes, atol=1e-9)


def test_what_is_refused_and_why():
    x, y, p = cp.Variable(name="x"), cp.Variable(name="y"), cp.Parameter(name="p")
    follower = bl.Follower(cp.Minimize(cp.square(y - x) + p * y), [y >= 0], [y])
    problem = bl.Problem(cp.Minimize(cp.square(x) + y), [x >= -1, x <= 1], [follower])
    with pytest.raises(bl.UnsupportedProblem, match="pessimistic"):
        BilevelLayer(problem.replace(stance="pessimistic"), [p], [x])
    with pytest.raises(bl.ProblemError, match="p of the problem must be listed"):
        BilevelLayer(problem, [], [x])
    with pytest.raises(bl.ProblemError, match="does not occur in the problem"):
        BilevelLayer(problem, [p, cp.Parameter(name="q")], [x])
    with pytest.raises(bl.ProblemError, match="no variable of the problem"):
        BilevelLayer(problem, [p], [cp.Variable(name="z")])
    with pytest.raises(bl.ProblemError, match="equilibrium"):
        BilevelLayer(problem, [p], [x], equilibrium="cournot")
    with pytest.raises(bl.ProblemError, match=r"bilevel\.Problem"):
        BilevelLayer(cp.Problem(cp.Minimize(x)), [], [x])
    curved = bl.Follower(cp.Minimize(cp.exp(y) - y * 2 + p * y), [y >= x], [y])
    with pytest.raises(bl.UnsupportedProblem, match="exponential"):
        BilevelLayer(bl.Problem(cp.Minimize(x), [x >= 0], [curved]), [p], [x])
    with pytest.raises(bl.ProblemError, match="lstsq"):
        BilevelLayer(problem, [p], [x], adjoint=adjoints.KKT(degenerate="barrier"))


def test_an_answer_that_is_not_unique_says_so():
    x, y, p = cp.Variable(2, name="x"), cp.Variable(name="y"), cp.Parameter(name="p")
    follower = bl.Follower(cp.Minimize(cp.square(y - cp.sum(x) + p)), [y >= 0], [y])
    problem = bl.Problem(cp.Minimize(cp.square(y - 1)), [x >= -3, x <= 3], [follower])
    answer = BilevelLayer(problem, [p], [x, y]).solve(torch.tensor(0.3, dtype=torch.float64))
    assert answer.report.kind[0] is not GradientKind.CLASSICAL
    assert answer.report.notes
    with pytest.raises(bl.errors.UnsupportedDerivative):
        BilevelLayer(problem, [p], [x, y], adjoint=adjoints.KKT(degenerate="raise"))(
            torch.tensor(0.3)
        )


def test_a_nash_game_with_cones():
    x, y = cp.Variable(2, name="x"), cp.Variable(2, name="y")
    p = cp.Parameter(2, name="p", value=[0.3, -0.2])
    follower = bl.Follower(cp.Minimize(cp.sum_squares(y - x - p)), [cp.norm(y) <= 0.8], [y])
    goal = np.array([1.0, 0.5])
    problem = bl.Problem(
        cp.Minimize(cp.sum_squares(x - goal) + x @ y), [cp.norm(x) <= 1.2], [follower]
    )
    layer = BilevelLayer(problem, [p], [x, y], equilibrium="nash")
    answer = layer.solve(*tensors_of([p]))
    found, other = (value.detach().numpy() for value in answer.values)
    np.testing.assert_allclose(found, goal - other / 2, atol=1e-9)
    wish = found + p.value
    np.testing.assert_allclose(other, wish * min(1.0, 0.8 / np.linalg.norm(wish)), atol=1e-9)
    assert answer.report.kind == (GradientKind.CLASSICAL,)
    assert bl.gradcheck(layer, tensors_of([p])).passed


def test_a_game_that_does_not_settle_down_has_no_answer():
    x, y, p = cp.Variable(name="x"), cp.Variable(name="y"), cp.Parameter(name="p")
    follower = bl.Follower(cp.Minimize(cp.square(y + 2 * x) + p * y), [cp.norm(y) <= 9], [y])
    problem = bl.Problem(cp.Minimize(cp.square(x - 2 * y - 1)), [x >= -9, x <= 9], [follower])
    layer = BilevelLayer(problem, [p], [x, y], equilibrium="nash", on_failure="nan")
    answer = layer.solve(torch.tensor([0.0]))
    if answer.status[0].has_point:
        np.testing.assert_allclose(
            answer.values[1].detach(), -2 * answer.values[0].detach(), atol=1e-4
        )
    else:
        assert bool(answer.values[0].isnan().all())
