"""A solution gives the value of any expression, and shows itself."""

from __future__ import annotations

import pickle

import cvxpy as cp
import numpy as np
import pytest
import torch

import bilevel as bl
from bilevel import ProblemError


class Toll:
    """A carrier with a cap on what it takes: the multiplier of the cap is positive."""

    def __init__(self, sense=cp.Minimize):
        self.weight = cp.Parameter(name="weight", value=2.0, nonneg=True)
        self.x = cp.Variable(name="x")
        self.y = cp.Variable(2, name="y")
        self.cap = cp.sum(self.y) <= self.x
        cost = self.weight * cp.sum_squares(self.y - np.array([3.0, 5.0]))
        objective = cp.Minimize(cost) if sense is cp.Minimize else cp.Maximize(-cost)
        self.follower = bl.Follower(objective, [self.cap], variables=[self.y], name="carrier")
        self.problem = bl.Problem(
            cp.Minimize(self.x), [self.x >= 4, self.x <= 6], followers=[self.follower]
        )


@pytest.fixture(scope="module")
def toll():
    return Toll()


@pytest.fixture(scope="module")
def solution(toll):
    return bl.solve(toll.problem)


def test_values_of_expressions(toll, solution):
    y = np.array([1.0, 3.0])
    assert solution[3 * toll.x + 1] == pytest.approx(13.0, abs=1e-5)
    assert solution[toll.y] == pytest.approx(y, abs=1e-5)
    assert solution[toll.y[1] - toll.y[0]] == pytest.approx(2.0, abs=1e-5)
    assert solution[cp.vstack([toll.y, 2 * toll.y])] == pytest.approx(
        np.stack([y, 2 * y]), abs=1e-5
    )
    assert solution[toll.weight * toll.x] == pytest.approx(8.0, abs=1e-5)
    assert solution[toll.problem.objective] == pytest.approx(4.0, abs=1e-5)
    assert solution[toll.follower.objective] == pytest.approx(16.0, abs=1e-4)
    assert solution[toll.follower.value - 1] == pytest.approx(15.0, abs=1e-4)
    assert solution[cp.norm(toll.y, 1) + cp.max(toll.y)] == pytest.approx(7.0, abs=1e-5)
    assert solution["x"] == pytest.approx(4.0, abs=1e-5)


@pytest.mark.parametrize("sense", [cp.Minimize, cp.Maximize])
@pytest.mark.parametrize("is_asked_before", [True, False])
def test_a_multiplier_has_the_sign_that_cvxpy_gives_it(sense, is_asked_before):
    toll = Toll(sense)
    if is_asked_before:
        toll.follower.dual(toll.cap)
    solution = bl.solve(toll.problem)
    alone = cp.Problem(toll.follower.objective, [toll.cap, toll.x == solution[toll.x]])
    alone.solve(solver="CLARABEL")
    found = solution[2 * toll.follower.dual(toll.cap)]
    assert found == pytest.approx(2 * toll.cap.dual_value, abs=1e-4)
    assert abs(found) > 1.0


def test_parameters_count_as_in_the_solve_and_nothing_stored_is_touched():
    toll = Toll()
    solution = bl.solve(toll.problem, parameters={toll.weight: 3.0})
    assert solution[toll.weight] == 3.0
    toll.weight.value = 100.0
    for variable in (toll.x, toll.y):
        variable.value = np.full(variable.shape, 7.0)
    assert solution[toll.weight * toll.x] == pytest.approx(12.0, abs=1e-5)
    assert solution[toll.follower.dual(toll.cap)] == pytest.approx(12.0, abs=1e-4)
    assert toll.weight.value == 100.0
    assert toll.x.value == 7.0
    assert (toll.y.value == 7.0).all()
    tax = cp.Parameter(name="tax", value=0.5)  # of no problem: its own value counts
    assert solution[tax * toll.x] == pytest.approx(2.0, abs=1e-5)


def test_what_is_unknown_is_refused_by_name(toll, solution):
    other = cp.Variable(name="elsewhere")
    with pytest.raises(
        ProblemError, match=r"^elsewhere has no value in this solution \(known: x, y"
    ):
        solution[toll.x + other]
    with pytest.raises(KeyError, match="nowhere"):
        solution["nowhere"]
    with pytest.raises(ProblemError, match="tax has no value"):
        solution[cp.Parameter(name="tax") * toll.x]
    with pytest.raises(ProblemError, match="object of type Inequality"):
        solution[toll.cap]
    with pytest.raises(ProblemError, match="object of type ndarray") as refused:
        solution[np.arange(12345, 12350)]
    assert "12345" not in str(refused.value)


def test_without_a_point_there_are_no_values():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    row = y >= x
    follower = bl.Follower(cp.Minimize(y), [row], variables=[y])
    problem = bl.Problem(cp.Minimize(x), [x >= 0, y <= -1], followers=[follower])
    solution = bl.solve(problem, throw=False)
    for asked in (x + y, follower.dual(row)):
        with pytest.raises(ProblemError, match="known: none: there is no point"):
            solution[asked]


def test_it_travels_to_another_process(solution, toll):
    twin = pickle.loads(pickle.dumps(solution))
    assert twin["x"] == solution["x"]
    assert twin[toll.x + 1] == solution[toll.x + 1]
    assert repr(twin) == repr(solution)


def test_its_repr_is_one_line(solution):
    text = repr(solution)
    assert "\n" not in text
    assert text.startswith("Solution(OPTIMAL, leader_value=4, gap=")
    assert "method=" in text


def test_a_smooth_solutions_repr_is_one_line():
    zero = torch.zeros((), dtype=torch.float64)
    smooth = bl.SmoothProblem(lambda x, y: (y - 1) ** 2, lambda x, y: (y - 2 * x) ** 2)
    text = repr(bl.solve(smooth, start=(zero, zero)))
    assert "\n" not in text
    assert text.startswith("SmoothSolution(STATIONARY, leader_value=")


class TestNotebook:
    """What ``_repr_html_`` returns."""

    def test_a_solution_with_its_certificate(self, solution):
        html = solution._repr_html_()
        assert html.count("<table>") == html.count("</table>") == 3
        for words in (
            "OPTIMAL",
            "leader value",
            "Certificate",
            "accepted",
            ">x<",
            ">y<",
            "[1. 3.]",
        ):
            assert words in html

    def test_a_solution_without_a_point(self):
        x, y = cp.Variable(name="x"), cp.Variable(name="y")
        follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y])
        problem = bl.Problem(cp.Minimize(x), [x >= 0, y <= -1], followers=[follower])
        html = bl.solve(problem, throw=False)._repr_html_()
        assert "INFEASIBLE" in html
        assert html.count("<table>") == 1

    def test_many_and_large_values_are_cut(self):
        x = [cp.Variable(name=f"x{i}", nonneg=True) for i in range(20)]
        y = cp.Variable(30, name="y")
        follower = bl.Follower(cp.Minimize(cp.sum(y)), [y >= x[0]], variables=[y])
        problem = bl.Problem(cp.Minimize(sum(x)), followers=[follower], variables=[])
        html = bl.solve(problem)._repr_html_()
        assert "9 more" in html

    def test_a_problem_shows_both_levels_escaped(self, toll):
        html = toll.problem._repr_html_()
        assert "optimistic" in html
        assert "follower carrier" in html
        assert "minimize x" in html
        assert "subject to  4.0 &lt;= x" in html
        assert "y(2,)" in html
        x, y = cp.Variable(name="<b>x</b>"), cp.Variable(name="y")
        follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y], name="<script>")
        html = bl.Problem(cp.Minimize(x), [x >= 0] * 1, followers=[follower])._repr_html_()
        assert "<script>" not in html
        assert "<b>" not in html

    def test_a_problem_is_shown_without_values_of_parameters_and_cut(self):
        x, y = cp.Variable(name="x"), cp.Variable(name="y")
        rows = [x >= cp.Parameter(name="low") - k for k in range(30)]
        data = np.arange(400.0)
        follower = bl.Follower(cp.Minimize(y), [y >= x, data * y >= -data], variables=[y])
        html = bl.Problem(cp.Minimize(x), rows, followers=[follower])._repr_html_()
        assert "and 10 more constraints" in html
        assert len(html) < 5000

    def test_a_reaction_map(self):
        reaction = bl.reaction(bl.instances.get("T2").problem)
        assert repr(reaction) == "ReactionMap(y of x, 3 regions, complete)"
        html = reaction._repr_html_()
        assert "3 regions, 2 kinks" in html
        assert html.count("<tr>") == 4
        assert "&lt;= x &lt;=" in html
