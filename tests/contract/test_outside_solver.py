"""A solver written outside the package, from the architecture page alone."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl
from bilevel.program import Progress
from bilevel.response.response import optimistic_completion
from bilevel.solvers import AbstractSolver, Outcome, Recorder, Request, Run
from bilevel.status import Status


@dataclass(frozen=True)
class Enumeration(AbstractSolver):
    """Try every decision of a leader whose variables are bounded integers."""

    most: int = 10_000

    def accepts(self, form):
        """See the abstract method."""
        leader = ~form.follower_mask
        low, high = form.columns.lower[leader], form.columns.upper[leader]
        if form.stance is not bl.Stance.OPTIMISTIC:
            return ("Enumeration solves optimistic problems only.",)
        if not form.columns.integer[leader].all() or not np.isfinite(high - low).all():
            return ("Enumeration needs bounded integers of the leader.",)
        if np.prod(high - low + 1) > self.most:
            return (f"The leader has more than {self.most} decisions.",)
        return ()

    def run(self, form, request: Request) -> Outcome:
        """See the abstract method."""
        began = time.perf_counter()
        recorder = Recorder(form, request)
        leader = np.flatnonzero(~form.follower_mask)
        ranges = [np.arange(form.columns.lower[c], form.columns.upper[c] + 1) for c in leader]
        best, value, stopped, count = None, np.inf, False, 0
        for count, decision in enumerate(itertools.product(*ranges), start=1):
            w = np.zeros(form.n)
            w[leader] = decision
            point = optimistic_completion(form, w)
            if point is not None and form.objective.evaluate(point) < value:
                best, value = point, form.objective.evaluate(point)
                moment = Progress(time.perf_counter() - began, value, None, count)
                stopped = bool(recorder(moment))
                if stopped:
                    break
        recorder.reraise()
        status = Status.INFEASIBLE if best is None else Status.OPTIMAL
        return Outcome(
            Status.FEASIBLE if stopped else status,
            best,
            bound=-np.inf if stopped or best is None else value,
            backend="enumeration",
            nodes=count,
            seconds=time.perf_counter() - began,
            trace=recorder.trace,
            stopped=stopped,
        )


@dataclass(frozen=True)
class ByConditions(AbstractSolver):
    """Hand the optimality conditions to a backend, as a solver of a few lines."""

    backend: str = "tree"

    def accepts(self, form):
        """See the abstract method."""
        return bl.KKT().accepts(form)

    def run(self, form, request: Request) -> Outcome:
        """See the abstract method."""
        run = Run(form, bl.KKT(), self.backend, request)
        return run.outcome(run.trusted_answer(), run.first)


@dataclass(frozen=True)
class Careless(AbstractSolver):
    """Claims an optimum whose follower does not respond at its best."""

    def accepts(self, form):
        """See the abstract method."""
        return ()

    def run(self, form, request: Request) -> Outcome:
        """See the abstract method."""
        return Outcome(Status.OPTIMAL, np.zeros(form.n), bound=form.objective.evaluate(np.zeros(2)))


def problem(stance="optimistic"):
    x, y = cp.Variable(name="x", integer=True), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(cp.square(y - x)), [y >= 1, y <= 3], variables=[y])
    leader = cp.Minimize(cp.square(x - 4) + 2 * y)
    return bl.Problem(leader, [x >= 0, x <= 5], [follower], stance=stance)


def test_it_solves_and_is_certified_like_those_of_the_house():
    mine = bl.solve(problem(), Enumeration())
    theirs = bl.solve(problem())
    assert mine.status is bl.Status.OPTIMAL
    assert mine.certificate.accepted
    assert mine.leader_value == pytest.approx(theirs.leader_value, abs=1e-6)
    assert mine.stats.backend == "enumeration"
    assert mine.stats.nodes == 6
    assert mine.stats.method == "Enumeration(most=10000)"
    assert [value for _, value, _ in mine.stats.trace][-1] == pytest.approx(mine.leader_value)


def test_what_it_does_not_accept_is_refused_in_its_words():
    with pytest.raises(bl.UnsupportedProblem, match="more than 5 decisions"):
        bl.solve(problem(), Enumeration(most=5))
    with pytest.raises(bl.UnsupportedProblem, match="optimistic problems only"):
        bl.solve(problem("pessimistic"), Enumeration())


def test_a_callback_stops_it_and_its_errors_come_through():
    solution = bl.solve(problem(), Enumeration(), callback=lambda moment: True)
    assert solution.status is bl.Status.FEASIBLE
    assert solution.bound is None

    def fail(moment):
        raise ArithmeticError("mine")

    with pytest.raises(ArithmeticError, match="mine"):
        bl.solve(problem(), Enumeration(), callback=fail)


def test_one_that_hands_a_program_to_a_backend():
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(-y), [x + y <= 8, 2 * x + y <= 13], variables=[y])
    game = bl.Problem(cp.Minimize(3 * x + y), [x >= 0, x <= 5], followers=[follower])
    mine = bl.solve(game, ByConditions())
    assert mine.status is bl.Status.OPTIMAL
    assert mine.leader_value == pytest.approx(bl.solve(game).leader_value, abs=1e-6)
    again = bl.solve(game, ByConditions(), start={"x": 1.0})
    assert again.leader_value == pytest.approx(mine.leader_value, abs=1e-6)


def test_a_careless_one_does_not_get_through():
    with pytest.raises(bl.SolveFailed) as caught:
        bl.solve(problem(), Careless())
    assert caught.value.solution.status is bl.Status.FAILED
    assert not caught.value.solution.certificate.accepted
