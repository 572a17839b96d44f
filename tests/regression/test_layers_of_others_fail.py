"""What layers of other libraries get wrong without a word must be right here.

The oracles are closed forms, optimality conditions in NumPy, and derivatives by complex steps or
finite differences of full solves.
"""

import cvxpy as cp
import numpy as np
import pytest
import torch

from bilevel import Status, backends
from bilevel.adjoints import KKT, Cone, GradientKind
from bilevel.errors import UnsupportedDerivative
from bilevel.layers import BatchFailed, FollowerLayer

QP_BACKENDS = [None, "clarabel", "daqp", "highs", "proxsuite", "moreau"]
EVERY_BACKEND = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(name, marks=[pytest.mark.backend(name)] if name else [], id=str(name))
        for name in QP_BACKENDS
    ],
)


def tensor(*numbers, grad=False):
    return torch.tensor(np.array(numbers).squeeze(), dtype=torch.float64, requires_grad=grad)


def scalar(constraints, cost=lambda y, p: cp.square(y - p), **options):
    """Return the layer of a program in one variable with one parameter."""
    y, p = cp.Variable(name="y"), cp.Parameter(name="p")
    problem = cp.Problem(cp.Minimize(cost(y, p)), constraints(y, p))
    return FollowerLayer(problem, [p], [y], **options)


class StandardQP:
    """``min y'P y / 2 + q'y``, ``G y <= h``, ``A y == b``, all data inputs, multipliers outputs."""

    def __init__(self, n, m, p, **options):
        self.sizes = n, m, p
        y = cp.Variable(n)
        shapes = [(n, n), (n,), (m, n), (m,), (p, n), (p,)]
        P, q, G, h, A, b = parameters = [cp.Parameter((n, n), PSD=True)] + [
            cp.Parameter(shape) for shape in shapes[1:]
        ]
        rows = [G @ y <= h, A @ y == b]
        problem = cp.Problem(cp.Minimize(0.5 * cp.quad_form(y, P) + q @ y), rows)
        duals = [row.dual_variables[0] for row in rows]
        self.layer = FollowerLayer(problem, parameters, [y, *duals], **options)

    def draw(self, count, seed=0):
        """Return random data, a third of the rows active with multipliers around one."""
        rng, (n, m, p) = np.random.default_rng(seed), self.sizes
        L, G = rng.standard_normal((count, n, n)), rng.standard_normal((count, m, n))
        A, y = rng.standard_normal((count, p, n)), rng.standard_normal((count, n, 1))
        P = L @ L.swapaxes(1, 2) / n + 0.1 * np.eye(n)
        active = rng.random((count, m, 1)) < 0.2
        slack, z = rng.uniform(0.1, 1, (2, count, m, 1)) * np.stack([~active, active])
        nu = rng.standard_normal((count, p, 1))
        q = -(P @ y + G.swapaxes(1, 2) @ z + A.swapaxes(1, 2) @ nu)
        parts = (P, q[..., 0], G, (G @ y + slack)[..., 0], A, (A @ y)[..., 0])
        return parts, (y[..., 0], z[..., 0], nu[..., 0])


# -------------------------------------------------------- a: gradients of semidefinite programs


def nearest_psd(M):
    values, Q = np.linalg.eigh((M + M.T) / 2)
    return (Q * values.clip(0)) @ Q.T


@pytest.mark.parametrize("n", [4, 5, 6])
@pytest.mark.parametrize("solver", [None, "clarabel"])
def test_a_semidefinite_gradients(n, solver):
    Y, C = cp.Variable((n, n), symmetric=True), cp.Parameter((n, n), symmetric=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(Y - C)), [Y >> 0])
    layer = FollowerLayer(problem, [C], [Y], backend=solver)
    rng = np.random.default_rng(n)
    M, W, D = rng.standard_normal((3, 6, n, n))
    M, D = M + M.swapaxes(1, 2), D + D.swapaxes(1, 2)
    leaf = tensor(M, grad=True)
    (projected,) = layer(leaf)
    (slope,) = torch.autograd.grad((projected * tensor(W)).sum(), leaf)
    for i in range(6):
        np.testing.assert_allclose(projected[i].detach(), nearest_psd(M[i]), atol=1e-12)
        step = 1e-6
        change = nearest_psd(M[i] + step * D[i]) - nearest_psd(M[i] - step * D[i])
        expected = (change * W[i]).sum() / (2 * step)
        assert (slope[i].numpy() * D[i]).sum() == pytest.approx(expected, abs=1e-7, rel=1e-7)


# ----------------------------------------------------- b, g: what has no answer returns no number


def without_answer(kind, **options):
    """Return a layer that has an answer for ``p = 1`` and none for ``p = -1``."""
    y, p = cp.Variable(2), cp.Parameter()
    cost, rows = {
        "infeasible QP": (cp.sum_squares(y), [y >= 0, cp.sum(y) <= p]),
        "infeasible LP": (cp.sum(y), [y >= 0, cp.sum(y) <= p]),
        "unbounded LP": (p * cp.sum(y), [y >= 0]),
        "unbounded QP": (cp.square(y[0]) + p * y[1], [y >= -1]),
        "infeasible SOCP": (cp.sum(y), [cp.norm(y) <= p]),
        "unbounded SOCP": (p * y[0], [cp.norm(y[1:]) <= y[0]]),
        "infeasible SDP": (cp.sum(y), [cp.bmat([[y[0], 1], [1, y[1]]]) >> 0, cp.sum(y) <= 3 * p]),
        "infeasible exponential": (cp.sum(y), [cp.exp(y[0]) <= p, y >= -2]),
    }[kind]
    return FollowerLayer(cp.Problem(cp.Minimize(cost), rows), [p], [y], **options)


KINDS = [
    *("infeasible QP", "infeasible LP", "unbounded LP", "unbounded QP"),
    *("infeasible SOCP", "unbounded SOCP", "infeasible SDP", "infeasible exponential"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"solver_args": {"solve_method": "Clarabel"}}], ids=str)
def test_b_infeasible_and_unbounded_are_errors(kind, options):
    verdict = Status.INFEASIBLE if kind.startswith("infeasible") else Status.UNBOUNDED
    layer = without_answer(kind, **options)
    assert torch.isfinite(layer(tensor(1.0))[0]).all()
    with pytest.raises(BatchFailed, match=verdict.name) as caught:
        layer(tensor(1.0, 2.0, -1.0, 3.0))
    assert caught.value.instances == (2,)
    assert caught.value.status == (Status.OPTIMAL,) * 2 + (verdict, Status.OPTIMAL)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("on_failure", ["nan", "zero"])
def test_b_one_infeasible_instance_does_not_cost_the_batch(kind, on_failure):
    layer = without_answer(kind, on_failure=on_failure)
    p = tensor(1.0, 2.0, -1.0, 3.0, grad=True)
    answer = layer.solve(p)
    (y,) = answer.values
    assert answer.status[2] in (Status.INFEASIBLE, Status.UNBOUNDED)
    assert answer.report.kind[2] is GradientKind.NONE
    assert y[2].isnan().all() if on_failure == "nan" else (y[2] == 0).all()
    y[[0, 1, 3]].sum().backward()
    assert p.grad.isfinite().all()
    assert p.grad[2] == 0
    for i in (0, 1, 3):
        alone = p[i].detach().clone().requires_grad_()
        (own,) = layer(alone)
        own.sum().backward()
        torch.testing.assert_close(own, y[i], rtol=0, atol=1e-12)
        torch.testing.assert_close(alone.grad, p.grad[i], rtol=0, atol=1e-11)


@EVERY_BACKEND
def test_g_infeasible_is_not_zero(backend):
    layer = scalar(lambda y, p: [y >= p, y <= 0], lambda y, p: y, backend=backend)
    assert layer(tensor(-1.0, -2.0))[0].tolist() == pytest.approx([-1.0, -2.0], abs=1e-12)
    with pytest.raises(BatchFailed) as caught:
        layer(tensor(-1.0, 1.0))
    assert caught.value.instances == (1,)


# ------------------------------------------------------------------- c: bounds are not dropped


@EVERY_BACKEND
@pytest.mark.parametrize("written", ["row", "attribute", "turned", "bounds"])
def test_c_nonnegative_variables_stay_nonnegative(written, backend):
    attributes = {"attribute": {"nonneg": True}, "bounds": {"bounds": [0, None]}}.get(written, {})
    y, p = cp.Variable(3, **attributes), cp.Parameter(3)
    rows = {"row": [y >= 0], "turned": [-y <= 0]}.get(written, [])
    if backend != "highs":  # linear programs only
        nearest = cp.Problem(cp.Minimize(cp.sum_squares(y - p)), rows)
        (found,) = FollowerLayer(nearest, [p], [y], backend=backend)(tensor(-3.0, 0.5, -1e-3))
        np.testing.assert_allclose(found, [0.0, 0.5, 0.0], atol=1e-12)
    simplex = cp.Problem(cp.Minimize(p @ y), [*rows, cp.sum(y) == 1])
    (found,) = FollowerLayer(simplex, [p], [y], backend=backend)(tensor(0.3, 0.2, 0.9))
    np.testing.assert_allclose(found, [0.0, 1.0, 0.0], atol=1e-12)


# ------------------------------------------------------- d: shared gradients are sums, not means


@pytest.mark.parametrize("count", [1, 4, 7])
def test_d_the_gradient_of_a_shared_input_is_the_sum(count):
    y, p, scale = cp.Variable(2), cp.Parameter(2), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(y - p) + 2 * scale * cp.sum(y)), [y <= 9])
    layer = FollowerLayer(problem, [p, scale], [y])
    shared = tensor(0.75, grad=True)
    (answers,) = layer(torch.zeros(count, 2, dtype=torch.float64), shared)
    answers.sum().backward()
    assert answers.shape == (count, 2)
    assert shared.grad == pytest.approx(-2.0 * count, abs=1e-12)  # y = p - scale


# ---------------------------------------------------------------------- e: the optimum is right


@pytest.mark.parametrize("sizes", [(10, 10, 2), (50, 50, 10)], ids=str)
def test_e_every_one_of_many_random_programs_is_solved(sizes):
    program = StandardQP(*sizes)
    data, planted = program.draw(128)
    answer = program.layer.solve(*map(tensor, data))
    assert answer.status == (Status.OPTIMAL,) * 128
    for found, expected in zip(answer.values, planted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@EVERY_BACKEND
def test_e_named_backends_end_at_the_same_optimum_or_refuse(backend):
    program = StandardQP(10, 10, 2, backend=backend)
    if backend == "highs":
        with pytest.raises(BatchFailed, match="backend 'highs' does not take it"):
            program.layer(*map(tensor, program.draw(1)[0]))
        return
    data, planted = program.draw(8, seed=1)
    for found, expected in zip(program.layer(*map(tensor, data)), planted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


# -------------------------------------------------------------- f: second derivatives are right


def test_f_second_derivatives_include_those_of_the_multiplier():
    # min (y - p)^2 / 2, a y <= 1: for p a > 1 the answer is 1 / a, the multiplier (p - 1 / a) / a.
    y, a, p = cp.Variable(), cp.Parameter(), cp.Parameter()
    row = a * y <= 1
    problem = cp.Problem(cp.Minimize(0.5 * cp.square(y - p)), [row])
    layer = FollowerLayer(problem, [a, p], [y, row.dual_variables[0]])
    value = tensor(1.25, grad=True)
    answer, multiplier = layer(value, tensor(3.0))

    def slopes(one):
        found = []
        for _ in range(3):
            (one,) = torch.autograd.grad(one, value, create_graph=True)
            found.append(one.item())
        return tuple(found)

    a, p = 1.25, 3.0
    assert slopes(answer) == pytest.approx((-1 / a**2, 2 / a**3, -6 / a**4), rel=1e-12)
    expected = (-p / a**2 + 2 / a**3, 2 * p / a**3 - 6 / a**4, -6 * p / a**4 + 24 / a**5)
    assert slopes(multiplier) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("sparse", [False, True])
def test_f_double_backward_of_a_general_program(sparse):
    n = 3
    y, q, G, h = cp.Variable(n), cp.Parameter(n), cp.Parameter((2, n)), cp.Parameter(2)
    row = G @ y <= h
    problem = cp.Problem(cp.Minimize(cp.sum_squares(y) + q @ y), [row, cp.sum(y) == 1])
    layer = FollowerLayer(problem, [q, G, h], [y, *row.dual_variables], adjoint=KKT(sparse=sparse))
    data = tensor(1.0, -2.0, 0.5), tensor([[1.0, 2.0, 0.3], [0.2, 0.1, 1.0]]), tensor(0.9, 5.0)
    data = [one.requires_grad_() for one in data]
    assert torch.autograd.gradgradcheck(layer, data, atol=1e-7, rtol=1e-6)


def test_f_where_it_is_not_available_it_is_refused():
    y, p = cp.Variable(), cp.Parameter()
    layer = FollowerLayer(cp.Problem(cp.Minimize(cp.exp(y) - p * y)), [p], [y])
    value = tensor(2.0, grad=True)
    (slope,) = torch.autograd.grad(layer(value)[0], value, create_graph=True)
    assert slope.item() == pytest.approx(0.5, rel=1e-12)
    with pytest.raises(UnsupportedDerivative, match="second derivative"):
        slope.backward()


# ------------------------------------------------------------- h: kinks and ties are reported


@pytest.mark.parametrize("adjoint", [KKT(), KKT(sparse=True), Cone()], ids=str)
def test_h_a_weakly_active_bound_is_named(adjoint):
    layer = scalar(lambda y, p: [y >= 0], lambda y, p: cp.square(y) - 2 * p * y, adjoint=adjoint)
    answer = layer.solve(tensor(-1.0, 0.0, 1.0))
    assert [kind.name for kind in answer.report.kind] == ["CLASSICAL", "ONE_SIDED", "CLASSICAL"]
    assert answer.report.margin[1] < 1e-9
    assert "instance 1: a one-sided derivative" in answer.report.summary()


def test_h_tied_optima_are_named():
    y, c = cp.Variable(2, nonneg=True), cp.Parameter(2)
    layer = FollowerLayer(cp.Problem(cp.Minimize(c @ y), [cp.sum(y) == 1]), [c], [y])
    answer = layer.solve(tensor([[1.0, 2.0], [1.0, 1.0]]))
    assert answer.report.kind == (GradientKind.CLASSICAL, GradientKind.SURROGATE)
    assert answer.values[0][1] @ tensor(1.0, 1.0) == pytest.approx(1.0, abs=1e-12)


def test_h_a_duplicated_active_row_is_named():
    y, p = cp.Variable(2), cp.Parameter(2)
    rows = [cp.sum(y) <= 1, cp.sum(y) <= 1]
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(y - p)), rows)
    layer = FollowerLayer(problem, [p], [y, *(row.dual_variables[0] for row in rows)])
    value = tensor(2.0, 1.0, grad=True)
    answer = layer.solve(value)
    point, first, second = answer.values
    assert not answer.report.kind[0].is_exact
    assert "weakly active: c" in answer.report.notes[0]
    assert (first + second).item() == pytest.approx(1.0, abs=1e-12)
    # The answer itself is differentiable: the projection onto a line.
    np.testing.assert_allclose(point.detach(), [1.0, 0.0], atol=1e-12)
    (slope,) = torch.autograd.grad(point[0], value)
    np.testing.assert_allclose(slope, [0.5, -0.5], atol=1e-12)


# ------------------------------------------------------------------------- i: default accuracy


def test_i_a_projection_in_the_plane_is_exact():
    y, p = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(y - p)), [y >= 0, cp.sum(y) <= 1])
    layer = FollowerLayer(problem, [p], [y])
    value = tensor(0.9, 0.6, grad=True)
    (point,) = layer(value)
    np.testing.assert_allclose(point.detach(), [0.65, 0.35], rtol=0, atol=1e-15)
    (slope,) = torch.autograd.grad(point[0], value)
    np.testing.assert_allclose(slope, [0.5, -0.5], rtol=0, atol=1e-15)


@pytest.mark.parametrize("n", [50, 100])
def test_i_gradients_of_large_programs_are_exact(n):
    """Against complex steps through the linear system of the planted active rows."""
    program, count = StandardQP(n, n, n // 5), 6
    data, (y, z, nu) = program.draw(count, seed=2)
    leaves = [tensor(one, grad=True) for one in data]
    answer = program.layer.solve(*leaves)
    rng = np.random.default_rng(3)
    weight = rng.standard_normal(y.shape)
    slopes = torch.autograd.grad((answer.values[0] * tensor(weight)).sum(), leaves)
    directions = [rng.standard_normal(one.shape) for one in data]
    directions[0] += directions[0].swapaxes(1, 2)
    assert answer.report.kind == (GradientKind.CLASSICAL,) * count
    for i in range(count):
        P, q, G, h, A, b = (
            one[i] + 1e-40j * step[i] for one, step in zip(data, directions, strict=True)
        )
        active = z[i] > 0
        J = np.concatenate([G[active], A])
        K = np.block([[P, J.T], [J, np.zeros((len(J), len(J)))]])
        moved = np.linalg.solve(K, np.concatenate([-q, h[active], b]))[:n].imag / 1e-40
        found = sum(
            (s[i].numpy() * step[i]).sum() for s, step in zip(slopes, directions, strict=True)
        )
        assert found == pytest.approx(moved @ weight[i], rel=1e-10, abs=1e-10)


# ----------------------------------------------------------------------- j: the scalar root


def test_j_the_derivative_of_a_scalar_answer_is_not_zero():
    # The root of exp(y) = p, and of y^2 + p y's derivative.
    value = tensor(3.0, grad=True)
    assert value.ndim == 0
    (root,) = scalar(lambda y, p: [], lambda y, p: cp.exp(y) - p * y)(value)
    assert root.ndim == 0
    (slope,) = torch.autograd.grad(root, value)
    assert (root.item(), slope.item()) == pytest.approx((np.log(3.0), 1 / 3.0), rel=1e-12)
    (root,) = scalar(lambda y, p: [], lambda y, p: cp.square(y) + p * y)(value)
    (slope,) = torch.autograd.grad(root, value)
    assert (root.item(), slope.item()) == pytest.approx((-1.5, -0.5), rel=1e-14)


def test_installed_backends_are_among_those_tested():
    assert set(backends.available()) - {"scip", "tree", "ipopt", "gurobi"} <= set(QP_BACKENDS)
