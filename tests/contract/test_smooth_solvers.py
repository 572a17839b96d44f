"""Solvers of smooth problems on textbook problems with known answers."""

import pytest
import torch

import bilevel as bl
from bilevel import Status, adjoints
from bilevel.errors import BilevelWarning
from bilevel.solvers.smooth import Newton


@pytest.fixture(autouse=True)
def _one_thread():
    """Matrices of a few entries: two threads wait for each other longer than they compute."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


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
    solver = bl.HypergradientDescent(steps=2, **options)
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
    with pytest.warns(BilevelWarning, match="answer is none"):
        Newton().answer(bl.SmoothProblem(cost, cost), number(1.0), number(0.0))
