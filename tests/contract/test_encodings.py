"""All encodings of one problem have one optimum, and it is the true one.

The truth is that of ``tests.oracle``: every complementarity pattern is a MILP of its own.
"""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from tests.oracle import Game, assert_claim_is_true, games, holds
from tests.registry import ENCODINGS, OPTIMISTIC, SOLVERS, rows

import bilevel as bl
from bilevel import Status, UnsupportedProblem
from bilevel.errors import ProblemError
from bilevel.problem.functions import Objective
from bilevel.program import Feature
from bilevel.reformulate.builder import Builder

INSTALLED = [row for row in SOLVERS if row.is_installed]
COMPLETE = [row for row in INSTALLED if row.proves and row.stances >= OPTIMISTIC]
EXACT = [row for row in INSTALLED if row.exact and row.stances >= OPTIMISTIC]
LIMIT = 10.0
FEW = settings(max_examples=8)
# Every row solves every game, which takes ten seconds and more in one test.
HALVES = pytest.mark.parametrize("half", [0, 1])


def claims(game: Game, table, truth: float) -> list[str]:
    """Solve by every row, check each claim, and return the rows that proved an optimum."""
    proved = []
    for row in table:
        problem = game.problem()
        try:
            solution = bl.solve(problem, row.build(), throw=False, time_limit=LIMIT)
        except UnsupportedProblem:
            assert row.may_refuse or row.must_refuse(problem), row.name
            continue
        assert_claim_is_true(solution, game, truth, max(row.tolerance, 1e-5))
        if solution.status is Status.OPTIMAL:
            proved.append(row.name)
    return proved


def names(table) -> set[str]:
    return {row.name for row in table}


@pytest.mark.backend("scip")
@FEW
@HALVES
@given(game=games())
def test_random_linear_games(half, game):
    truth = game.optimum()
    proved = claims(game, COMPLETE[half::2], truth)
    if np.isfinite(truth):
        assert {"auto", "kkt sos1 scip", "kkt indicator scip"} & names(COMPLETE[half::2]) <= set(
            proved
        )


@pytest.mark.backend("scip")
@FEW
@HALVES
@given(game=games(quadratic=True))
def test_random_quadratic_games(half, game):
    truth = game.optimum()
    proved = claims(game, COMPLETE[half::2], truth)
    if np.isfinite(truth):
        assert {"auto", "kkt sos1 scip"} & names(COMPLETE[half::2]) <= set(proved)


@pytest.mark.backend("scip")
@FEW
@HALVES
@given(game=games(integer=True))
def test_random_games_with_an_integer_leader(half, game):
    truth = game.optimum()
    proved = claims(game, EXACT[half::2], truth)
    if np.isfinite(truth):
        assert {"auto", "kkt sos1 scip"} & names(EXACT[half::2]) <= set(proved)


@pytest.mark.backend("scip")
@FEW
@given(games(boxed=False, rows=4))
def test_random_games_without_bounds(game):
    """Followers may be unbounded, multipliers too: whatever is claimed must be true."""
    claims(game, COMPLETE, game.optimum())


@pytest.mark.backend("scip")
@FEW
@HALVES
@given(game=games(priced=True))
def test_random_games_with_prices(half, game):
    """The leader is paid by multipliers, which may make it unbounded."""
    claims(game, COMPLETE[half::2], game.optimum())


@pytest.mark.backend("scip")
@FEW
@given(games())
def test_product_rows_never_claim_too_much(game):
    loose = [row for row in INSTALLED if row.exact and not row.proves]
    claims(game, loose, game.optimum())


@pytest.mark.slow
@pytest.mark.backend("scip")
@pytest.mark.timeout(1200)
@settings(max_examples=400)
@given(games(quadratic=True, priced=True, boxed=False, rows=4))
def test_many_random_games(game):
    claims(game, COMPLETE, game.optimum())


# ------------------------------------------------------------------------------------- one by one


@pytest.mark.backend("scip")
@pytest.mark.parametrize("row", rows(ENCODINGS))
@pytest.mark.parametrize("name", ["T1", "T2", "T3", "T6b", "T8", "T16"])
def test_optimum_of_an_instance(row, name):
    instance = bl.instances.get(name)
    solver = bl.SingleLevel(bl.KKT(row.build()))
    # SCIP does not leave the root of T16 with indicators, see the registry.
    struggles = name == "T16" and row.needs & Feature.INDICATOR
    try:
        solution = bl.solve(instance.problem, solver, time_limit=5 if struggles else 200)
    except UnsupportedProblem as refusal:
        assert row.may_refuse
        assert "SOS1" in str(refusal)
        return
    value = instance.optimistic.value
    assert solution.leader_value == pytest.approx(value, abs=row.tolerance * max(1, abs(value)))
    assert solution.status is Status.OPTIMAL or not row.proved or solution.bound is None
    if not row.proved:
        assert solution.status is Status.FEASIBLE


@pytest.mark.parametrize("row", rows(ENCODINGS))
def test_what_a_pair_adds(row):
    """A pair needs no more of a backend than the registry says, and names what it adds."""
    builder = Builder()
    lam, slack = (int(builder.columns([n], 0.0, np.inf)[0]) for n in ("lam", "slack"))
    row.build().pair(builder, lam, slack, "f.c0[0]", (5.0, 7.0))
    program = builder.build(_nothing(len(builder)))
    assert program.features & ~row.needs == Feature.NONE
    assert program.names[:2] == ("lam", "slack")
    added = [*program.rows.names, *(n for n, _ in program.sos1), *program.names[2:]]
    added += [rule.name for rule in program.indicators]
    assert added
    assert all("f.c0[0]" in name for name in added)


@pytest.mark.parametrize("row", rows(ENCODINGS))
@pytest.mark.parametrize("active", [0, 1])
def test_a_gate_closes_at_its_value_only(row, active):
    """``target = 0`` where ``binary == active``, and nothing otherwise."""
    builder = Builder()
    binary = int(builder.columns(["k"], 0.0, 1.0, True)[0])
    target = int(builder.columns(["v"], -3.0, 4.0)[0])
    row.build().implication(builder, binary, active, target, "gate")
    program = builder.build(_nothing(len(builder)))
    for value in (0.0, 1.0):
        for size, expected in ((2.5, value != active), (0.0, True), (-2.5, value != active)):
            v = np.zeros(program.n)
            v[binary], v[target] = value, size
            assert holds(program, program.complete(v)) == expected


@pytest.mark.parametrize("row", rows(ENCODINGS))
def test_a_pair_forbids_both_and_allows_either(row):
    builder = Builder()
    lam, slack = (int(builder.columns([n], 0.0, np.inf)[0]) for n in ("lam", "slack"))
    row.build().pair(builder, lam, slack, "p", (5.0, 7.0))
    program = builder.build(_nothing(len(builder)))
    for values, expected in (((0, 0), True), ((3, 0), True), ((0, 4), True), ((3, 4), False)):
        v = np.zeros(program.n)
        v[lam], v[slack] = values
        assert holds(program, program.complete(v)) == expected


def _nothing(n):
    return Objective(sp.csr_array((n, n)), np.zeros(n))


# ------------------------------------------------------------------------------------------ big-M


@pytest.mark.parametrize("value", [0.0, -1.0, np.inf, np.nan])
@pytest.mark.parametrize("which", ["multiplier", "slack"])
def test_big_m_must_be_a_positive_number(which, value):
    with pytest.raises(ProblemError, match=which):
        bl.BigM(**{which: value})


@pytest.mark.parametrize("eps", [-1.0, np.inf, np.nan])
def test_product_must_be_relaxed_by_a_number(eps):
    with pytest.raises(ProblemError, match="eps"):
        bl.Product(eps=eps)


@pytest.mark.backend("scip")
@pytest.mark.parametrize(
    "encoding",
    [bl.BigM(multiplier=100.0), bl.BigM(slack=100.0), bl.BigM(multiplier=100.0, slack=100.0)],
    ids=["multiplier", "slack", "both"],
)
def test_one_given_bound_is_enough_to_cap_the_status(encoding):
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= x, y >= 1 - x], variables=[y])
    leading = [x >= 0, x <= 1, y <= 5]
    problem = bl.Problem(cp.Maximize(-y), leading, followers=[follower])
    derived = bl.solve(problem, bl.SingleLevel(bl.KKT(bl.BigM())))
    assert (derived.status, round(derived.leader_value, 6)) == (Status.OPTIMAL, -0.5)
    solution = bl.solve(problem, bl.SingleLevel(bl.KKT(encoding)))
    assert solution.leader_value == pytest.approx(-0.5)
    assert solution.status is Status.FEASIBLE
    assert solution.bound is None
    assert "given by the user" in solution.stats.note


@pytest.mark.backend("scip")
@FEW
@given(games())
def test_a_given_bound_that_is_too_small_never_proves_anything(game):
    """With M = 1/2 most multipliers are cut off; the point stays honest and nothing is claimed."""
    solver = bl.SingleLevel(bl.KKT(bl.BigM(multiplier=0.5, slack=50.0)))
    solution = bl.solve(game.problem(), solver, throw=False, time_limit=LIMIT)
    assert not solution.status.is_proved
    assert solution.bound is None
    assert_claim_is_true(solution, game, game.optimum(), 1e-5)


@pytest.mark.backend("scip")
@FEW
@given(games(quadratic=True))
def test_a_relaxed_product_never_proves_too_much(game):
    solution = bl.solve(
        game.problem(),
        bl.SingleLevel(bl.KKT(bl.Product(eps=0.1))),
        throw=False,
        time_limit=LIMIT,
    )
    assert_claim_is_true(solution, game, game.optimum(), 1e-4)
