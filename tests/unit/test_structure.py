"""The flags of a compiled problem, one problem per flag."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp

import bilevel as bl
from bilevel import Structure
from bilevel.problem.functions import Objective
from bilevel.problem.standard import smallest_curvature


def structure(leader=None, leading=None, objective=None, rows=None, x=None, more=()):
    x = cp.Variable(name="x") if x is None else x
    y = cp.Variable(name="y")
    cost = cp.Minimize(objective(x, y) if objective else y)
    follower = bl.Follower(cost, rows(x, y) if rows else [y >= x], variables=[y])
    F = leader(x, y, follower) if leader else x + y
    parts = leading(x, y, follower) if leading else [x >= 0, x <= 1]
    return bl.Problem(cp.Minimize(F), parts, followers=[follower, *more]).structure


def test_plain():
    assert structure() == Structure.LINKING_CONTINUOUS


def test_a_leader_that_enters_nowhere():
    assert structure(rows=lambda x, y: [y >= 1]) == Structure.PLAIN


def test_a_leader_that_only_shifts_the_followers_value_does_not_link():
    flags = structure(objective=lambda x, y: y + 5 * x, rows=lambda x, y: [y >= 1])
    assert flags == Structure.PLAIN


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"leader": lambda x, y, f: cp.square(x)}, Structure.LEADER_QUADRATIC),
        ({"leader": lambda x, y, f: x * y}, Structure.LEADER_NONCONVEX),
        (
            {"leading": lambda x, y, f: [cp.norm(cp.hstack([x, y])) <= 1]},
            Structure.LEADER_NONLINEAR_ROWS,
        ),
        ({"leading": lambda x, y, f: [x * y <= 1, x >= 0]}, Structure.LEADER_NONLINEAR_ROWS),
        ({"leading": lambda x, y, f: [y <= 1, x >= 0]}, Structure.COUPLED),
        ({"objective": lambda x, y: cp.square(y)}, Structure.FOLLOWER_QUADRATIC),
        ({"objective": lambda x, y: x * y}, Structure.PRODUCTS),
        ({"rows": lambda x, y: [x * y >= 1]}, Structure.PRODUCTS),
        ({"objective": lambda x, y: x * cp.square(y)}, Structure.CURVED_BY_LEADER),
        ({"leader": lambda x, y, f: x + f.dual(f.constraints[0])}, Structure.DUAL_VARIABLES),
        ({"leader": lambda x, y, f: x + f.value}, Structure.VALUES),
        ({"x": cp.Variable(name="k", boolean=True)}, Structure.LINKING_INTEGER),
        ({"x": cp.Variable(name="k", integer=True)}, Structure.LEADER_INTEGER),
    ],
)
def test_flag(changes, flag):
    flags = structure(**changes)
    assert flag in flags
    assert flag not in structure()
    assert any(sentence for sentence in flag.sentences())
    assert set(flag.sentences()) <= set(flags.sentences())


def test_several_followers_and_nash():
    x, y, z = (cp.Variable(name=n) for n in "xyz")
    first = bl.Follower(cp.Minimize(y), [y >= x], variables=[y])
    apart = bl.Follower(cp.Minimize(z), [z >= x], variables=[z])
    seeing = bl.Follower(cp.Minimize(z), [z >= y], variables=[z])
    leading = [x >= 0]
    alone = bl.Problem(cp.Minimize(x), leading, followers=[first, apart]).structure
    assert Structure.SEVERAL_FOLLOWERS in alone
    assert Structure.NASH not in alone
    together = bl.Problem(cp.Minimize(x), leading, followers=[first, seeing]).structure
    assert Structure.NASH in together


def test_flags_follow_the_parameters():
    """The structure is that of the present values: with p = 0 nothing is left of the square."""
    p = cp.Parameter(name="p", nonneg=True, value=1.0)
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(p * cp.square(y) + y), [y >= x], variables=[y])
    problem = bl.Problem(cp.Minimize(x), [x >= 0], followers=[follower])
    assert Structure.FOLLOWER_QUADRATIC in problem.structure
    p.value = 0.0
    assert Structure.FOLLOWER_QUADRATIC not in problem.structure


def test_every_flag_has_a_sentence():
    for flag in Structure:
        (sentence,) = flag.sentences()
        assert sentence.endswith(".")
    assert Structure.PLAIN.sentences() == ()


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (np.zeros((3, 3)), 0.0),
        (np.eye(3), 1.0),
        (np.diag([2.0, 1.0, 0.0]), 0.0),
        (np.diag([1e-6, 1e6, 1.0]), 1e-12),
        (np.array([[0.0, 1.0], [1.0, 0.0]]), -1.0),
        (-1e-5 * np.eye(2), -1.0),
    ],
)
def test_smallest_curvature_is_relative(matrix, expected):
    n = len(matrix)
    f = Objective(sp.csr_array(matrix), np.zeros(n))
    assert smallest_curvature(f) == pytest.approx(min(expected, max(expected, -1.0)), abs=1e-6) or (
        expected >= 0 and smallest_curvature(f) >= -1e-12
    )
