"""Solvers of smooth problems on textbook problems with known answers."""

import dataclasses
import warnings

import cvxpy as cp
import numpy as np
import pytest
import torch

import bilevel as bl
from bilevel import Status, adjoints
from bilevel.errors import BilevelWarning, UnsupportedDerivative
from bilevel.solvers.smooth import Newton, SearchReport, Task


def number(value):
    return torch.tensor(value, dtype=torch.float64)


SGD = bl.HypergradientDescent(lambda x: torch.optim.SGD(x, lr=0.1), atol=1e-8)
LBFGS = bl.HypergradientDescent(
    lambda x: torch.optim.LBFGS(x, line_search_fn="strong_wolfe"), atol=1e-8
)
UNROLLED = bl.HypergradientDescent(
    lambda x: torch.optim.SGD(x, lr=0.1), adjoint=adjoints.Unrolled(60), atol=1e-8
)
FREE = [bl.ReducedNewton(), SGD, LBFGS, UNROLLED]
NAMES = ["newton", "sgd", "lbfgs", "unrolled"]


def box(low, high):
    return lambda x, y: torch.stack([low - x, x - high])


PRICING = bl.SmoothProblem(lambda x, y: -(x - 1) * y, lambda x, y: -(10 * y - y**2 - x * y))


@pytest.mark.parametrize("solver", FREE, ids=NAMES)
def test_pricing(solver):
    """T16: price 5.5, profit 10.125."""
    solution = bl.solve(PRICING, solver, start=(number(4.0), number(1.0)))
    assert solution.status is Status.STATIONARY
    assert float(solution.x) == pytest.approx(5.5, abs=1e-6)
    assert solution.leader_value == pytest.approx(-10.125, abs=1e-9)
    assert solution.follower_residual < 1e-9
    assert solution.hypergradient_norm < 1e-7
    assert "STATIONARY" in solution.summary()


def test_substitution():
    """T1: ``min x + y`` on [0, 1], ``y = x``: (0, 0)."""
    given = bl.SmoothProblem(lambda x, y: x + y, lambda x, y: (y - x) ** 2 / 2, G=box(0.0, 1.0))
    solution = bl.solve(given, start=(number(0.7), number(0.0)))
    assert solution.status is Status.STATIONARY
    assert abs(float(solution.x)) < 1e-9


@pytest.mark.parametrize(("begin", "x", "value"), [(0.0, 0.5, 4.5), (1.5, 2.0, 4.0)])
def test_a_local_method_ends_where_its_start_leads(begin, x, value):
    """T2: ``(x - 2)^2 + (y + 1)^2`` with ``y`` the projection of ``x`` on [-1, 1]."""
    given = bl.SmoothProblem(
        lambda x, y: (x - 2) ** 2 + (y + 1) ** 2,
        lambda x, y: (y - x) ** 2 / 2,
        g=lambda x, y: torch.stack([y - 1, -1 - y]),
    )
    solution = bl.solve(given, start=(number(begin), number(0.0)))
    assert float(solution.x) == pytest.approx(x, abs=1e-9)
    assert solution.leader_value == pytest.approx(value, abs=1e-9)
    assert solution.status is Status.STATIONARY


def test_a_multiplier_of_five():
    """T6b: no bound on multipliers is needed: (2, 3), value 0."""
    given = bl.SmoothProblem(
        lambda x, y: (x - 2) ** 2 + (y - 3) ** 2,
        lambda x, y: y**2 / 2 + x * y,
        g=lambda x, y: torch.stack([x + 1 - y, -y]),
    )
    solution = bl.solve(given, start=(number(0.0), number(2.0)))
    assert [float(solution.x), float(solution.y)] == pytest.approx([2, 3], abs=1e-8)
    assert abs(solution.leader_value) < 1e-12


def test_total_variation():
    """T20: ``u = (l, 4 - l)`` for ``l <= 2``; validation ``(1, 3)`` asks for ``l = 1``."""
    given = bl.SmoothProblem(
        lambda x, y: (y[0] - 1) ** 2 + (y[1] - 3) ** 2,
        lambda x, y: (y[0] ** 2 + (y[1] - 4) ** 2) / 2 + x * y[2],
        g=lambda x, y: torch.stack([y[1] - y[0] - y[2], y[0] - y[1] - y[2]]),
    )
    start = number(0.5), number([0.5, 3.5, 3.0])
    solution = bl.solve(given, start=start, throw=False)
    # The epigraph leaves no curvature in its own direction; its active row supplies it.
    assert solution.status is Status.STATIONARY
    assert float(solution.x) == pytest.approx(1, abs=1e-7)


def test_a_problem_without_leader_variables_and_a_tree_of_inputs():
    given = bl.SmoothProblem(
        lambda x, y, z: y["a"].sum(), lambda x, y, z: ((y["a"] - z["b"]) ** 2).sum()
    )
    start = torch.zeros(0).double(), {"a": torch.zeros(3).double()}
    z = {"b": torch.arange(3).double()}
    solution = bl.solve(given, start=start, parameters=(z,))
    assert torch.allclose(solution.y["a"], z["b"])


def test_the_same_twice_and_nothing_of_the_start_is_changed():
    start = number(4.0), number(1.0)
    first, second = (bl.solve(PRICING, SGD, start=start) for _ in range(2))
    assert torch.equal(first.x, second.x)
    assert float(start[0]) == 4.0
    assert not start[0].requires_grad


@pytest.mark.parametrize("kind", ["newton", "own"])
def test_large_followers_are_solved_without_matrices(kind):
    """1,000 weights: Newton's method by conjugate gradients, and a solver of one's own."""
    g = torch.Generator().manual_seed(0)
    A = torch.randn(200, 1000, generator=g, dtype=torch.float64) / 30
    b = torch.sign(A @ torch.randn(1000, generator=g, dtype=torch.float64))

    def train(x, y):
        return torch.nn.functional.softplus(-b * (A @ y)).mean() + x.exp() * (y**2).sum() / 2

    def held(x, y):
        return torch.nn.functional.softplus(b * (A.flip(1) @ y)).mean()

    def own(x, y):
        y = y.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [y],
            max_iter=300,
            tolerance_grad=1e-9,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def closure():
            optimizer.zero_grad()
            value = train(x, y)
            value.backward()
            return value

        optimizer.step(closure)
        return y.detach()

    options = {"follower": own} if kind == "own" else {}
    solver = bl.HypergradientDescent(max_steps=2, **options)
    start = number(-3.0), torch.zeros(1000).double()
    solution = bl.solve(bl.SmoothProblem(held, train), solver, start=start)
    assert solution.status is Status.FEASIBLE
    assert solution.follower_residual < 1e-7


def test_a_follower_is_asked_alone():
    """The nearest point of a half space, and a tree of tensors with an input."""
    given = bl.SmoothProblem(
        lambda x, y: y.sum(), lambda x, y: ((y - x) ** 2).sum(), g=lambda x, y: y.sum() - 1
    )
    x = number([2.0, 1.0])
    found = Newton().answer(given, x, torch.zeros(2).double())
    assert found.tolist() == pytest.approx([1, 0], abs=1e-9)
    tree = bl.SmoothProblem(
        lambda x, y, z: y["a"], lambda x, y, z: (y["a"] - x - z) ** 2 + (y["b"] - 1).square().sum()
    )
    found = Newton().answer(
        tree, number(1.0), {"a": number(0.0), "b": torch.zeros(2).double()}, number(3.0)
    )
    assert float(found["a"]) == pytest.approx(4)
    assert found["b"].tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_no_answer_is_said(sign):
    """A follower that is not bounded below has none, and at a maximum neither."""
    cost = (lambda x, y: x * y) if sign > 0 else (lambda x, y: -(y**2))
    with pytest.warns(BilevelWarning, match="response is none"):
        Newton().answer(bl.SmoothProblem(cost, cost), number(1.0), number(0.0))


def test_unrolling_says_what_it_leaves_out():
    few = bl.HypergradientDescent(adjoint=adjoints.Unrolled(2, step_size=0.25), max_steps=1)
    problem = bl.SmoothProblem(lambda x, y: (y - 1) ** 2, lambda x, y: (y - x) ** 2)
    found = bl.solve(problem, few, start=(number(0.0), number(0.0)))
    assert "leaves out 2.5e-01 of the derivative" in found.stats.note


def test_each_linear_system_starts_from_the_last_ones_solution():
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(300, 200, generator=generator, dtype=torch.float64)
    problem = bl.SmoothProblem(
        lambda x, y: (y - 1).square().sum() + x.square().sum(),
        lambda x, y: (A @ y - x).square().sum() / 2 + y.square().sum(),
    )
    matrix = A.mT @ A + 2 * torch.eye(200, dtype=torch.float64)
    start = torch.zeros(300, dtype=torch.float64), torch.zeros(200, dtype=torch.float64)

    def products(steps):
        solver = bl.HypergradientDescent(
            lambda x: torch.optim.SGD(x, lr=1e-4),
            follower=lambda x, y: torch.linalg.solve(matrix, A.mT @ x),
            adjoint=adjoints.Implicit(rtol=1e-6),
            max_steps=steps,
        )
        return bl.solve(problem, solver, start=start).stats.products

    assert products(11) < 0.7 * 11 * products(1)


def _random_quadratic(seed):
    """Return a problem with rows at both levels in torch, and the same in CVXPY."""
    rng = np.random.default_rng(seed)
    n, m, r = 2, 3, 2
    A, L, C, D = (rng.normal(size=s) for s in ((m, n), (m, m), (r, m), (r, n)))
    P, e, E = L @ L.T + 0.5 * np.eye(m), rng.uniform(0.1, 1, r), rng.normal(size=(1, n))
    c, d = 2 * rng.normal(size=n), 2 * rng.normal(size=m)
    tA, tP, tC, tD, te, tE, tc, td = map(torch.tensor, (A, P, C, D, e, E, c, d))
    smooth = bl.SmoothProblem(
        F=lambda x, y: ((x - tc) ** 2).sum() + ((y - td) ** 2).sum(),
        f=lambda x, y: y @ tP @ y / 2 + (tA @ x) @ y,
        g=lambda x, y: tC @ y + tD @ x - te,
        G=lambda x, y: torch.cat([tE @ x - 1, x - 2, -2 - x]),
    )
    x, y = cp.Variable(n, name="x"), cp.Variable(m, name="y")
    cost = cp.quad_form(y, P) / 2 + (A @ x) @ y
    follower = bl.Follower(cp.Minimize(cost), [C @ y + D @ x <= e], variables=[y])
    leader = cp.Minimize(cp.sum_squares(x - c) + cp.sum_squares(y - d))
    return smooth, bl.Problem(leader, [E @ x <= 1, x <= 2, x >= -2], followers=[follower])


@pytest.mark.parametrize(
    ("seed", "at_a_kink", "is_global"),
    [(1, False, True), (7, False, True), (15, False, False), (4, True, True), (13, True, True)],
)
def test_rows_at_both_levels_against_exact_answers(seed, at_a_kink, is_global):
    smooth, exact = _random_quadratic(seed)
    start = torch.zeros(2, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    found, best = bl.solve(smooth, start=start), bl.solve(exact)
    assert bl.verify(exact, {"x": found.x.numpy(), "y": found.y.numpy()}).accepted
    assert found.status is (Status.FEASIBLE if at_a_kink else Status.STATIONARY)
    assert ("kink" in found.stats.note) is at_a_kink
    gap = found.leader_value - best.leader_value
    assert gap >= -1e-6
    assert (gap <= (2e-3 if at_a_kink else 1e-6)) is is_global


def test_a_point_that_breaks_a_row_of_either_level_is_not_called_feasible():
    problem = bl.SmoothProblem(
        F=lambda x, y: (x - 2) ** 2 + y**2,
        f=lambda x, y: (y - x) ** 2,
        g=lambda x, y: y - 1,
        G=lambda x, y: x - 3,
    )
    report = SearchReport(method="", norm=1.0, atol=1e-6, steps=0, seconds=0.0)
    for x, y, status in ((2.0, 2.0, Status.FAILED), (4.0, 1.0, Status.NOT_FOUND)):
        task = Task(problem, (number(x), number(y)))
        w = torch.tensor([[y, 0.0 if y > 1 else 2 * (x - y)]], dtype=torch.float64)
        st = task.stationarity()
        # At (2, 2) the follower's gradient vanishes and its row, called inactive, is broken.
        st = dataclasses.replace(st, active_g=torch.tensor([[y <= 1]]))
        flat = torch.tensor([[x]], dtype=torch.float64)
        assert task.judge(flat, w[:, :1], w, st, report).status is status


def test_a_followers_worst_answer_is_none_though_a_row_without_force_holds_it():
    payoff = lambda x, y: (x - y) ** 2  # noqa: E731
    game = bl.SmoothProblem.min_max(payoff, g=box_of_y(-1, 1), G=box(-1, 1))
    found = bl.solve(game, start=(number(0.3), number(0.1)), throw=False)
    best = max(float((found.x - y) ** 2) for y in (-1.0, 1.0))
    assert found.status is Status.FAILED or found.leader_value == pytest.approx(best)
    cap = bl.SmoothProblem(lambda x, y: y, lambda x, y: -(y**2), g=box_of_y(0, 1))
    assert float(Newton().answer(cap, number(0.0), number(0.0))) == pytest.approx(1.0)


def box_of_y(low, high):
    return lambda x, y: torch.stack([low - y, y - high])


def test_followers_with_many_answers_are_refused():
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    b = torch.randn(3, generator=generator, dtype=torch.float64)
    problem = bl.SmoothProblem(
        lambda x, y: (x - 1) ** 2 + y.square().sum(), lambda x, y: (A @ y - x * b).square().sum()
    )
    flat = torch.zeros(5, dtype=torch.float64)
    for solver in (bl.ReducedNewton(), bl.HypergradientDescent(max_steps=1)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BilevelWarning)
            found = bl.solve(problem, solver, start=(number(1.0), flat), throw=False)
        assert found.status is Status.FAILED
        assert "one of many" in found.stats.note
    x = number(1.0).requires_grad_()
    y = adjoints.Implicit().attach(problem, x, torch.linalg.pinv(A) @ b)
    with pytest.warns(BilevelWarning, match="one of many"):
        y.sum().backward()


def test_badly_scaled_unknowns_are_no_reason_to_refuse():
    scale = torch.tensor([1e-8, 1.0, 1e8], dtype=torch.float64)
    problem = bl.SmoothProblem(
        lambda x, y: (x - 1) ** 2, lambda x, y: (scale * y - x).square().sum()
    )
    start = number(0.0), torch.zeros(3, dtype=torch.float64)
    assert bl.solve(problem, start=start).status is Status.STATIONARY


def test_a_linear_system_that_is_not_solved_is_told():
    generator = torch.Generator().manual_seed(0)
    Q, _ = torch.linalg.qr(torch.randn(300, 300, generator=generator, dtype=torch.float64))
    A = (Q * torch.logspace(-4, 4, 300, dtype=torch.float64)) @ Q.mT
    A = (A + A.mT) / 2
    problem = bl.SmoothProblem(lambda x, y: y.sum(), lambda x, y: y @ A @ y / 2 - x @ y)
    x = (A @ torch.ones(300, dtype=torch.float64)).requires_grad_()
    y = torch.linalg.solve(A, x.detach())
    with pytest.warns(BilevelWarning, match="relative residual"):
        adjoints.Implicit(max_steps=20).attach(problem, x, y).sum().backward()
    x.grad = None
    adjoints.Implicit("dense").attach(problem, x, y).sum().backward()
    exact = torch.linalg.solve(A, torch.ones(300, dtype=torch.float64))
    assert torch.allclose(x.grad, exact, rtol=1e-5)


def test_a_time_limit_holds_with_rows_at_both_levels():
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    problem = bl.SmoothProblem(
        lambda x, y: ((y - 1) ** 4).sum() + (x**2).sum(),
        lambda x, y: ((y - A @ x / 5) ** 2).sum() + (y**4).sum(),
        g=lambda x, y: y - 0.1,
        G=lambda x, y: x - 0.05,
    )
    start = (torch.zeros(5, dtype=torch.float64),) * 2
    limited = bl.solve(problem, start=start, time_limit=1e-3, throw=False)
    assert limited.status is not Status.STATIONARY
    assert "time limit" in limited.stats.note


def test_solvers_work_where_gradients_are_off_and_say_where_they_cannot():
    problem = bl.SmoothProblem(lambda x, y: (y - 1) ** 2, lambda x, y: (y - x) ** 2)
    start = number(0.0), number(0.0)
    for solver in (bl.ReducedNewton(), SGD):
        with torch.no_grad():
            assert bl.solve(problem, solver, start=start).status is Status.STATIONARY
    with torch.inference_mode(), pytest.raises(UnsupportedDerivative, match="no_grad"):
        bl.solve(problem, start=start)


def test_what_some_steps_call_stationary_is_not_claimed():
    problem = bl.SmoothProblem(
        lambda x, y: (y - 1) ** 2 + 0.1 * x**2, lambda x, y: 1.5 * y**2 - 2 * x * y + x**2
    )
    solver = bl.HypergradientDescent(adjoint=adjoints.Unrolled(1, 0.1))
    found = bl.solve(problem, solver, start=(number(0.0), number(0.0)))
    assert found.status is Status.FEASIBLE
    slope = 2 * (float(found.y) - 1) * 2 / 3 + 0.2 * float(found.x)
    assert found.hypergradient_norm == pytest.approx(abs(slope), rel=1e-6)


def test_a_leaders_value_that_is_not_finite_is_no_point():
    problem = bl.SmoothProblem(lambda x, y: (x - 1).log() + y**2, lambda x, y: (y - x) ** 2)
    found = bl.solve(problem, start=(number(0.0), number(0.0)), throw=False)
    assert found.status is Status.FAILED
    assert "not finite" in found.stats.note
