"""Threads share one problem and one solver, each with parameter values of its own."""

import threading
from concurrent.futures import ThreadPoolExecutor

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl
from bilevel.response.best_response import best_response

THREADS = 4
VALUES = np.linspace(0.5, 4.0, 12)


def problem():
    """The optimum is ``x = p`` with ``y = q p`` and value ``q p``."""
    p, q = cp.Parameter(name="p"), cp.Parameter(name="q", nonneg=True)
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(cp.square(y - q * x)), [y >= -9], variables=[y])
    leading = [x >= p, x <= 9]
    return p, q, bl.Problem(cp.Minimize(y), leading, followers=[follower])


def together(work, items):
    """Run all items in threads that start at once."""
    barrier = threading.Barrier(THREADS)
    parts = [items[k::THREADS] for k in range(THREADS)]

    def run(part):
        barrier.wait()
        return [work(item) for item in part]

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(run, parts))
    return [found[i % THREADS][i // THREADS] for i in range(len(items))]


@pytest.mark.backend("scip")
@pytest.mark.parametrize("compiled", [False, True], ids=["first use", "compiled before"])
def test_different_parameter_values(compiled):
    p, q, given = problem()
    solver = bl.SingleLevel()
    if compiled:
        bl.solve(given, solver, parameters={p: 1.0, q: 1.0})

    def work(value):
        return bl.solve(given, solver, parameters={p: value, q: 2 * value})

    for value, solution in zip(VALUES, together(work, list(VALUES)), strict=True):
        assert solution.leader_value == pytest.approx(2 * value**2, rel=1e-5)
        assert float(solution["x"]) == pytest.approx(value, rel=1e-5)
    assert p.value is None
    assert q.value is None


def test_compiling_and_evaluating_in_many_threads():
    """Matrices only: many more switches than a whole solve allows."""
    p, q, given = problem()
    expected = {}
    for value in VALUES:
        alone = problem()
        form = alone[2].compile({alone[0]: value, alone[1]: 2 * value})
        expected[value] = picture(form)

    def work(value):
        return [picture(given.compile({p: value, q: 2 * value})) for _ in range(20)]

    for value, found in zip(VALUES, together(work, list(VALUES)), strict=True):
        for one in found:
            for key, part in expected[value].items():
                np.testing.assert_allclose(one[key], part, rtol=1e-12)


def picture(form):
    follower = form.followers[0]
    return {
        "lower": form.columns.lower,
        "P": follower.objective.P.toarray(),
        "c": follower.objective.c,
        "A": follower.rows.A.toarray(),
        "b": follower.rows.b,
        "answer": best_response(form, 0, np.full(form.n, 1.0)).y,
    }


def test_answers_of_one_form_in_many_threads():
    _, _, given = problem()
    p, q = given.parameters
    form = given.compile({p: 1.0, q: 2.0} if p.name() == "p" else {p: 2.0, q: 1.0})

    def work(x):
        w = np.zeros(form.n)
        w[form.columns.names.index("x")] = x
        return float(best_response(form, 0, w).y[0])

    points = list(np.linspace(-3, 9, 200))
    for x, y in zip(points, together(work, points), strict=True):
        assert y == pytest.approx(max(2 * x, -9), abs=1e-6)
