"""Wrong input ends in an error of this library that names the follower, the expression, the remedy.

The sections follow the list "Bad input" that the foundation had to satisfy.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import textwrap
import time

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp

import bilevel as bl
from bilevel import (
    BackendError,
    BackendNotFound,
    BilevelError,
    ProblemError,
    SolveFailed,
    Status,
    UnsupportedProblem,
    backends,
)

SCIP = pytest.mark.backend("scip")


def leaf(name, *shape, **attributes):
    return cp.Variable(shape, name=name, **attributes)


def pair():
    return leaf("x"), leaf("y")


def simple(**changes):
    """min x + y, 1 <= x <= 3; the follower responds with y = x."""
    x, y = pair()
    follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y], name="carrier")
    arguments = {
        "objective": cp.Minimize(x + y),
        "constraints": [x >= 1, x <= 3],
        "followers": [follower],
    }
    return bl.Problem(**{**arguments, **changes})


def says(error, *words):
    text = str(error.value)
    for word in words:
        assert word in text, f"{word!r} is missing in: {text}"


# ------------------------------------------------------------------ nonconvex and integer followers


@pytest.mark.parametrize(
    "attribute",
    [{"boolean": True}, {"integer": True}, {"boolean": [(0,)]}, {"integer": [(1,)]}],
    ids=["boolean", "integer", "one boolean", "one integer"],
)
def test_integer_follower(attribute):
    x, count = leaf("x"), leaf("count", 2, **attribute)
    follower = bl.Follower(
        cp.Minimize(cp.sum(count)), [count >= x], variables=[count], name="depot"
    )
    problem = bl.Problem(cp.Minimize(x), [x >= 0], followers=[follower])
    with pytest.raises(UnsupportedProblem) as error:
        bl.solve(problem)
    says(error, "'depot'", "count", "integer", "relax")
    assert bl.Structure.FOLLOWER_INTEGER in problem.structure
    for point in ({"x": 0.5}, {"x": 0.5, "count": [1.0, 1.0]}):
        # Solving the follower without its integers again would certify what is no answer.
        with pytest.raises(UnsupportedProblem) as error:
            bl.verify(problem, point)
        says(error, "'depot'", "count", "integer")


def test_integer_variable_beside_continuous_ones():
    """Another library let binaries of a follower slip through when others were continuous."""
    x, y, n = leaf("x"), leaf("y"), leaf("n", integer=True)
    follower = bl.Follower(cp.Minimize(y + n), [y + n >= x, y >= 0], variables=[y, n], name="mixed")
    problem = bl.Problem(cp.Minimize(x), [x >= 0], followers=[follower])
    for solver in (None, bl.SingleLevel(), bl.SingleLevel(bl.StrongDuality()), bl.WorstCase()):
        with pytest.raises(UnsupportedProblem) as error:
            bl.solve(problem, solver)
        says(error, "'mixed'", "n")


NONCONVEX = {
    "minus square": (lambda x, y: -cp.square(y), "not convex"),
    "square root minimized": (lambda x, y: cp.sqrt(y), "not convex"),
    "fourth power minus square": (lambda x, y: cp.power(y, 4) - cp.square(y), "convex"),
    "minus absolute": (lambda x, y: -cp.abs(y), "not convex"),
    "indefinite product": (lambda x, y: y * (x - y), "not convex"),
}


@pytest.mark.parametrize("case", NONCONVEX)
def test_nonconvex_objective(case):
    build, words = NONCONVEX[case]
    x, y = pair()
    follower = bl.Follower(cp.Minimize(build(x, y)), [y >= x], variables=[y], name="wavy")
    problem = bl.Problem(cp.Minimize(x), [x >= 0, x <= 1], followers=[follower])
    with pytest.raises(UnsupportedProblem) as error:
        bl.solve(problem)
    says(error, "'wavy'", words)


def test_convex_objective_that_is_maximized():
    x, y = pair()
    follower = bl.Follower(cp.Maximize(cp.square(y - x)), [y <= 1], variables=[y], name="wavy")
    problem = bl.Problem(cp.Minimize(x), [x >= 0], followers=[follower])
    with pytest.raises(UnsupportedProblem) as error:
        bl.solve(problem)
    says(error, "'wavy'", "concave")


def test_indefinite_quadratic_form():
    x, y = leaf("x"), leaf("y", 2)
    form = np.array([[1.0, 2.0], [2.0, 1.0]])
    follower = bl.Follower(
        cp.Minimize(y[0] ** 2 + 4 * y[0] * y[1] + y[1] ** 2 - x * y[0]),
        [y >= -1],
        variables=[y],
        name="saddle",
    )
    assert np.linalg.eigvalsh(form)[0] < 0
    with pytest.raises(UnsupportedProblem) as error:
        bl.solve(bl.Problem(cp.Minimize(x), [x >= 0], followers=[follower]))
    says(error, "'saddle'", "not convex", "eigenvalue")


@pytest.mark.parametrize("bounds", [(-1, 1), (-2, -1), (None, None)])
def test_leader_that_may_turn_a_square_around(bounds):
    x, y = pair()
    follower = bl.Follower(
        cp.Minimize(x * cp.square(y) + y), [y >= -1, y <= 1], variables=[y], name="bent"
    )
    leading = [x >= bounds[0], x <= bounds[1]] if bounds[0] is not None else []
    problem = bl.Problem(cp.Minimize(x + y), leading, followers=[follower])
    with pytest.raises(UnsupportedProblem) as error:
        bl.solve(problem)
    says(error, "'bent'", "x", "nonneg=True")


NONLINEAR_ROWS = {
    "quadratic": lambda x, y: cp.square(y) <= 4,
    "nonconvex": lambda x, y: cp.abs(y) >= 1,
    "product of its own": lambda x, y: y * y <= x,
    "three factors": lambda x, y: x * x * y <= 3,
}


@pytest.mark.parametrize("case", NONLINEAR_ROWS)
def test_row_that_is_not_linear(case):
    x, y = pair()
    rows = [y <= 2, NONLINEAR_ROWS[case](x, y)]
    follower = bl.Follower(cp.Minimize(-y), rows, variables=[y], name="curve")
    problem = bl.Problem(cp.Minimize(x), [x >= 0, x <= 1], followers=[follower])
    with pytest.raises(UnsupportedProblem) as error:
        bl.solve(problem)
    says(error, "'curve'")


CONIC_ROWS = {
    "norm": (lambda x, y: cp.norm(cp.hstack([y, x])) <= 4, 2.0),
    "exponential": (lambda x, y: cp.exp(y) <= 4, np.log(4)),
    "logarithm": (lambda x, y: cp.log(y) >= -x, 2.0),
    "entropy": (lambda x, y: cp.entr(y) >= -0.5 + x / 10, None),
    "matrix": (lambda x, y: cp.bmat([[1 + x, y], [y, 1]]) >> 0, 1.0),
}


@pytest.mark.parametrize("case", CONIC_ROWS)
def test_cone_is_refused_by_exact_methods_and_taken_by_a_local_one(case):
    x, y = pair()
    row, best = CONIC_ROWS[case]
    follower = bl.Follower(cp.Minimize(-y), [y <= 2, row(x, y)], variables=[y], name="curve")
    problem = bl.Problem(cp.Minimize(x), [x >= 0, x <= 1], followers=[follower])
    for method in (bl.KKT(), bl.KKT(bl.BigM()), bl.StrongDuality()):
        with pytest.raises(UnsupportedProblem) as error:
            bl.solve(problem, bl.SingleLevel(method))
        says(error, "'curve'", "Continuation")
    with pytest.raises(UnsupportedProblem) as error:
        bl.solve(problem.replace(stance="pessimistic"))
    says(error, "'curve'", "optimistic")
    if best is not None and "ipopt" in backends.available():
        solution = bl.solve(problem)
        assert solution.status is bl.Status.STATIONARY
        assert solution.leader_value == pytest.approx(0.0, abs=1e-6)
        assert float(solution[y]) == pytest.approx(best, abs=1e-5)


SQUARES = {
    "absolute": lambda x, y: cp.square(cp.abs(y - x)),
    "positive part": lambda x, y: cp.square(cp.pos(y - x)),
    "norm": lambda x, y: cp.square(cp.norm(cp.hstack([y, x]))),
    "sum of absolutes": lambda x, y: cp.sum_squares(cp.abs(cp.hstack([y, x]))),
    "leader times absolute": lambda x, y: x * cp.abs(y),
}


@pytest.mark.parametrize("case", SQUARES)
def test_square_of_a_convex_function(case):
    """Supported or refused by name, but never an exception of the machinery."""
    x, y = pair()
    objective = cp.Minimize(SQUARES[case](x, y) - y / 8)
    follower = bl.Follower(objective, [y >= -1, y <= 1], variables=[y], name="bent")
    problem = bl.Problem(cp.Minimize(x + y), [x >= 0.5, x <= 1], followers=[follower])
    try:
        solution = bl.solve(problem)
    except UnsupportedProblem as error:
        assert "'bent'" in str(error)
    else:
        y_grid = np.linspace(-1, 1, 20001)
        f = {
            "absolute": (y_grid - 0.5) ** 2,
            "positive part": np.maximum(y_grid - 0.5, 0) ** 2,
            "norm": y_grid**2,
            "sum of absolutes": y_grid**2,
            "leader times absolute": 0.5 * abs(y_grid),
        }[case]
        best = y_grid[np.argmin(f - y_grid / 8)]
        assert solution.leader_value == pytest.approx(0.5 + best, abs=1e-3)


def test_semidefinite_follower():
    x, Y = leaf("x"), cp.Variable((2, 2), name="Y", PSD=True)
    follower = bl.Follower(cp.Minimize(cp.trace(Y)), [Y[0, 0] >= x], variables=[Y], name="matrix")
    with pytest.raises(UnsupportedProblem) as error:
        bl.solve(bl.Problem(cp.Minimize(x), [x >= 0], followers=[follower]))
    says(error, "Y", "PSD")


def test_complex_variable():
    x, y = leaf("x"), leaf("y", complex=True)
    follower = bl.Follower(cp.Minimize(cp.real(y)), [cp.real(y) >= x], variables=[y], name="f")
    with pytest.raises(UnsupportedProblem, match="complex"):
        bl.solve(bl.Problem(cp.Minimize(x), [x >= 0], followers=[follower]))


def test_complex_parameter():
    x, y = pair()
    p = cp.Parameter(name="p", complex=True, value=1j)
    follower = bl.Follower(cp.Minimize(y), [y >= cp.real(p) * x], variables=[y])
    with pytest.raises(UnsupportedProblem, match=r"p .*complex"):
        bl.solve(bl.Problem(cp.Minimize(x), [x >= 0], followers=[follower]))


def test_leader_with_a_function_nobody_takes():
    x, y = pair()
    follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y])
    for objective in (cp.Minimize(cp.exp(x) + y), cp.Minimize(cp.sqrt(x))):
        problem = bl.Problem(objective, [x >= 0, x <= 1], followers=[follower])
        with pytest.raises(UnsupportedProblem, match="leader"):
            bl.solve(problem)


# ----------------------------------------------------------------------------- who owns a variable


def test_variable_of_two_followers():
    x, y = pair()
    followers = [
        bl.Follower(cp.Minimize(y), [y >= x], variables=[y], name=name) for name in ("a", "b")
    ]
    with pytest.raises(ProblemError) as error:
        bl.Problem(cp.Minimize(x), [x >= 0], followers=followers)
    says(error, "y", "'a'", "'b'")


def test_variable_of_nobody():
    x, y, slack = leaf("x"), leaf("y"), leaf("slack")
    follower = bl.Follower(cp.Minimize(y + slack), [y + slack >= x], variables=[y], name="carrier")
    with pytest.raises(ProblemError) as error:
        bl.Problem(cp.Minimize(x), [x >= 0], followers=[follower])
    says(error, "slack", "'carrier'", "variables=[...]")


def test_variable_that_occurs_nowhere():
    x, y, z = leaf("x"), leaf("y"), leaf("z")
    with pytest.raises(ProblemError) as error:
        bl.Follower(cp.Minimize(y), [y >= x], variables=[y, z], name="carrier")
    says(error, "'carrier'", "z", "Remove")


def test_variable_listed_twice():
    y = leaf("y")
    with pytest.raises(ProblemError, match="twice"):
        bl.Follower(cp.Minimize(y), [y >= 1], variables=[y, y])


@pytest.mark.parametrize("variables", [[], ["y"], [1], [None]])
def test_variables_that_are_none(variables):
    y = leaf("y")
    with pytest.raises(ProblemError, match="variables"):
        bl.Follower(cp.Minimize(y), [y >= 1], variables=variables)


def test_an_expression_is_no_variable():
    y = leaf("y", 2)
    with pytest.raises(ProblemError, match="Variable"):
        bl.Follower(cp.Minimize(y[0]), [y >= 1], variables=[y[0]])


def test_two_followers_of_one_name():
    x = leaf("x")
    followers = []
    for _ in range(2):
        y = leaf("y")
        followers.append(bl.Follower(cp.Minimize(y), [y >= x], variables=[y], name="twin"))
    with pytest.raises(ProblemError, match="'twin'"):
        bl.Problem(cp.Minimize(x), [x >= 0], followers=followers)


def test_price_of_a_follower_that_is_not_there():
    x, y = pair()
    row = y >= x
    stranger = bl.Follower(cp.Minimize(y), [row], variables=[y], name="stranger")
    z = leaf("z")
    present = bl.Follower(cp.Minimize(z), [z >= x], variables=[z], name="present")
    with pytest.raises(ProblemError, match="stranger"):
        bl.Problem(cp.Minimize(stranger.dual(row) + x), [x >= 0], followers=[present])
    with pytest.raises(ProblemError, match="stranger"):
        bl.Problem(cp.Minimize(stranger.value + x), [x >= 0], followers=[present])


def test_price_inside_a_follower():
    x, y, z = leaf("x"), leaf("y"), leaf("z")
    row = y >= x
    first = bl.Follower(cp.Minimize(y), [row], variables=[y], name="first")
    second = bl.Follower(cp.Minimize(z), [z >= first.dual(row)], variables=[z], name="second")
    with pytest.raises(ProblemError) as error:
        bl.Problem(cp.Minimize(x), [x >= 0], followers=[first, second])
    says(error, "'second'", "leader only")


def test_price_of_a_row_that_is_not_the_followers():
    x, y = pair()
    follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y], name="carrier")
    with pytest.raises(ProblemError) as error:
        follower.dual(y >= x)  # equal, but another object
    says(error, "'carrier'", "very object")


# ------------------------------------------------------------------------------ malformed problems


@pytest.mark.parametrize("objective", [None, 3.0, "min", cp.Variable(name="loose")])
def test_objective_that_is_none(objective):
    y = leaf("y")
    with pytest.raises(ProblemError, match=r"Minimize.*Maximize"):
        bl.Follower(objective, [y >= 1], variables=[y])
    with pytest.raises(ProblemError, match="leader"):
        simple(objective=objective)


@pytest.mark.parametrize("constraint", [True, np.bool_(True), 3, None, "y >= 1"])
def test_constraint_that_is_none(constraint):
    y = leaf("y")
    with pytest.raises(ProblemError) as error:
        bl.Follower(cp.Minimize(y), [y >= 1, constraint], variables=[y], name="carrier")
    says(error, "'carrier'", "not a CVXPY constraint")
    with pytest.raises(ProblemError, match="leader"):
        simple(constraints=[constraint])


def test_constraint_that_is_not_in_a_list():
    y = leaf("y")
    with pytest.raises(BilevelError):
        bl.Follower(cp.Minimize(y), y >= 1, variables=[y])
    with pytest.raises(BilevelError):
        bl.Follower(cp.Minimize(y), None, variables=[y])


@pytest.mark.parametrize("followers", [[], ["carrier"], None])
def test_no_follower(followers):
    with pytest.raises(ProblemError, match="follower"):
        simple(followers=followers)


@pytest.mark.parametrize("stance", ["hopeful", None, 1])
def test_unknown_stance(stance):
    with pytest.raises(ProblemError, match=r"optimistic.*pessimistic"):
        simple(stance=stance)


def test_unknown_change():
    with pytest.raises(ProblemError, match="constrains"):
        simple().replace(constrains=[])


# ---- NaN, infinity


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["objective", "row", "coefficient", "quadratic"])
def test_constant_that_is_no_number(place, value):
    x, y = pair()
    f = {"objective": value * y, "quadratic": y + value * cp.square(y)}.get(place, y)
    rows = {"row": [y >= 0, y >= value * 1.0], "coefficient": [y >= 0, value * y >= x]}
    try:
        follower = bl.Follower(
            cp.Minimize(f), rows.get(place, [y >= x]), variables=[y], name="carrier"
        )
        problem = bl.Problem(cp.Minimize(x), [x >= 0], followers=[follower])
        bl.solve(problem)
    except BilevelError as error:
        assert isinstance(error, ProblemError | UnsupportedProblem)
        assert "carrier" in str(error)
    except ValueError as error:
        assert "bilevel" not in str(error)  # CVXPY itself refused to build the expression
    else:
        pytest.fail("data without meaning were accepted")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_leader_data_that_are_no_numbers(value):
    with pytest.raises(ProblemError, match="leader"):
        x, y = pair()
        follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y])
        bl.solve(bl.Problem(cp.Minimize(x + value * y), [x >= 0], followers=[follower]))
    with pytest.raises(ProblemError) as error:
        x, y = pair()
        follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y])
        bl.solve(bl.Problem(cp.Minimize(x + y), [x >= 0, x + y <= value], followers=[follower]))
    says(error, "leader", "Constraint 1")


def parametric():
    p = cp.Parameter(2, name="p")
    x, y = leaf("x"), leaf("y", 2)
    follower = bl.Follower(cp.Minimize(cp.sum(y)), [y >= p + x], variables=[y], name="carrier")
    return p, bl.Problem(cp.Minimize(x), [x >= 0], followers=[follower])


@pytest.mark.parametrize("value", [[np.nan, 0.0], [np.inf, 0.0]])
def test_parameter_that_is_no_number(value):
    p, problem = parametric()
    with pytest.raises(ProblemError) as error:
        bl.solve(problem, parameters={p: value})
    says(error, "p", "NaN or infinite")


@pytest.mark.parametrize(
    "value", [1.0, [1.0], np.ones(3), np.ones((2, 1)), np.ones((1, 2)), sp.eye_array(2)]
)
def test_parameter_of_the_wrong_shape(value):
    p, problem = parametric()
    with pytest.raises(ProblemError) as error:
        bl.solve(problem, parameters={p: value})
    says(error, "p", "(2,)")


@pytest.mark.parametrize("value", ["two", [[1], [2, 3]], object(), {"a": 1}])
def test_parameter_that_is_not_numeric(value):
    p, problem = parametric()
    with pytest.raises(ProblemError, match="numeric"):
        bl.solve(problem, parameters={p: value})


def test_parameter_without_a_value():
    p, problem = parametric()
    with pytest.raises(ProblemError) as error:
        bl.solve(problem)
    says(error, "p", "p.value", "parameters={p:")


def test_parameter_of_the_wrong_sign():
    p = cp.Parameter(name="price", nonneg=True)
    x, y = pair()
    follower = bl.Follower(cp.Minimize(p * y), [y >= x], variables=[y])
    problem = bl.Problem(cp.Minimize(x), [x >= 0], followers=[follower])
    with pytest.raises(ProblemError, match=r"price.*nonneg"):
        bl.solve(problem, parameters={p: -1.0})


def test_parameter_of_another_problem():
    _, problem = parametric()
    for key in (cp.Parameter(2, name="q"), "p", leaf("x")):
        with pytest.raises(ProblemError, match="not a parameter of this problem"):
            bl.solve(problem, parameters={key: np.ones(2)})


def test_parameter_that_makes_a_follower_nonconvex():
    P = cp.Parameter((2, 2), name="P", symmetric=True)
    x, y = leaf("x"), leaf("y", 2)
    follower = bl.Follower(
        cp.Minimize(y @ (P @ y) + x * y[0]), [y >= -1], variables=[y], name="carrier"
    )
    problem = bl.Problem(cp.Minimize(x), [x >= 0, x <= 1], followers=[follower])
    assert problem.compile({P: np.eye(2)})
    with pytest.raises(UnsupportedProblem) as error:
        bl.solve(problem, parameters={P: np.diag([1.0, -1.0])})
    says(error, "'carrier'", "not convex")


# ------------------------------------------------------------------------------------- points


@pytest.mark.parametrize("value", [np.nan, np.inf, "one", [1.0, 2.0], np.ones((1, 1, 2))])
@SCIP
def test_start_that_is_no_point(value):
    with pytest.raises(ProblemError, match="x"):
        bl.solve(simple(), start={"x": value})


@SCIP
def test_start_that_lacks_the_leader():
    with pytest.raises(ProblemError, match="lacks a value"):
        bl.solve(simple(), start={"y": 1.0})


@SCIP
def test_start_with_an_unknown_name():
    with pytest.raises(ProblemError, match="'z'"):
        bl.solve(simple(), start={"x": 1.0, "z": 2.0})


@SCIP
@pytest.mark.parametrize("start", [{"x": 2.0}, {"x": 9.0}, {"x": 2.0, "y": -5.0}])
def test_start_that_is_merely_bad(start):
    """Outside the feasible set, or no answer at all: the optimum is found all the same."""
    solution = bl.solve(simple(), start=start)
    assert solution.status is Status.OPTIMAL
    assert solution.leader_value == pytest.approx(2)


@SCIP
def test_start_where_the_follower_has_no_answer():
    x, y = pair()
    follower = bl.Follower(cp.Minimize(y), [y >= x, y <= 1], variables=[y], name="narrow")
    problem = bl.Problem(cp.Minimize(-x), [x >= 0, x <= 5], followers=[follower])
    try:
        solution = bl.solve(problem, start={"x": 3.0})
    except ProblemError as error:
        assert "narrow" in str(error)
    else:
        assert solution.leader_value == pytest.approx(-1)


def test_two_variables_of_one_name():
    first, second, y = leaf("x"), leaf("x"), leaf("y")
    follower = bl.Follower(cp.Minimize(y), [y >= first + second], variables=[y])
    problem = bl.Problem(cp.Minimize(y), [first >= 0, second >= 0], followers=[follower])
    with pytest.raises(ProblemError, match="more than one"):
        bl.verify(problem, {"x": 1.0, "y": 1.0})
    assert bl.verify(problem, {first: 0.0, second: 1.0, y: 1.0}).accepted


def test_value_that_breaks_a_symmetric_variable():
    x, S = leaf("x"), cp.Variable((2, 2), name="S", symmetric=True)
    follower = bl.Follower(cp.Minimize(cp.sum(S)), [x <= S], variables=[S])
    problem = bl.Problem(cp.Minimize(x), [x >= 0], followers=[follower])
    assert bl.verify(problem, {x: 0.0, S: np.zeros((2, 2))}).accepted
    with pytest.raises(ProblemError, match=r"S.*symmetric"):
        bl.verify(problem, {x: 0.0, S: np.array([[0.0, 1.0], [0.0, 0.0]])})


# ---------------------------------------------------------------------- followers without an answer


@SCIP
def test_follower_unbounded_for_all_decisions():
    x, y = pair()
    follower = bl.Follower(cp.Minimize(-y), [y >= x], variables=[y], name="greedy")
    problem = bl.Problem(cp.Minimize(x), [x >= 0, x <= 1], followers=[follower])
    with pytest.raises(SolveFailed) as error:
        bl.solve(problem)
    assert error.value.solution.status is Status.FOLLOWER_UNBOUNDED
    says(error, "FOLLOWER_UNBOUNDED", "no best one")
    assert bl.solve(problem, throw=False).status is Status.FOLLOWER_UNBOUNDED


@SCIP
def test_follower_unbounded_for_some_decisions():
    """It runs away for x > 0; what is left to the leader is x <= 0."""
    x, y = pair()
    follower = bl.Follower(cp.Maximize(x * y), [y >= -1], variables=[y], name="greedy")
    problem = bl.Problem(cp.Maximize(x), [x >= -2, x <= 1], followers=[follower])
    solution = bl.solve(problem)
    assert solution.leader_value == pytest.approx(0, abs=1e-6)
    assert solution.certificate.accepted


@SCIP
def test_follower_infeasible_for_all_decisions():
    x, y = pair()
    rows = [y >= x, y <= x - 1]
    follower = bl.Follower(cp.Minimize(y), rows, variables=[y], name="trapped")
    problem = bl.Problem(cp.Minimize(x), [x >= 0, x <= 1], followers=[follower])
    with pytest.raises(SolveFailed) as error:
        bl.solve(problem)
    assert error.value.solution.status is Status.FOLLOWER_INFEASIBLE
    says(error, "'trapped'")


@SCIP
def test_follower_infeasible_for_some_decisions():
    x, y = pair()
    follower = bl.Follower(cp.Minimize(y), [y >= x, y <= 1], variables=[y], name="narrow")
    problem = bl.Problem(cp.Maximize(x), [x >= -3, x <= 5], followers=[follower])
    solution = bl.solve(problem)
    assert solution.leader_value == pytest.approx(1)


@SCIP
def test_leader_that_contradicts_itself():
    with pytest.raises(SolveFailed) as error:
        x, y = pair()
        follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y])
        bl.solve(bl.Problem(cp.Minimize(x + y), [x >= 2, x <= 1], followers=[follower]))
    assert error.value.solution.status is Status.INFEASIBLE
    says(error, "leader's own constraints")


@SCIP
def test_coupling_that_no_answer_meets():
    x, y = pair()
    follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y])
    problem = bl.Problem(cp.Minimize(x), [x >= 0, x <= 1, y >= 5], followers=[follower])
    with pytest.raises(SolveFailed) as error:
        bl.solve(problem)
    assert error.value.solution.status is Status.INFEASIBLE
    says(error, "coupling")


@SCIP
def test_leader_without_a_bound():
    x, y = pair()
    follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y])
    solution = bl.solve(bl.Problem(cp.Minimize(x + y), [], followers=[follower]), throw=False)
    assert solution.status is Status.UNBOUNDED
    assert solution.leader_value is solution.bound is solution.certificate is None
    with pytest.raises(KeyError, match="no point"):
        solution[x]


@SCIP
@pytest.mark.parametrize("stance", ["optimistic", "pessimistic"])
def test_statuses_do_not_depend_on_the_stance(stance):
    x, y = pair()
    follower = bl.Follower(cp.Minimize(-y), [y >= x], variables=[y], name="greedy")
    leading = [x >= 0, x <= 1]
    problem = bl.Problem(cp.Minimize(x + y), leading, followers=[follower], stance=stance)
    assert bl.solve(problem, throw=False).status is Status.FOLLOWER_UNBOUNDED


# ---------------------------------------------------------------------------- solvers and backends


def hide(monkeypatch, *packages):
    registry = importlib.import_module("bilevel.backends.registry")
    real = registry.find_spec
    monkeypatch.setattr(
        registry, "find_spec", lambda name: None if name in packages else real(name)
    )


@pytest.mark.parametrize("backend", ["scip", "highs"])
def test_missing_backend(backend, monkeypatch):
    package = {"scip": "pyscipopt", "highs": "highspy"}[backend]
    hide(monkeypatch, package)
    with pytest.raises(BackendNotFound) as error:
        bl.solve(simple(), bl.SingleLevel(bl.KKT(bl.BigM(9.0, 9.0)), backend=backend))
    says(error, repr(backend), f"pip install {package}", "Installed backends")


@pytest.mark.backend("highs")
def test_auto_without_scip_says_so_and_still_solves(monkeypatch):
    hide(monkeypatch, "pyscipopt")
    x, y = pair()
    follower = bl.Follower(cp.Minimize(y), [y >= x, y >= 2 - x], variables=[y])
    problem = bl.Problem(cp.Minimize(x + y), [x >= 0, x <= 3, y <= 9], followers=[follower])
    assert isinstance(bl.Auto().choose(problem).solver, bl.Branching)
    solution = bl.solve(problem)
    assert solution.status is Status.OPTIMAL
    assert solution.leader_value == pytest.approx(2)


@pytest.mark.backend("highs")
def test_refusal_without_scip_names_a_way_out(monkeypatch):
    """No M is valid here, and SCIP is not there: the message must say what to do."""
    hide(monkeypatch, "pyscipopt")
    x, y = pair()
    z = cp.Variable(name="z")
    rows = [y + 2 * z >= x, z - 3 * y <= 4, y <= 3, z >= 0]
    follower = bl.Follower(cp.Minimize(y), rows, variables=[y, z], name="carrier")
    # A product that Branching has no convex relaxation for.
    problem = bl.Problem(cp.Minimize(x * y), [x >= 0, x <= 3], followers=[follower])
    with pytest.raises(UnsupportedProblem) as error:
        bl.solve(problem)
    says(error, "'carrier'", "SOS1")


def test_verification_works_with_any_single_backend(monkeypatch):
    for kept in ("highspy", "clarabel"):
        with monkeypatch.context() as context:
            hide(context, *({"highspy", "clarabel", "daqp", "pyscipopt"} - {kept}))
            assert bl.verify(simple(), {"x": 1.0, "y": 1.0}).accepted
            assert not bl.verify(simple(), {"x": 1.0, "y": 1.1}).accepted


def test_verification_without_any_backend_accepts_nothing(monkeypatch):
    hide(monkeypatch, "highspy", "clarabel", "daqp", "pyscipopt")
    try:
        certificate = bl.verify(simple(), {"x": 1.0, "y": 1.0})
    except BilevelError as error:
        assert "pip install" in str(error)
    else:
        assert not certificate.accepted
        assert certificate.notes


def test_unknown_backend():
    with pytest.raises(ProblemError) as error:
        bl.solve(simple(), bl.SingleLevel(backend="oracle"))
    says(error, "'oracle'", "scip", "highs")


def test_backend_that_lacks_what_the_encoding_needs():
    for backend in ("highs", "clarabel"):
        with pytest.raises(UnsupportedProblem) as error:
            bl.solve(simple(), bl.SingleLevel(bl.KKT(bl.SOS1()), backend=backend))
        says(error, repr(backend), "SOS1", "scip")


@pytest.mark.parametrize("solver", [bl.KKT(), bl.SOS1(), "scip", bl.SingleLevel, 3])
def test_solver_that_is_none(solver):
    with pytest.raises(ProblemError, match="solver"):
        bl.solve(simple(), solver)


@pytest.mark.parametrize("problem", [None, cp.Problem(cp.Minimize(0)), "T1"])
def test_problem_that_is_none(problem):
    with pytest.raises(ProblemError, match="problem"):
        bl.solve(problem)
    with pytest.raises(ProblemError, match="problem"):
        bl.verify(problem, {})


@SCIP
def test_given_bound_that_leaves_nothing():
    """M = 1e-3 admits no multiplier of 1: the status says that the bounds may be to blame."""
    solver = bl.SingleLevel(bl.KKT(bl.BigM(multiplier=1e-3, slack=10.0)))
    with pytest.raises(SolveFailed) as error:
        bl.solve(simple(), solver)
    assert error.value.solution.status is Status.NOT_FOUND
    says(error, "too small")


# ---------------------------------------------------------------------------- arguments of solve


@pytest.mark.parametrize("limit", [0, 0.0, -1, -np.inf, np.nan, "60", [60]])
def test_time_limit_that_is_no_time(limit):
    with pytest.raises(ProblemError, match="time_limit"):
        bl.solve(simple(), time_limit=limit)


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize("value", [-1e-9, np.nan, np.inf, "small", True])
def test_tolerance_that_is_none(name, value):
    with pytest.raises(ProblemError, match=name):
        bl.solve(simple(), **{name: value})


@pytest.mark.parametrize("seed", ["lucky", 1.5, -3])
def test_seed_that_is_none(seed):
    with pytest.raises(BilevelError, match="seed"):
        bl.solve(simple(), seed=seed)


@pytest.mark.parametrize("options", ["fast", 3, ["a"], {1: 2}])
def test_options_that_are_no_mapping(options):
    with pytest.raises(BilevelError, match="option"):
        bl.solve(simple(), options=options)


@pytest.mark.parametrize(
    "solver",
    [bl.SingleLevel(), bl.SingleLevel(bl.KKT(bl.BigM(9.0, 9.0)), "highs")],
    ids=["scip", "highs"],
)
def test_unknown_option(solver):
    with pytest.raises(BackendError, match="no_such_option"):
        bl.solve(simple(), solver, options={"no_such_option": 1})


def test_parameters_and_start_that_are_no_mapping():
    for name in ("parameters", "start"):
        with pytest.raises(ProblemError):
            bl.solve(simple(), **{name: [1.0, 2.0]})


@SCIP
@pytest.mark.parametrize("backend", ["scip", "highs"])
def test_callback_that_raises(backend):
    """The user's own exception comes out, not a crash of the vendor's library."""

    def broken(progress):
        raise RuntimeError("my own mistake")

    solver = eval(RUNS[backend])
    with pytest.raises((RuntimeError, BackendError), match="my own mistake"):
        bl.solve(hard_problem(), solver, callback=broken, time_limit=20)


# ------------------------------------------------------------------------------- limits and Ctrl-C


def hard_problem(n=40, m=15, seed=1):
    """A random interdiction game: points abound, a proof takes minutes."""
    rng = np.random.default_rng(seed)
    x, y = leaf("x", n, boolean=True), leaf("y", n)
    A, d = rng.integers(1, 30, size=(m, n)), rng.integers(1, 30, size=n)
    rows = [A @ y <= A.sum(axis=1) / 3, y >= 0, y <= 1 - x]
    follower = bl.Follower(cp.Maximize(d @ y), rows, variables=[y], name="f")
    w, noise = rng.integers(1, 30, size=(3, n)), rng.integers(-6, 7, size=n)
    leading = [w @ x <= w.sum(axis=1) / 4]
    return bl.Problem(cp.Minimize((d + noise) @ y), leading, followers=[follower])


# Each finds its first point of the hard problem within seconds.
RUNS = {
    "scip": "bl.SingleLevel(bl.StrongDuality())",
    "highs": "bl.SingleLevel(bl.StrongDuality(bl.BigM(1e3, 1e3)), backend='highs')",
}


@SCIP
def test_time_limit_with_an_incumbent():
    solution = bl.solve(hard_problem(), time_limit=2)
    assert solution.status is Status.FEASIBLE
    assert solution.certificate.accepted
    assert solution.status.has_point
    assert not solution.status.is_proved
    if solution.bound is not None:
        assert solution.bound <= solution.leader_value


@SCIP
def test_time_limit_without_an_incumbent():
    """Prices keep the followers from being asked first, so nothing may be known in time."""
    problem = hard_problem()
    (follower,) = problem.followers
    price = follower.dual(follower.constraints[0])
    objective = cp.Minimize(problem.objective.args[0] + 0.01 * cp.sum(price))
    twin = problem.replace(objective=objective)
    solution = bl.solve(twin, bl.SingleLevel(), time_limit=0.05, throw=False)
    if solution.status is Status.NOT_FOUND:
        assert solution.leader_value is solution.certificate is None
        with pytest.raises(SolveFailed) as error:
            bl.solve(twin, bl.SingleLevel(), time_limit=0.05)
        assert not error.value.solution.status.has_point
    else:
        assert solution.status is Status.FEASIBLE
        assert solution.certificate.accepted


@SCIP
@pytest.mark.parametrize("stance", ["optimistic", "pessimistic"])
def test_a_very_short_time_limit(stance):
    """Less than the compilation takes: an answer or a status, never an exception or a claim."""
    problem = hard_problem().replace(stance=stance)
    solution = bl.solve(problem, time_limit=1e-3, throw=False)
    assert solution.status in (Status.FEASIBLE, Status.NOT_FOUND)


@SCIP
@pytest.mark.parametrize("backend", ["scip", "highs"])
def test_callback_that_stops(backend):
    seen = []

    def stop(progress):
        seen.append(progress)
        return progress.incumbent is not None

    solver = eval(RUNS[backend])
    solution = bl.solve(hard_problem(), solver, callback=stop, time_limit=200)
    assert seen[-1].incumbent is not None
    assert solution.status is Status.FEASIBLE
    assert solution.certificate.accepted
    assert "Interrupted" in solution.stats.note  # and not the time limit


@SCIP
def test_callback_that_stops_a_pessimistic_solve():
    """Stopped in its first phase, it does not go on with the second."""
    began = time.perf_counter()
    problem = hard_problem().replace(stance="pessimistic")
    solution = bl.solve(
        problem,
        callback=lambda progress: time.perf_counter() - began > 1.5,
        time_limit=200,
        throw=False,
    )
    assert solution.status in (Status.FEASIBLE, Status.NOT_FOUND)
    if solution.status is Status.FEASIBLE:
        assert solution.certificate.accepted
        assert "Interrupted" in solution.stats.note


INTERRUPTED = """
import sys
sys.path.insert(0, {root!r})
import bilevel as bl
from tests.test_bad_input import hard_problem
problem = hard_problem()
solver = {solver}
told = []
def tell(progress):
    if progress.incumbent is not None and not told:
        told.append(1)
        print("running", flush=True)
solution = bl.solve(problem, solver, callback=tell, time_limit=200, throw=False)
accepted = solution.certificate.accepted if solution.certificate else None
print(solution.status.name, accepted, solution.leader_value is not None, solution.stats.note)
"""
HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@SCIP
@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process")
@pytest.mark.parametrize("backend", RUNS)
def test_ctrl_c_returns_the_best_point_so_far(backend):
    script = INTERRUPTED.format(root=HERE, solver=RUNS[backend])
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stdout:
            if line.startswith("running"):
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=250)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    status, accepted, has_value, *note = output.strip().splitlines()[-1].split()
    assert (status, accepted, has_value) == ("FEASIBLE", "True", "True")
    assert "Interrupted" in " ".join(note)
    assert "Traceback" not in errors


# ------------------------------------------------------------------------------------ error tree


def test_every_error_is_of_one_tree():
    for kind in (ProblemError, UnsupportedProblem, BackendNotFound, BackendError, SolveFailed):
        assert issubclass(kind, BilevelError)
    assert issubclass(ProblemError, ValueError)
    assert issubclass(BackendNotFound, ImportError)
    assert issubclass(BackendError, RuntimeError)
    assert issubclass(SolveFailed, RuntimeError)


@SCIP
def test_solve_failed_carries_the_solution():
    x, y = pair()
    follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y])
    problem = bl.Problem(cp.Minimize(x), [x >= 0, y <= -1], followers=[follower])
    with pytest.raises(SolveFailed) as error:
        bl.solve(problem)
    solution = error.value.solution
    assert solution.status is Status.INFEASIBLE
    assert solution.stats.backend == "tree"
    assert "INFEASIBLE" in solution.summary()
    assert solution.to_dict()["values"] == {}
    assert x.value is None, "a failed solve must not store values"
