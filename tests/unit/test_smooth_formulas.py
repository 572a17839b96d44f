"""The formulas of smooth bilevel problems, and the printed ones that are wrong.

Oracles are finite differences of full solves, dense matrices built from the definitions, and
closed forms.
"""

import pytest
import torch
from torch.func import grad, jacrev

import bilevel as bl
from bilevel import adjoints
from bilevel.layers import SmoothBilevelLayer

N, P = 4, 3


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def _spd(n, g):
    root = torch.randn(n, n, generator=g, dtype=torch.float64)
    return root @ root.T / n + torch.eye(n, dtype=torch.float64)


def _problem(kind, m=6, seed=1):
    """The QP-QP and the nonlinear problem."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    A, B, C, D = _spd(N, g), _spd(m, g), draw(N, P), draw(m, P)
    E, Q, z = draw(m, N) / 2, draw(N, m) / 2, draw(P)
    if kind == "quadratic":

        def F(x, y, z):
            return x @ A @ x / 2 + x @ Q @ y + (y**2).sum() + x @ C @ z

        def f(x, y, z):
            return y @ B @ y / 2 + y @ E @ x + y @ D @ z
    else:

        def F(x, y, z):
            return x @ A @ x / 2 + (y - z.sum()).square().sum() / 2 + (x @ C @ z + y @ D @ z).sin()

        def f(x, y, z):
            quartic = (y**4).sum() / 4 + (y @ D @ z) ** 2 * x.square().sum() / 10
            return y @ B @ y / 2 + quartic + y @ E @ x.sin() + y @ D @ z

    return F, f, z, (torch.zeros(N).double(), torch.zeros(m).double())


def _jacobian(layer, z):
    def flat(z):
        return torch.cat([part.reshape(-1) for part in layer(z)])

    z = z.clone().requires_grad_()
    out = flat(z)
    rows = [torch.autograd.grad(one, z, retain_graph=True)[0].reshape(-1) for one in out]
    differences = []
    for i in range(z.numel()):
        step = torch.zeros_like(z).reshape(-1)
        step[i] = 1e-5
        step = step.reshape(z.shape)
        with torch.no_grad():
            differences.append((flat(z + step) - flat(z - step)) / 2e-5)
    return torch.stack(rows), torch.stack(differences, -1)


def _error(found, true):
    return float(torch.linalg.norm(found - true) / torch.linalg.norm(true))


@pytest.mark.parametrize("m", [4, 6])
@pytest.mark.parametrize("kind", ["quadratic", "nonlinear"])
@pytest.mark.parametrize("method", ["dense", "minres", "nested"])
def test_total_derivatives_match_differences_of_full_solves(kind, method, m):
    F, f, z, start = _problem(kind, m)
    layer = SmoothBilevelLayer(
        F, f, start=start, in_dims=None, adjoint=adjoints.Implicit(method, rtol=1e-13)
    )
    found, true = _jacobian(layer, z)
    assert _error(found, true) < 1e-8


@pytest.mark.parametrize("kind", ["quadratic", "nonlinear"])
def test_the_printed_conditions_and_matrix_are_wrong_and_ours_are_not(kind):
    """BIGRAD's Eq. 4 lacks an inverse and transposes, the matrix of A.3 has one block twice."""
    F, f, z, start = _problem(kind, m=4)
    x, y = (part.detach() for part in SmoothBilevelLayer(F, f, start=start, in_dims=None)(z))

    def G(x, y):
        return grad(f, 1)(x, y, z)

    def conditions(x, y):
        G_x, G_y = jacrev(G, (0, 1))(x, y)
        return grad(F)(x, y, z) - G_x.T @ torch.linalg.solve(G_y.T, grad(F, 1)(x, y, z))

    G_x, G_y = jacrev(G, (0, 1))(x, y)
    printed = grad(F)(x, y, z) - grad(F, 1)(x, y, z) @ G_y @ G_x
    assert torch.linalg.norm(conditions(x, y)) < 1e-12
    assert torch.linalg.norm(printed) > 1e-2

    F_x, F_y = jacrev(conditions, (0, 1))(x, y)
    S = F_x - F_y @ torch.linalg.solve(G_y, G_x)
    assert torch.linalg.norm(S - S.T) < 1e-11
    assert torch.linalg.eigvalsh(S).min() > 0

    def of_z(z):
        def G(x, y, z):
            return grad(f, 1)(x, y, z)

        G_x, G_y = jacrev(G, (0, 1))(x, y, z)
        first = grad(F)(x, y, z) - G_x.T @ torch.linalg.solve(G_y.T, grad(F, 1)(x, y, z))
        return torch.cat([first, G(x, y, z)])

    w = torch.linspace(-1, 1, 8, dtype=torch.float64)
    right = torch.cat([torch.cat([F_x, F_y], 1), torch.cat([G_x, G_y], 1)]).T
    wrong = torch.cat([torch.cat([F_x.T, G_x.T], 1), torch.cat([F_y.T, F_y.T], 1)])
    leaf = z.clone().requires_grad_()
    values = torch.cat(SmoothBilevelLayer(F, f, start=start, in_dims=None)(leaf))
    (mine,) = torch.autograd.grad(values @ w, leaf)
    totals = [jacrev(of_z)(z).T @ torch.linalg.solve(J, -w) for J in (right, wrong)]
    assert _error(mine, totals[0]) < 1e-11
    assert _error(mine, totals[1]) > 0.05


@pytest.mark.parametrize("kind", ["quadratic", "nonlinear"])
def test_third_derivatives_matter_where_there_are_any(kind):
    F, f, z, start = _problem(kind)
    layer = SmoothBilevelLayer(F, f, start=start, in_dims=None)
    x, y = (part.detach() for part in layer(z))
    G_x, G_y = jacrev(grad(f, 1), (0, 1))(x, y, z)
    slope = torch.linalg.solve(G_y, G_x)

    def without(x, y, z):
        return torch.cat([grad(F)(x, y, z) - slope.T @ grad(F, 1)(x, y, z), grad(f, 1)(x, y, z)])

    J_x, J_y, J_z = jacrev(without, (0, 1, 2))(x, y, z)
    dropped = torch.linalg.solve(torch.cat([J_x, J_y], 1), -J_z)
    found, _ = _jacobian(layer, z)
    assert (_error(dropped, found) < 1e-11) == (kind == "quadratic")
    assert kind == "quadratic" or _error(dropped, found) > 1e-3


def test_a_zero_sum_game_needs_no_third_derivative_and_says_who_moves_first():
    g = torch.Generator().manual_seed(0)
    A, B = _spd(3, g), _spd(3, g)
    C = torch.randn(3, 3, generator=g, dtype=torch.float64)

    def payoff(x, y, z):
        return x @ A @ x / 2 + x @ C @ y - y @ B @ y / 2 + z @ (x + y) + (x.sin() * z).sum() / 5

    z = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
    zero = torch.zeros(3).double()
    layer = SmoothBilevelLayer(bl.SmoothProblem.min_max(payoff), start=(zero, zero), in_dims=None)
    found, true = _jacobian(layer, z)
    assert _error(found, true) < 1e-9
    x, y = (part.detach() for part in layer(z))
    assert torch.linalg.norm(grad(payoff)(x, y, z)) < 1e-12
    assert torch.linalg.norm(grad(payoff, 1)(x, y, z)) < 1e-12
    general = SmoothBilevelLayer(
        payoff, lambda x, y, z: -payoff(x, y, z), start=(zero, zero), in_dims=None
    )
    assert torch.allclose(general(z)[0], x, atol=1e-10)


def test_the_order_of_play_matters():
    """``(x - y)^2`` on [-1, 1]^2: min max is 1, max min is 0."""

    def box(x, y):
        both = torch.stack([x, -x]) - 1
        return both

    def rows(x, y):
        return torch.stack([y, -y]) - 1

    payoff = bl.SmoothProblem.max_min(lambda x, y: (x - y) ** 2, G=box, g=rows)
    solution = bl.solve(payoff, start=(number(0.3), number(0.1)))
    assert abs(solution.leader_value) < 1e-9


def test_equalities_agree_with_a_null_space_and_follow_their_data():
    """Rows that depend on ``z`` are differentiated; BIGRAD's Eq. 16 has a fixed null space."""
    g = torch.Generator().manual_seed(3)
    B, c = _spd(5, g), torch.randn(5, generator=g, dtype=torch.float64)
    A = torch.randn(2, 5, generator=g, dtype=torch.float64)

    def f(x, y, z):
        return y @ B @ y / 2 + c @ y

    def h(x, y, z):
        return (A * (1 + z)) @ y - x

    def F(x, y, z):
        return ((y - 1) ** 2).sum() + (x**2).sum()

    start = torch.zeros(2).double(), torch.zeros(5).double()
    layer = SmoothBilevelLayer(F, f, h=h, start=start, in_dims=None)
    z = number([0.4])
    found, true = _jacobian(layer, z)
    assert _error(found, true) < 1e-9
    x, y = (part.detach() for part in layer(z))
    rows = A * (1 + z)
    basis = torch.linalg.svd(rows)[2][2:].T
    x0 = torch.linalg.pinv(rows) @ x
    u = torch.linalg.solve(basis.T @ B @ basis, -basis.T @ (B @ x0 + c))
    assert torch.linalg.norm(x0 + basis @ u - y) < 1e-12


def _barrier_errors(t):
    """Errors of answer and derivative at barrier accuracy ``t``, strict complementarity holding."""
    B = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)

    def f(x, y, z):
        return y @ B @ y / 2 - z * y.sum()

    def g(x, y, z):
        return torch.stack([y[0] - 0.2, -y[1]])

    start = torch.zeros(0).double(), torch.zeros(2).double()
    parts = []
    for options in ({}, {"inequalities": "barrier", "barrier_parameter": t}):
        layer = SmoothBilevelLayer(f, f, g=g, start=start, in_dims=None, **options)
        z = number(1.5).requires_grad_()
        y = layer(z)[1]
        parts.append((y.detach(), torch.autograd.grad(y[1], z)[0]))
    (y, slope), (y_t, slope_t) = parts
    return float(torch.linalg.norm(y - y_t)), float(abs(slope - slope_t))


def test_a_barriers_errors_fall_as_one_over_t():
    errors = torch.tensor([_barrier_errors(t) for t in (1e3, 1e4, 1e5, 1e6)])
    slopes = (errors[1:].log10() - errors[:-1].log10()).mean(0)
    assert torch.allclose(slopes, torch.tensor([-1.0, -1.0]), atol=0.02)


def test_at_a_weakly_active_bound_the_barrier_takes_the_mean_of_the_sides():
    """``min (y - x)^2 / 2, y >= 0`` at ``x = 0``: the slopes are 0 and 1, the barrier's is 1/2."""
    problem = {
        "F": lambda x, y, z: (y - z) ** 2 / 2,
        "g": lambda x, y, z: -y,
        "start": (torch.zeros(0).double(), number(0.0)),
        "in_dims": None,
    }
    for t in (1e4, 1e6):
        layer = SmoothBilevelLayer(
            f=problem["F"], inequalities="barrier", barrier_parameter=t, **problem
        )
        z = number(0.0).requires_grad_()
        answer = layer.solve(z)
        y = answer.values[1]
        y.backward()
        assert float(y.detach()) == pytest.approx(t**-0.5, rel=1e-6)
        assert float(z.grad) == pytest.approx(0.5, rel=1e-6)
        assert answer.report.kind[0].name == "SMOOTHED"
    layer = SmoothBilevelLayer(f=problem["F"], **problem)
    answer = layer.solve(number(0.0))
    assert answer.report.kind[0].name == "ONE_SIDED"


def test_sensitivities_of_an_answer_with_an_equation():
    """T11: ``min y1^2 + x y1 y2 + 2 y2^2`` subject to ``y1^2 + y2 = 1 + x`` at ``x = 0.2``."""

    def f(x, y):
        return y[0] ** 2 + x * y[0] * y[1] + 2 * y[1] ** 2

    layer = SmoothBilevelLayer(
        lambda x, y, z: f(z, y), lambda x, y, z: f(z, y),
        h=lambda x, y, z: (y[0] ** 2 + y[1] - 1 - z).reshape(1),
        start=(torch.zeros(0).double(), number([1.0, 0.2])), in_dims=None,
    )  # fmt: skip
    z = number(0.2).requires_grad_()
    y = layer(z)[1]
    assert y.tolist() == pytest.approx([0.99736, 0.20528], abs=1e-5)
    slopes = [float(torch.autograd.grad(one, z, retain_graph=True)[0]) for one in y]
    assert slopes == pytest.approx([0.6343, -0.26525], abs=1e-4)


def test_unrolling_is_truncated_as_its_report_says():
    """T12: ``J_K = (I - (I - a H)^K) J``."""
    g = torch.Generator().manual_seed(0)
    H = _spd(5, g) + torch.diag(torch.linspace(0, 3, 5).double())
    C = torch.randn(5, 3, generator=g, dtype=torch.float64)
    problem = bl.SmoothProblem(lambda x, y: (y**2).sum(), lambda x, y: y @ H @ y / 2 - y @ C @ x)
    x = torch.ones(3).double().requires_grad_()
    y = torch.linalg.solve(H, C @ x.detach())
    J = torch.linalg.solve(H, C)
    a = 1 / torch.linalg.eigvalsh(H).max()
    for K in (1, 5, 20):
        unrolled = adjoints.Unrolled(K, float(a))
        out = unrolled.attach(problem, x, y)
        found = torch.stack([torch.autograd.grad(o, x, retain_graph=True)[0] for o in out])
        shrink = torch.linalg.matrix_power(torch.eye(5).double() - a * H, K)
        assert _error(found, (torch.eye(5).double() - shrink) @ J) < 1e-12
        told = unrolled.truncation(problem, x, y)
        assert told == pytest.approx(float(torch.linalg.matrix_norm(shrink, 2)), rel=1e-3)


def test_the_scalar_root_of_others_is_right_here():
    """TorchOpt returns a gradient of exactly zero for a scalar root."""
    problem = bl.SmoothProblem(lambda x, y: y, lambda x, y: y.exp() - x * y)
    for method in ("dense", "cg", "minres"):
        x = number(2.0).requires_grad_()
        y = adjoints.Implicit(method).attach(problem, x, x.detach().log())
        y.backward()
        assert float(x.grad) == pytest.approx(0.5, rel=1e-12)


def test_weights_of_a_penalty_on_an_old_task():
    """T17: ``theta = (a + w b) / (1 + w)``; the best weight is 1, the slope there -1/2."""
    a, b = 1.0, -1.0
    problem = bl.SmoothProblem(
        F=lambda w, y: (y - a) ** 2 / 2 + (y - b) ** 2 / 2,
        f=lambda w, y: (y - a) ** 2 / 2 + w * (y - b) ** 2 / 2,
    )
    solution = bl.solve(problem, start=(number(0.3), number(0.0)))
    assert float(solution.x) == pytest.approx(1, abs=1e-8)
    assert float(solution.y) == pytest.approx(0, abs=1e-8)
    w = number(1.0).requires_grad_()
    adjoints.Implicit().attach(problem, w, number(0.0)).backward()
    assert float(w.grad) == pytest.approx(-0.5, rel=1e-12)


def test_the_barrier_goes_through_the_kink_of_the_lasso_at_one_half():
    """T13: weight and coefficient equal: one-sided slopes 0 and -1, the split barrier -1/2."""

    def f(x, y, z):
        return (y[0] - y[1] - 1) ** 2 / 2 + z * y.sum()

    layer = SmoothBilevelLayer(
        f, f, g=lambda x, y, z: -y, inequalities="barrier", barrier_parameter=1e8,
        start=(torch.zeros(0).double(), number([0.1, 0.1])), in_dims=None,
    )  # fmt: skip
    z = number(1.0).requires_grad_()
    y = layer(z)[1]
    (y[0] - y[1]).backward()
    assert float(z.grad) == pytest.approx(-0.5, abs=1e-3)
