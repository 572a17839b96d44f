"""Variables as plain columns: values go in and come out, attributes become columns or bounds."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl
from bilevel import ProblemError, UnsupportedProblem
from bilevel.problem.leaves import make_leaf

SYMMETRIC = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 5.0], [3.0, 5.0, 6.0]])
CASES = {
    "scalar": (cp.Variable(name="v"), np.array(3.0), 1),
    "vector": (cp.Variable(3, name="v"), np.arange(3.0), 3),
    "matrix": (cp.Variable((2, 3), name="v"), np.arange(6.0).reshape(2, 3), 6),
    "row": (cp.Variable((1, 3), name="v"), np.arange(3.0).reshape(1, 3), 3),
    "cube": (cp.Variable((2, 2, 2), name="v"), np.arange(8.0).reshape(2, 2, 2), 8),
    "symmetric": (cp.Variable((3, 3), name="v", symmetric=True), SYMMETRIC, 6),
    "diagonal": (cp.Variable((3, 3), name="v", diag=True), np.diag([1.0, 2.0, 3.0]), 3),
    "sparse": (
        cp.Variable((2, 2), name="v", sparsity=([0, 1], [1, 0])),
        np.array([[0.0, 5.0], [7.0, 0.0]]),
        2,
    ),
}
EVERY = pytest.mark.parametrize("case", CASES)


@EVERY
@pytest.mark.parametrize("first", [0, 4])
def test_a_value_goes_in_and_comes_out(case, first):
    variable, value, size = CASES[case]
    leaf = make_leaf(variable, first)
    assert leaf.columns.tolist() == list(range(first, first + size))
    w = np.full(first + size + 2, 99.0)
    leaf.write(value, w)
    np.testing.assert_array_equal(leaf.read(w), value)
    assert leaf.read(w).shape == variable.shape
    assert (w[:first] == 99).all()
    assert (w[first + size :] == 99).all()


@EVERY
def test_names_are_unique_and_tell_the_entry(case):
    variable, value, size = CASES[case]
    leaf = make_leaf(variable, 0)
    assert len(set(leaf.names)) == len(leaf.names) == size
    w = np.zeros(size)
    leaf.write(value, w)
    for name, number in zip(leaf.names, w, strict=True):
        if "[" in name:
            index = tuple(int(i) for i in name[2:-1].split(","))
            assert value[index] == number
        else:
            assert value == number


@EVERY
def test_the_expression_is_the_variable(case):
    variable, value, size = CASES[case]
    leaf = make_leaf(variable, 0)
    w = np.zeros(size)
    leaf.write(value, w)
    leaf.plain.value = np.reshape(w, leaf.plain.shape, order="F")
    np.testing.assert_allclose(leaf.expression.value, value)


@pytest.mark.parametrize("case", ["symmetric", "diagonal", "sparse"])
def test_a_value_without_the_declared_structure_is_refused(case):
    variable, _, size = CASES[case]
    wrong = np.arange(1.0, variable.size + 1).reshape(variable.shape)
    with pytest.raises(ProblemError, match="structure"):
        make_leaf(variable, 0).write(wrong, np.zeros(size))


@pytest.mark.parametrize(
    ("attributes", "lower", "upper"),
    [
        ({}, -np.inf, np.inf),
        ({"nonneg": True}, 0, np.inf),
        ({"pos": True}, 0, np.inf),
        ({"nonpos": True}, -np.inf, 0),
        ({"neg": True}, -np.inf, 0),
        ({"boolean": True}, 0, 1),
        ({"integer": True}, -np.inf, np.inf),
        ({"bounds": [-2, 3]}, -2, 3),
        ({"bounds": [None, 3]}, -np.inf, 3),
        ({"bounds": [-1.5, None]}, -1.5, np.inf),
    ],
)
@pytest.mark.parametrize("shape", [(), (2,)])
def test_bounds(attributes, lower, upper, shape):
    leaf = make_leaf(cp.Variable(shape, name="v", **attributes), 0)
    for found, expected in zip(leaf.bounds, (lower, upper), strict=True):
        np.testing.assert_array_equal(found, np.full(int(np.prod(shape)), float(expected)))


def test_bounds_by_entry():
    low, high = np.array([[-1.0, -np.inf], [0.0, 2.0]]), np.array([[1.0, 5.0], [np.inf, 2.0]])
    leaf = make_leaf(cp.Variable((2, 2), name="v", bounds=[low, high]), 0)
    np.testing.assert_array_equal(leaf.bounds[0], low.ravel(order="F"))
    np.testing.assert_array_equal(leaf.bounds[1], high.ravel(order="F"))


@pytest.mark.parametrize("kind", ["boolean", "integer"])
def test_which_entries_are_integer(kind):
    assert make_leaf(cp.Variable(name="v", **{kind: True}), 0).integer.tolist() == [True]
    assert make_leaf(cp.Variable(2, name="v", **{kind: True}), 0).integer.all()
    some = make_leaf(cp.Variable((2, 2), name="v", **{kind: [(0, 1), (1, 1)]}), 0)
    assert some.integer.tolist() == [False, False, True, True]
    if kind == "boolean":
        assert some.bounds[0].tolist() == [-np.inf, -np.inf, 0, 0]


@pytest.mark.parametrize("attribute", ["PSD", "NSD", "hermitian", "complex", "imag"])
def test_what_is_refused(attribute):
    with pytest.raises(UnsupportedProblem, match=f"v .*{attribute}"):
        make_leaf(cp.Variable((2, 2), name="v", **{attribute: True}), 0)


def test_the_other_sign_of_an_entry_of_a_parameter_is_its_users_affair():
    p = cp.Parameter(2, name="p", nonpos=True)
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= p @ np.ones(2) + x], variables=[y])
    problem = bl.Problem(cp.Minimize(x), [x >= 0], followers=[follower])
    assert problem.compile({p: [-1.0, 0.0]})
    with pytest.raises(ProblemError, match="nonpos"):
        problem.compile({p: [-1.0, 1.0]})


@pytest.mark.backend("scip")
@pytest.mark.filterwarnings("ignore:Reading from a sparse")
@pytest.mark.parametrize(
    "case", ["scalar", "vector", "matrix", "row", "symmetric", "diagonal", "sparse"]
)
def test_stored_values_can_be_read_and_verified(case):
    """What ``bl.solve`` stores is what CVXPY would have stored."""
    template, target, _ = CASES[case]
    given = {k: v for k, v in template.attributes.items() if v and k in ("symmetric", "diag")}
    if case == "sparse":
        given["sparsity"] = ([0, 1], [1, 0])
    y = cp.Variable(template.shape, name="y", **given)
    x = cp.Variable(name="x")
    follower = bl.Follower(cp.Minimize(cp.sum_squares(y - x * target)), [], variables=[y])
    problem = bl.Problem(cp.Minimize(cp.square(x - 1)), [], followers=[follower])
    solution = bl.solve(problem)
    np.testing.assert_allclose(solution[y], target, atol=1e-5)
    stored = y.value_sparse if case == "sparse" else y.value
    stored = stored.toarray() if hasattr(stored, "toarray") else stored
    np.testing.assert_allclose(stored, target, atol=1e-5)
    np.testing.assert_allclose((y + 0).value, target, atol=1e-5)
    assert bl.verify(problem, solution).accepted
    assert bl.verify(
        problem, {x: x.value, y: y.value_sparse if case == "sparse" else y.value}
    ).accepted


@pytest.mark.backend("scip")
def test_attributes_of_the_leader_bind():
    x = cp.Variable((2, 2), name="x", symmetric=True)
    d, k = cp.Variable((2, 2), name="d", diag=True), cp.Variable(2, name="k", boolean=True)
    y = cp.Variable(name="y")
    follower = bl.Follower(
        cp.Minimize(y), [y >= cp.sum(x) + cp.trace(d) + cp.sum(k)], variables=[y]
    )
    objective = cp.Maximize(-y + 3 * x[0, 1] + 2 * d[0, 0] + 1.5 * k[0])
    leading = [x <= 2, x >= -1, d <= 1, d >= -1]
    solution = bl.solve(bl.Problem(objective, leading, followers=[follower]))
    np.testing.assert_allclose(solution[x], [[-1, 2], [2, -1]], atol=1e-6)
    np.testing.assert_allclose(solution[d], [[1, 0], [0, -1]], atol=1e-6)
    np.testing.assert_allclose(solution[k], [1, 0], atol=1e-6)
