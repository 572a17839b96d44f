"""Bad input: each kind has its own error, which names the culprit, the cause and the remedy."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import textwrap
import time

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl
from bilevel.errors import BackendError


def pair(**attributes):
    return cp.Variable(name="x"), cp.Variable(name="y", **attributes)


def leader(follower, objective=None, constraints=(), **more):
    objective = cp.Minimize(follower.variables[0]) if objective is None else objective
    return bl.Problem(objective, constraints, followers=[follower], **more)


def test_nonconvex_follower():
    x, y = pair()
    follower = bl.Follower(cp.Minimize(-cp.square(y) + x), [y >= x, y <= 2], [y], name="cell")
    with pytest.raises(bl.UnsupportedProblem, match=r"'cell' is not convex.*eigenvalue"):
        bl.solve(leader(follower, constraints=[x >= 0]))


def test_nonconvex_maximizing_follower():
    x, y = pair()
    follower = bl.Follower(cp.Maximize(cp.square(y)), [y >= x, y <= 2], [y], name="cell")
    with pytest.raises(bl.UnsupportedProblem, match="'cell' is not concave"):
        bl.solve(leader(follower, constraints=[x >= 0]))


def test_nonconvex_constraint_is_shown():
    x, y = pair()
    follower = bl.Follower(cp.Minimize(y), [cp.sqrt(y) <= x], [y], name="cell")
    with pytest.raises(bl.UnsupportedProblem, match=r"Constraint .*'cell' is not convex"):
        bl.solve(leader(follower, constraints=[x >= 0]))


@pytest.mark.parametrize("kind", ["boolean", "integer"])
def test_integer_follower(kind):
    x, y = pair(**{kind: True})
    follower = bl.Follower(cp.Minimize(y), [y >= x], [y], name="cell")
    with pytest.raises(bl.UnsupportedProblem, match=r"'cell' decides the integer.* y.*relax"):
        bl.solve(leader(follower, constraints=[x >= 0]))


def test_conic_follower():
    x, y = cp.Variable(name="x"), cp.Variable(2, name="y")
    follower = bl.Follower(cp.Minimize(cp.sum(y)), [cp.norm(y) <= 1 + x], [y], name="cell")
    with pytest.raises(bl.UnsupportedProblem, match="'cell' is not a linear or convex quadratic"):
        bl.solve(leader(follower, cp.Minimize(x), [x >= 0]))


def test_variable_of_two_followers():
    x, y = pair()
    followers = [bl.Follower(cp.Minimize(y), [y >= x], [y], name=name) for name in ("a", "b")]
    with pytest.raises(bl.ProblemError, match="y is listed by followers 'a' and 'b'"):
        bl.Problem(cp.Minimize(x), [x >= 0], followers=followers)


def test_variable_of_nobody():
    x, y = pair()
    z = cp.Variable(name="z")
    follower = bl.Follower(cp.Minimize(y + z), [y >= x, z >= y], [y], name="cell")
    with pytest.raises(bl.ProblemError, match=r"z occurs only in follower 'cell'.*Add it"):
        leader(follower, constraints=[x >= 0])


def test_declared_variable_that_does_not_occur():
    x, y = pair()
    with pytest.raises(bl.ProblemError, match=r"'cell' lists variable x.*neither"):
        bl.Follower(cp.Minimize(y), [y >= 1], [y, x], name="cell")


def test_follower_infeasible_for_every_decision():
    x, y = pair()
    follower = bl.Follower(cp.Minimize(y), [y >= x + 1, y <= x], [y], name="cell")
    with pytest.raises(bl.SolveFailed, match=r"FOLLOWER_INFEASIBLE.*'cell'") as failure:
        bl.solve(leader(follower, constraints=[x >= 0, x <= 1]))
    assert failure.value.solution.status is bl.Status.FOLLOWER_INFEASIBLE


def test_follower_unbounded_for_every_decision():
    x, y = pair()
    follower = bl.Follower(cp.Minimize(y), [y <= x], [y], name="cell")
    solution = bl.solve(leader(follower, cp.Minimize(x), [x >= 0, x <= 1]), throw=False)
    assert solution.status is bl.Status.FOLLOWER_UNBOUNDED


def test_decisions_without_an_answer_are_not_the_leaders():
    """For x > 1 the follower is infeasible and for x < 0 unbounded: the leader stays in [0, 1]."""
    x, y = pair()
    follower = bl.Follower(cp.Minimize(x * y), [y >= x, y <= 1], [y])
    problem = leader(follower, cp.Maximize(x), [x >= -1, x <= 2])
    solution = bl.solve(problem)
    assert solution.status is bl.Status.OPTIMAL
    assert solution.leader_value == pytest.approx(1)


def test_coupling_that_no_answer_satisfies():
    x, y = pair()
    follower = bl.Follower(cp.Minimize(y), [y >= x], [y])
    solution = bl.solve(leader(follower, constraints=[x >= 0, y <= -1]), throw=False)
    assert solution.status is bl.Status.INFEASIBLE
    assert "coupling" in solution.stats.note


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_constraint_data(bad):
    x, y = pair()
    follower = bl.Follower(cp.Minimize(y), [y >= x, y <= bad], [y], name="cell")
    with pytest.raises(bl.ProblemError, match=r"Constraint 1 .*'cell' contains NaN or infinite"):
        bl.solve(leader(follower, constraints=[x >= 0]))


def test_broken_objective_data():
    x, y = pair()
    follower = bl.Follower(cp.Minimize(np.nan * y), [y >= x], [y], name="cell")
    with pytest.raises(bl.ProblemError, match="objective of follower 'cell' contains NaN"):
        bl.solve(leader(follower, constraints=[x >= 0]))


@pytest.mark.parametrize(
    ("value", "says"),
    [(None, "has no value"), (np.nan, "NaN"), ([1.0, 2.0], r"shape \(\)"), ("a", "not numeric")],
)
def test_bad_parameter_values(value, says):
    x, y = pair()
    p = cp.Parameter(name="tax")
    follower = bl.Follower(cp.Minimize(y), [y >= x + p], [y])
    given = {} if value is None else {p: value}
    with pytest.raises(bl.ProblemError, match=f"tax.*{says}"):
        bl.solve(leader(follower, constraints=[x >= 0]), parameters=given)


def test_foreign_parameter():
    problem = bl.instances.get("T1").problem
    with pytest.raises(bl.ProblemError, match="not a parameter of this problem"):
        bl.solve(problem, parameters={cp.Parameter(name="other"): 1.0})


@pytest.mark.parametrize(
    ("point", "says"),
    [
        ({"x": [1.0, 2.0], "y": 0.0}, "x has shape"),
        ({"x": np.nan, "y": 0.0}, "NaN"),
        ({"y": 0.0}, "lacks a value for the leader's variable x"),
        ({"x": 0.0, "z": 0.0}, "'z' is not the name"),
        ({"x": "one"}, "not numeric"),
    ],
)
def test_bad_points(point, says):
    with pytest.raises(bl.ProblemError, match=says):
        bl.verify(bl.instances.get("T6b").problem, point)


def test_not_an_objective_or_a_constraint():
    x, y = pair()
    with pytest.raises(bl.ProblemError, match=r"follower 'y' must be cvxpy.Minimize"):
        bl.Follower(y, [y >= x], [y])
    with pytest.raises(bl.ProblemError, match="not a CVXPY constraint"):
        bl.Follower(cp.Minimize(y), [1 <= 2], [y])
    with pytest.raises(bl.ProblemError, match="at least one follower"):
        bl.Problem(cp.Minimize(x), [x >= 0], followers=[])
    with pytest.raises(bl.ProblemError, match="stance must be"):
        leader(bl.Follower(cp.Minimize(y), [y >= x], [y]), stance="neutral")


def test_multiplier_of_a_foreign_constraint():
    x, y = pair()
    follower = bl.Follower(cp.Minimize(y), [y >= x], [y], name="cell")
    with pytest.raises(bl.ProblemError, match="is not a constraint of follower 'cell'"):
        follower.dual(y >= x)


def test_missing_backend(monkeypatch):
    found = importlib.util.find_spec
    absent = lambda name, *rest: None if name == "pyscipopt" else found(name, *rest)  # noqa: E731
    monkeypatch.setattr("bilevel.backends.registry.find_spec", absent)
    problem = bl.instances.get("T6b").problem
    with pytest.raises(bl.BackendNotFound, match=r"pip install pyscipopt.*highs"):
        bl.solve(problem, bl.SingleLevel(bl.KKT(), backend="scip"))
    assert "pyscipopt is not installed" in bl.Auto().choose(problem).reason
    with pytest.raises(bl.ProblemError, match="no backend 'gurobi'"):
        bl.solve(problem, bl.SingleLevel(bl.KKT(), backend="gurobi"))


def test_backend_that_cannot():
    problem = bl.instances.get("T6b").problem
    with pytest.raises(bl.UnsupportedProblem, match=r"'highs' cannot take.*SOS1.*scip"):
        bl.solve(problem, bl.SingleLevel(bl.KKT(), backend="highs"))


@pytest.mark.parametrize(
    ("keyword", "value"), [("time_limit", 0), ("time_limit", -1), ("rtol", -1), ("atol", np.nan)]
)
def test_bad_limits(keyword, value):
    with pytest.raises(bl.ProblemError, match=keyword):
        bl.solve(bl.instances.get("T1").problem, **{keyword: value})


def test_unknown_option():
    with pytest.raises(BackendError, match="does not accept the option 'no/such'"):
        bl.solve(bl.instances.get("T1").problem, options={"no/such": 1})


def hard(n=26, seed=3):
    """A random LP-LP problem that takes minutes."""
    rng = np.random.default_rng(seed)
    x, y = cp.Variable(n, name="x"), cp.Variable(n, name="y")
    rows = [
        rng.uniform(-1, 1, (n, n)) @ y <= rng.uniform(1, 2, n) + rng.uniform(-1, 1, (n, n)) @ x,
        y >= -5,
        y <= 5,
    ]
    follower = bl.Follower(cp.Minimize(rng.uniform(-1, 1, n) @ y), rows, [y])
    objective = cp.Minimize(rng.uniform(-1, 1, n) @ x + rng.uniform(-1, 1, n) @ y)
    return bl.Problem(objective, [x >= 0, x <= 5], followers=[follower])


def test_time_limit_with_an_incumbent():
    """SCIP has none by then; the followers' answer to a first decision is one."""
    solution = bl.solve(hard(), time_limit=2)
    assert solution.status is bl.Status.FEASIBLE
    assert solution.certificate.accepted
    assert solution.bound is None or solution.bound <= solution.leader_value


def test_time_limit_without_an_incumbent():
    problem = hard()
    y = problem.followers[0].variables[0]
    coupled = problem.replace(constraints=[*problem.constraints, y == 0.123])
    solution = bl.solve(coupled, time_limit=0.5, throw=False)
    assert solution.status in (bl.Status.NOT_FOUND, bl.Status.INFEASIBLE)
    if solution.status is bl.Status.NOT_FOUND:
        with pytest.raises(bl.SolveFailed, match="NOT_FOUND"):
            bl.solve(coupled, time_limit=0.5)


def test_callback_stops_the_search():
    solution = bl.solve(hard(), callback=lambda progress: True, time_limit=30)
    assert solution.stats.solve_seconds < 20
    assert solution.status is bl.Status.FEASIBLE


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to a process")
def test_ctrl_c_returns_the_best_point():
    code = """
        import sys
        sys.path.insert(0, sys.argv[1])
        from test_bad_input import hard
        import bilevel as bl
        print("begins", flush=True)
        solution = bl.solve(hard(), time_limit=120)
        print(solution.status.name, solution.certificate.accepted, flush=True)
    """
    here = __file__.rpartition("/")[0]
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), here], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "begins"
    time.sleep(5)
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=60)
    assert "FEASIBLE True" in out
