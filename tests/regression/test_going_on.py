"""A search that met a limit goes on from its solution."""

from __future__ import annotations

import json

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl
from bilevel.program import Progress
from bilevel.solvers.solver import Recorder, Request


def parts(shift=0.0):
    """Opposed interests, so that the search has something to do."""
    rng = np.random.default_rng(4)
    n = 8
    x, y = cp.Variable(n, name="x"), cp.Variable(n, name="y")
    A, B = rng.normal(size=(2 * n, n)) / np.sqrt(n), rng.normal(size=(2 * n, n)) / np.sqrt(n)
    R, q = rng.normal(size=(n, n)) / np.sqrt(n), -B.T @ rng.uniform(0, 1, 2 * n)
    follower = bl.Follower(
        cp.Minimize(0.05 * cp.sum_squares(y) + (R.T @ x + q) @ y),
        [A @ x + B @ y <= 0.5 + shift],
        [y],
    )
    far = 3 * q / np.linalg.norm(q)
    leader = cp.Minimize(0.05 * cp.sum_squares(x) + cp.sum_squares(y - far) / 2)
    return leader, [x >= -5, x <= 5], [follower]


def game(shift=0.0):
    return bl.Problem(*parts(shift))


def stopped_after(count):
    def stop(moment):
        return moment.nodes >= count

    return stop


def test_nodes_seconds_and_trace_continue():
    problem = game()
    whole = bl.solve(problem, bl.Branching())
    first = bl.solve(problem, bl.Branching(), callback=stopped_after(3), throw=False)
    assert first.stats.resume is not None
    assert first.bound is None or first.bound <= whole.leader_value + 1e-6
    second = bl.solve(problem, bl.Branching(), start=first)
    assert second.status is bl.Status.OPTIMAL
    assert second.leader_value == pytest.approx(whole.leader_value, abs=1e-5)
    assert second.stats.nodes > first.stats.nodes
    assert second.stats.solve_seconds > first.stats.solve_seconds
    assert second.stats.trace[: len(first.stats.trace)] == first.stats.trace
    moments = [seconds for seconds, *_ in second.stats.trace]
    assert moments == sorted(moments)
    assert second.stats.resume is None


def test_moments_of_a_search_that_goes_on_come_after_those_before():
    """The search's own seconds leave out what preparing it took, which its moments count."""
    earlier = ((0.1, None, -2.0), (5.0, 1.0, 0.0))
    recorder = Recorder(game().compile(), Request(spent=0.3), earlier=earlier)
    recorder(Progress(0.0, 0.5, 0.0, 7))
    assert recorder.trace[:2] == earlier
    assert recorder.trace[2][0] >= 5.0


def test_other_numbers_begin_a_new_search_and_say_so():
    first = bl.solve(game(), bl.Branching(), callback=stopped_after(3), throw=False)
    shift = cp.Parameter(value=0.0, name="shift")
    problem = game(shift)
    again = bl.solve(problem, bl.Branching(), callback=stopped_after(3), throw=False)
    moved = bl.solve(problem, bl.Branching(), start=again, parameters={shift: 0.3})
    assert "other numbers" in moved.stats.note
    fresh = bl.solve(problem, bl.Branching(), parameters={shift: 0.3})
    assert moved.leader_value == pytest.approx(fresh.leader_value, abs=1e-5)
    with pytest.raises(bl.ProblemError, match="another problem"):
        bl.solve(problem, bl.Branching(), start=first)


def test_a_solution_without_a_search_is_a_start():
    problem = game()
    first = bl.solve(problem, bl.Branching())
    assert first.stats.resume is None
    second = bl.solve(problem, bl.SingleLevel(), start=first, time_limit=20)
    assert second.leader_value <= first.leader_value + 1e-5


def test_what_is_kept_is_no_part_of_a_report():
    first = bl.solve(game(), bl.Branching(), callback=stopped_after(3), throw=False)
    assert "resume" not in json.loads(json.dumps(first.to_dict()))["stats"]
    assert "State" not in repr(first)


@pytest.mark.parametrize("solver", [bl.SingleLevel(), bl.Continuation()], ids=["scip", "ipopt"])
def test_other_methods_take_the_point_alone(solver):
    problem = game()
    first = bl.solve(problem, bl.Branching(), callback=stopped_after(3), throw=False)
    second = bl.solve(problem, solver, start=first, time_limit=5, throw=False)
    assert second.stats.trace[: len(first.stats.trace)] != first.stats.trace


def test_a_pessimistic_search_keeps_nothing():
    problem = bl.Problem(*parts(), stance="pessimistic")
    solution = bl.solve(problem, bl.Branching(), callback=lambda moment: True, throw=False)
    assert solution.stats.resume is None


@pytest.mark.parametrize(
    "setting",
    [
        {"candidates": -1},
        {"candidates": 1.5},
        {"reliable": True},
        {"effort": np.nan},
        {"effort": -1},
        {"inequality": "no"},
    ],
    ids=str,
)
def test_settings_are_checked(setting):
    with pytest.raises(bl.ProblemError, match=next(iter(setting))):
        bl.Branching(**setting)
