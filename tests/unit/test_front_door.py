"""``bl.solve`` takes every kind of problem by its driver, and refuses what a kind does not use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

import bilevel as bl
from bilevel import ProblemError

ZERO = torch.zeros((), dtype=torch.float64)
SMOOTH = bl.SmoothProblem(lambda x, y: (y - 1) ** 2, lambda x, y: (y - 2 * x) ** 2)


@dataclass(frozen=True)
class Guess:
    """The answer to a riddle."""

    status: bl.Status
    number: int
    stats: bl.Stats


@dataclass(frozen=True)
class Riddle(bl.AbstractProblem):
    """A problem of a kind that the package does not know."""

    driver: ClassVar[str] = f"{__name__}:guess"
    solution_type = Guess

    number: int


def guess(riddle: Riddle, solver: object, *, seed: int = 0, rtol: float = 0.5) -> Guess:
    found = bl.Status.FEASIBLE if riddle.number else bl.Status.NOT_FOUND
    return Guess(found, riddle.number + seed, bl.Stats(method=f"{solver} {rtol}"))


def test_a_class_outside_the_package_is_solved_by_its_driver():
    assert bl.solve(Riddle(3)) == Guess(bl.Status.FEASIBLE, 3, bl.Stats(method="None 0.5"))
    found = bl.solve(Riddle(3), "thinking", seed=4, rtol=0.1)
    assert (found.number, found.stats.method) == (7, "thinking 0.1")


def test_its_failure_is_raised_and_its_keywords_are_checked_like_ours():
    with pytest.raises(bl.SolveFailed) as failed:
        bl.solve(Riddle(0))
    assert failed.value.solution.number == 0
    assert bl.solve(Riddle(0), throw=False).status is bl.Status.NOT_FOUND
    with pytest.raises(ProblemError, match=r"takes no time_limit for a Riddle.* rtol, seed, throw"):
        bl.solve(Riddle(3), time_limit=3.0)
    with pytest.raises(ProblemError, match="seed must be an integer"):
        bl.solve(Riddle(3), seed=-1)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (None, "does not say how it is solved"),
        ("guess", "does not say how it is solved"),
        (f"{__name__}:no_such", "has no such function"),
        (f"{__name__}:ZERO", "has no such function"),
    ],
)
def test_a_class_that_does_not_say_how_it_is_solved_is_refused(entry, words):
    kind = type("Puzzle", (bl.AbstractProblem,), {} if entry is None else {"driver": entry})
    with pytest.raises(ProblemError, match=words) as refused:
        bl.solve(kind())
    assert "Puzzle" in str(refused.value)


def test_what_is_no_problem_is_refused_by_its_type():
    with pytest.raises(ProblemError, match=r"AbstractProblem, not ndarray\.$"):
        bl.solve(np.ones(3))


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"options": {"no_such": 1}, "rtol": "nonsense"}, "rtol and no options"),
        ({"rtol": 1e-6}, "rtol"),
        ({"atol": 1e-8}, "atol"),
        ({"options": {}}, "options"),
        ({"verbose": False}, "verbose"),
    ],
)
def test_a_keyword_that_a_smooth_problem_does_not_use_is_refused_by_name(keywords, named):
    with pytest.raises(ProblemError, match=f"takes no {named} for a SmoothProblem"):
        bl.solve(SMOOTH, start=(ZERO, ZERO), **keywords)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"time_limit": "long"}, "time_limit must be a positive number of seconds, not 'long'"),
        ({"time_limit": 0.0}, "time_limit"),
        ({"callback": 3}, "callback must be a function"),
    ],
)
def test_limits_and_callback_of_a_smooth_problem_are_checked(keywords, words):
    with pytest.raises(ProblemError, match=words):
        bl.solve(SMOOTH, start=(ZERO, ZERO), **keywords)


@pytest.mark.parametrize(
    "keyword", ["options", "verbose", "callback", "seed", "rtol", "time_limit"]
)
def test_no_message_prints_an_array(keyword):
    problem = bl.instances.get("T1").problem
    with pytest.raises(ProblemError, match=f"{keyword} .* an object of type ndarray"):
        bl.solve(problem, **{keyword: np.arange(12345, 12355)})


@pytest.mark.parametrize(
    ("solver", "words"),
    [
        ("scip", "not 'scip'"),
        (bl.SingleLevel, r"not the class SingleLevel: write SingleLevel\(\)"),
        (np.arange(3), "an object of type ndarray"),
    ],
)
def test_a_solver_is_an_object(solver, words):
    with pytest.raises(ProblemError, match=words):
        bl.solve(bl.instances.get("T1").problem, solver)


def test_a_smooth_problem_refuses_a_solver_of_matrices_by_its_type():
    with pytest.raises(ProblemError, match=r"bl.ReducedNewton\(\).*type SingleLevel"):
        bl.solve(SMOOTH, bl.SingleLevel(), start=(ZERO, ZERO))
