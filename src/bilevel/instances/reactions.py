"""Textbook problems about how a follower reacts: T1 to T5."""

from __future__ import annotations

import cvxpy as cp

from bilevel.instances.instance import Answer, Instance
from bilevel.problem.problem import Follower, Problem
from bilevel.status import Status

_TEXTBOOK = "Bilevel Optimization (textbook chapter), section"
_OVERVIEW = "Bilevel Optimization (SciencePedia overview), section"


def _substitution() -> Problem:
    x = cp.Variable(name="x")
    y = cp.Variable(name="y")
    follower = Follower(cp.Minimize(0.5 * cp.square(y - x)), [], variables=[y])
    return Problem(cp.Minimize(x + y), [x >= 0, x <= 1], followers=[follower])


_T1 = Instance.agreed(
    Answer(Status.OPTIMAL, 0.0, {"x": 0.0, "y": 0.0}),
    name="T1",
    title="Substitution of the reaction",
    source=f"{_TEXTBOOK} 'The Foundational Method: Substitution'",
    build=_substitution,
)


def _clipped() -> Problem:
    x = cp.Variable(name="x")
    y = cp.Variable(name="y")
    follower = Follower(cp.Minimize(cp.square(y - x)), [y >= -1, y <= 1], variables=[y])
    return Problem(cp.Minimize(cp.square(x - 2) + cp.square(y + 1)), followers=[follower])


def _clipped_left() -> Problem:
    problem = _clipped()
    (x,) = problem.variables
    return problem.replace(constraints=[x <= 1])


_T2 = Instance.agreed(
    Answer(Status.OPTIMAL, 4.0, {"x": 2.0, "y": 1.0}),
    name="T2",
    title="Nonconvexity that emerges",
    source=f"{_TEXTBOOK} 'A Fundamental Challenge: Emergent Non-Convexity'",
    build=_clipped,
    notes=(
        "Both levels are convex; the reduced objective has a local minimum of 4.5 at x = 0.5 and a "
        "local maximum at its kink x = 1, so a descent that starts left of the kink ends in 4.5."
    ),
)
_T2B = Instance.agreed(
    Answer(Status.OPTIMAL, 4.5, {"x": 0.5, "y": 0.5}),
    name="T2b",
    title="Nonconvexity that emerges, left of the kink",
    source=f"{_TEXTBOOK} 'A Fundamental Challenge: Emergent Non-Convexity'",
    build=_clipped_left,
    notes="The constraint x <= 1 is ours: it makes the local minimum of T2 the global one.",
)


def _triangle() -> Problem:
    x = cp.Variable(name="x")
    y = cp.Variable(2, name="y")
    follower = Follower(cp.Minimize(cp.sum_squares(y - x)), [y >= 0, cp.sum(y) <= 1], variables=[y])
    return Problem(cp.Minimize(x - 2 * cp.sum(y)), [x >= -1, x <= 2], followers=[follower])


_T3 = Instance.agreed(
    Answer(Status.OPTIMAL, -1.5, {"x": 0.5, "y": (0.5, 0.5)}),
    name="T3",
    title="Projection onto a triangle",
    source=f"{_OVERVIEW} 'The Bumpy Road of the Follower's Response'",
    build=_triangle,
    notes=(
        "The follower projects (x, x) onto the triangle with corners (0, 0), (1, 0), (0, 1): its "
        "response is 0 for x <= 0, then (x, x), then (1/2, 1/2). The leader is ours; its optimum "
        "is the second kink, and x = -1 is a local minimum of value -1. The source's test of a "
        "kink leaves out how the leader's objective depends on x itself."
    ),
)


def _price_with_tie() -> Problem:
    x = cp.Variable(name="x")
    y = cp.Variable(name="y")
    consumer = Follower(cp.Maximize((2 - x) * y), [y >= 0, y <= 1], variables=[y], name="consumer")
    return Problem(cp.Maximize(x * y), [x >= 0, x <= 3], followers=[consumer])


_T4 = Instance(
    name="T4",
    title="Price at which the consumer is indifferent",
    source=f"{_TEXTBOOK} 'Handling Ambiguity: Optimistic and Pessimistic Formulations'",
    build=_price_with_tie,
    optimistic=Answer(Status.OPTIMAL, 2.0, {"x": 2.0, "y": 1.0}),
    pessimistic=Answer(Status.NOT_ATTAINED, 2.0, {}, unique=False),
    notes=(
        "The consumer values a unit at 2 and is indifferent at x = 2. The pessimistic leader earns "
        "0 there and x at any lower price: 2 is approached and never attained. The upper "
        "bound x <= 3 is ours and not active."
    ),
)


def _two_answers() -> Problem:
    x = cp.Variable(name="x")
    y = cp.Variable(name="y")
    b = cp.Variable(boolean=True, name="b")
    follower = Follower(cp.Minimize(0), [y == b - 0.5], variables=[y, b])
    return Problem(cp.Minimize(cp.square(x - y)), [x >= -1, x <= 1], followers=[follower])


_T5 = Instance(
    name="T5",
    title="Reaction with two values",
    source=f"{_TEXTBOOK} 'Handling Ambiguity: Optimistic and Pessimistic Formulations'",
    build=_two_answers,
    optimistic=Answer(Status.OPTIMAL, 0.0, {}, unique=False),
    pessimistic=Answer(Status.OPTIMAL, 0.25, {"x": 0.0}, unique=False),
    notes=(
        "The best responses are -1/2 and 1/2 for every x, written with a boolean variable. The "
        "leader's objective is ours: optimistic at x = -1/2 and 1/2, pessimistic at 0. Optimality "
        "conditions do not hold for integer followers."
    ),
    solvable=False,
)

INSTANCES = (_T1, _T2, _T2B, _T3, _T4, _T5)
