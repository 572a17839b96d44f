"""What a problem knows of its variables, and how it shows itself."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

import bilevel as bl
from bilevel import ProblemError


def market(**keywords):
    """Sell what a buyer takes at an offer that stands in the buyer's problem only."""
    offer = cp.Variable(name="offer", bounds=[1.0, 8.0])
    bought = cp.Variable(name="bought")
    balance = bought <= 10 - offer
    buyer = bl.Follower(
        cp.Minimize(cp.square(bought) - 8 * bought + offer * bought),
        [balance, bought >= 0],
        variables=[bought],
        name="buyer",
    )
    if "variables" in keywords:
        keywords["variables"] = [offer if v == "offer" else bought for v in keywords["variables"]]
    return bl.Problem(cp.Maximize(bought), [], followers=[buyer], **keywords), offer, bought


def test_a_leaders_variable_may_stand_in_followers_only():
    problem, offer, bought = market(variables=["offer"])
    assert problem.variables == (offer,)
    solution = bl.solve(problem)
    assert solution.status is bl.Status.OPTIMAL
    assert solution[offer] == pytest.approx(1.0, abs=1e-6)
    assert solution[bought] == pytest.approx(3.5, abs=1e-6)
    assert bl.verify(problem, {offer: 2.0, bought: 3.0}).accepted
    assert not bl.verify(problem, {offer: 2.0, bought: 3.5}).accepted


def test_the_same_answer_as_with_a_row_that_says_nothing():
    offer = cp.Variable(name="offer", nonneg=True)
    taken = cp.Variable(2, name="taken", nonneg=True)
    rows = [cp.sum(taken) <= 8, taken[0] + offer <= 6]
    buyer = bl.Follower(cp.Maximize(offer * taken[0] + taken[1]), rows, variables=[taken])
    aim = cp.Maximize(2 * taken[0] + taken[1])
    dummy = bl.solve(bl.Problem(aim, [offer >= 0], followers=[buyer]))
    named = bl.solve(bl.Problem(aim, followers=[buyer], variables=offer))
    assert named.leader_value == pytest.approx(dummy.leader_value, abs=1e-7)


def test_without_its_name_it_is_refused_with_the_remedy():
    with pytest.raises(ProblemError, match=r"offer occurs only in .*variables=\[\.\.\.\] of the b"):
        market()


@pytest.mark.parametrize("stance", ["optimistic", "pessimistic"])
def test_replace_keeps_the_names(stance):
    problem, offer, _ = market(variables=["offer"])
    twin = problem.replace(stance=stance, constraints=[offer >= 2])
    assert twin.variables == (offer,)
    assert twin.replace(constraints=[]).variables == (offer,)
    assert bl.solve(twin).leader_value == pytest.approx(3.0, abs=1e-6)
    with pytest.raises(ProblemError, match="occurs only in follower"):
        twin.replace(constraints=[], variables=[])


def test_a_file_keeps_it(tmp_path):
    x, y = cp.Variable(name="x", bounds=[0.0, 3.0]), cp.Variable(name="y")
    follower = bl.Follower(cp.Maximize(y), [y <= x, y <= 4 - x], variables=[y])
    problem = bl.Problem(cp.Maximize(y), followers=[follower], variables=[x])
    bl.write(problem, tmp_path / "bid.mps")
    again = bl.solve(bl.read(tmp_path / "bid.mps", aux=tmp_path / "bid.aux.txt"))
    assert again.leader_value == pytest.approx(2.0, abs=1e-7)
    assert again["x"] == pytest.approx(2.0, abs=1e-7)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda x, y, f: [y], "y is named as the leader's and listed by follower 'f'"),
        (lambda x, y, f: [cp.Variable(name="lost")], "lost, which occurs in neither level"),
        (lambda x, y, f: [f.value], r"value\[f\], which a follower determines"),
        (lambda x, y, f: [x + 1], "not objects of type AddExpression"),
        (lambda x, y, f: ["x"], "not objects of type str"),
        (lambda x, y, f: 3, "an object of type int"),
    ],
)
def test_names_that_are_refused(given, words):
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y], name="f")
    with pytest.raises(ProblemError, match=words):
        bl.Problem(cp.Minimize(x), [x >= 0], followers=[follower], variables=given(x, y, follower))


LARGE = np.arange(12345.0, 12355.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda y: bl.Follower(cp.Minimize(y), [y >= 0], variables=[LARGE]),
        lambda y: bl.Follower(cp.Minimize(y), [y >= 0], variables=12345),
        lambda y: bl.Follower(cp.Minimize(y), 12345, variables=[y]),
        lambda y: bl.Follower(cp.Minimize(y), [LARGE], variables=[y]),
        lambda y: bl.Problem(cp.Minimize(y), followers=[LARGE]),
        lambda y: bl.Problem(cp.Minimize(y), [LARGE], followers=[]),
        lambda y: bl.Problem(
            cp.Minimize(0), [], [bl.Follower(cp.Minimize(y), [y >= 0], y)], stance=LARGE.tobytes()
        ),
        lambda y: bl.Follower(cp.Minimize(y), [y >= 0], y).dual(LARGE @ cp.Variable(10) == y),
        lambda y: bl.instances.get("T1").problem.compile({12345: 1.0}),
        lambda y: bl.verify(bl.instances.get("T1").problem, {y + 12345: 1.0}),
    ],
)
def test_no_message_prints_data(make):
    with pytest.raises(ProblemError) as refused:
        make(cp.Variable(name="y"))
    assert "12345" not in str(refused.value)
    assert "12,345" not in str(refused.value)


def test_a_parameter_of_another_problem_is_named():
    with pytest.raises(ProblemError, match=r"toll is not a parameter of this problem.*: none"):
        bl.instances.get("T1").problem.compile({cp.Parameter(name="toll"): 1.0})
    with pytest.raises(
        ProblemError, match=r"A str is not a parameter.* cvxpy.Parameter objects: none"
    ):
        bl.solve(bl.instances.get("T1").problem, parameters={"toll": 1.0})
