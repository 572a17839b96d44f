"""The one loop of iterative smooth solvers: limits, callback, Ctrl-C, trace, and what is said."""

import math
from dataclasses import dataclass

import pytest
import torch

import bilevel as bl
from bilevel import Status
from bilevel.solvers.best_responses import BestResponses
from bilevel.solvers.smooth import (
    AbstractIterativeSolver,
    Newton,
    Search,
    SearchReport,
    Task,
)
from bilevel.solvers.smooth.iterate import iterate


def number(value):
    return torch.tensor(value, dtype=torch.float64)


PROBLEM = bl.SmoothProblem(lambda x, y: (x - 1) ** 2 + y**2, lambda x, y: (y - x) ** 2)
START = number(4.0), number(4.0)


@dataclass(frozen=True)
class Halving(AbstractIterativeSolver):
    """A solver from outside: halves ``x`` until it is small."""

    step_limit: float = 100
    enough: float = 0.5
    silent: bool = False

    def init(self, task):
        return float(task.start[0])

    def step(self, task, state):
        return state / 2

    def terminate(self, task, state):
        return "Small." if state <= self.enough else None

    def value(self, task, state):
        if self.silent:
            return None
        return math.nan if state > 1 else state

    def finish(self, task, search):
        x = torch.full((1, 1), search.state, dtype=torch.float64)
        report = SearchReport(
            method=repr(self), norm=float(abs(4 * x - 2)), atol=1e-6, steps=search.steps,
            seconds=search.seconds, note=search.note, trace=search.trace,
        )  # fmt: skip
        return task.judge(x, x, x, task.stationarity(), report)


def searched(solver, **limits) -> Search:
    return iterate(solver, Task(PROBLEM, START, **limits))


def test_a_solver_from_outside_runs_through_solve():
    solution = bl.solve(PROBLEM, Halving(), start=START)
    assert solution.status is Status.STATIONARY
    assert (float(solution.x), solution.stats.nodes, solution.stats.note) == (0.5, 3, "Small.")


def test_convergence_at_the_last_step_is_no_limit():
    search = searched(Halving(step_limit=3))
    assert (search.steps, search.note, search.is_cut) == (3, "Small.", False)
    search = searched(Halving(step_limit=2))
    assert (search.steps, search.note, search.is_cut) == (2, "2 steps were not enough.", True)


def test_a_start_that_needs_no_step_takes_none():
    assert searched(Halving(enough=8.0)).steps == 0


def test_one_step_is_taken_whatever_the_time_limit():
    search = searched(Halving(), time_limit=1e-12)
    assert (search.steps, search.note) == (1, "The time limit was met.")


def test_what_is_not_a_number_is_told_as_unknown_and_what_is_not_new_not_at_all():
    told = []
    search = searched(Halving(), callback=told.append)
    assert [(one.incumbent, one.nodes) for one in told] == [(None, 1), (1.0, 2), (0.5, 3)]
    assert [moment[1:] for moment in search.trace] == [(None, None), (1.0, None), (0.5, None)]
    assert not searched(Halving(silent=True), callback=told.append).trace
    assert len(told) == 3


def test_the_callback_stops_after_the_step_it_was_told_of():
    search = searched(Halving(), callback=lambda progress: progress.nodes == 2)
    assert (search.state, search.note) == (1.0, "The callback stopped it.")


def test_ctrl_c_keeps_the_last_whole_step():
    @dataclass(frozen=True)
    class Interrupted(Halving):
        def step(self, task, state):
            if state <= 1:
                raise KeyboardInterrupt
            return state / 2

    search = searched(Interrupted())
    assert (search.state, search.steps, search.note) == (1.0, 2, "It was interrupted.")


def test_a_misspelt_key_of_a_report_is_an_error():
    with pytest.raises(TypeError, match="follower_is_minimun"):
        SearchReport(method="", norm=0.0, atol=1.0, steps=0, seconds=0.0, follower_is_minimun=False)
    with pytest.raises(TypeError, match="norm"):
        SearchReport(method="", atol=1.0, steps=0, seconds=0.0)


# ------------------------------------------------------------------------- reduced Newton

CURVED = bl.SmoothProblem(
    lambda x, y: 100 * (y[1] - y[0] ** 2) ** 2 + (1 - y[0]) ** 2,
    lambda x, y: ((y - x) ** 2).sum() + (y - x).pow(4).sum(),
)
FAR = number([-1.2, 1.0]), number([0.0, 0.0])


def test_reduced_newton_tells_its_steps_and_ends_where_it_did():
    told = []
    quiet = bl.solve(CURVED, bl.ReducedNewton(), start=FAR)
    loud = bl.solve(CURVED, bl.ReducedNewton(), start=FAR, callback=told.append)
    assert torch.equal(quiet.x, loud.x)
    assert len(told) == loud.stats.nodes + 1  # the start, and a point for each step
    assert [one.incumbent for one in told] == [moment[1] for moment in loud.stats.trace]
    values = [one.incumbent for one in told]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(loud.leader_value, abs=1e-12)


def stop_at_third(progress):
    return progress.nodes == 3


def interrupt_at_third(progress):
    if progress.nodes == 3:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("stop", "word"), [(stop_at_third, "callback"), (interrupt_at_third, "interrupted")]
)
def test_reduced_newton_can_be_stopped_and_keeps_its_point(stop, word):
    solution = bl.solve(CURVED, bl.ReducedNewton(), start=FAR, callback=stop)
    assert solution.status is Status.FEASIBLE
    assert word in solution.stats.note
    assert "kink" not in solution.stats.note
    assert 0 < solution.leader_value < float(CURVED.F(FAR[0], FAR[0]))
    assert solution.leader_value == solution.stats.trace[-1][1]


def test_reduced_newton_interrupted_before_anything_is_known():
    def interrupt(x, y):
        if x.requires_grad or y.requires_grad:
            raise KeyboardInterrupt
        return (y - x) ** 2

    problem = bl.SmoothProblem(PROBLEM.F, interrupt)
    task = Task(problem, START)
    state = bl.ReducedNewton().init(task)
    with pytest.raises(KeyboardInterrupt):
        bl.ReducedNewton().step(task, state)
    search = Search(state, 0, 0.0, "It was interrupted.", True, ())
    # What the start is worth can be said without the functions' help only where they work again.
    solution = bl.ReducedNewton().finish(Task(PROBLEM, START), _at_work(search))
    assert solution.status is Status.FEASIBLE
    assert "interrupted" in solution.stats.note
    assert torch.equal(solution.x, START[0])


def _at_work(search):
    state = bl.ReducedNewton().init(Task(PROBLEM, START))
    return Search(state, search.steps, search.began, search.note, search.is_cut, search.trace)


def test_reduced_newton_says_that_its_steps_were_not_enough():
    solution = bl.solve(CURVED, bl.ReducedNewton(max_steps=3), start=FAR)
    assert solution.status is Status.FEASIBLE
    assert solution.stats.note == "3 steps were not enough."


def test_reduced_newton_tells_no_value_while_the_leaders_rows_are_broken():
    problem = bl.SmoothProblem(lambda x, y: (x - 3) ** 2 + y**2, PROBLEM.f, G=lambda x, y: x - 1)
    told = []
    solution = bl.solve(problem, bl.ReducedNewton(), start=START, callback=told.append)
    assert solution.status is Status.STATIONARY
    assert float(solution.x) == pytest.approx(1.0)
    assert told[0].incumbent is None


def test_reduced_newton_stopped_beyond_a_kink_keeps_the_better_point():
    """``|x - 1|`` by a follower's row: the barrier's search begins after the first one's end."""
    problem = bl.SmoothProblem(
        lambda x, y: y + x**2 / 4, lambda x, y: y**2 / 2,
        g=lambda x, y: torch.stack([x - 1 - y, 1 - x - y]),
    )  # fmt: skip
    start = number(3.0), number(2.0)
    told = []
    whole = bl.solve(problem, start=start, callback=told.append)
    assert whole.status is Status.FEASIBLE
    assert "kink" in whole.stats.note
    for k in (1, len(told) - 1):
        cut = bl.solve(problem, start=start, callback=lambda one, k=k: one.nodes >= told[k].nodes)
        assert cut.status is Status.FEASIBLE
        assert "callback" in cut.stats.note
        assert cut.leader_value <= told[0].incumbent


def test_limits_that_are_none_are_refused():
    with pytest.raises(bl.ProblemError, match="max_steps >= 1"):
        bl.ReducedNewton(max_steps=0)
    with pytest.raises(bl.ProblemError, match="atol >= 0"):
        bl.ReducedNewton(atol=math.nan)


# ---------------------------------------------------------------------------- descent


def test_descent_asks_the_callback_before_it_moves_on():
    values = []

    def stop(progress):
        values.append(progress.incumbent)
        return progress.nodes == 4

    solver = bl.HypergradientDescent(lambda x: torch.optim.SGD(x, lr=1e-2))
    solution = bl.solve(PROBLEM, solver, start=START, callback=stop)
    assert solution.stats.nodes == 4
    assert solution.leader_value == values[-1]
    assert [moment[1] for moment in solution.stats.trace] == values


@pytest.mark.parametrize(
    ("make", "old", "new"),
    [
        (lambda: bl.HypergradientDescent(steps=7), "HypergradientDescent", 7),
        (lambda: bl.SOBA(steps=7), "SOBA", 7),
        (lambda: bl.ReducedNewton(limit=7), "ReducedNewton", 7),
        (lambda: Newton(limit=7), "Newton", 7),
        (lambda: bl.adjoints.Implicit(limit=7), "Implicit", 7),
        (lambda: BestResponses(rounds=7), "BestResponses", 7),
    ],
)
def test_old_names_of_step_counts_still_work(make, old, new):
    with pytest.warns(DeprecationWarning, match=rf"{old}\(.*\) is now called max_steps"):
        assert make().max_steps == new
