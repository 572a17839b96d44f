"""Every backend on small programs: how it ends, what it returns, and how it refuses."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import linprog
from tests.registry import BACKENDS, rows

from bilevel import backends
from bilevel.backends import Purpose, registry
from bilevel.errors import BackendError, BackendNotFound, ProblemError
from bilevel.problem.functions import Cone, Monomials, Objective, Rows
from bilevel.program import Feature, Indicator, Limits, Program, RawAnswer, Termination

EVERY = pytest.mark.parametrize("row", rows(BACKENDS))
NO_POINT = {
    Termination.INFEASIBLE,
    Termination.UNBOUNDED,
    Termination.INFEASIBLE_OR_UNBOUNDED,
}

GIVEN_UP = {Termination.NUMERICAL, Termination.LIMIT}


def verdicts(row):
    """Return how a program without an answer may end."""
    return NO_POINT if row.decides else NO_POINT | GIVEN_UP


def program(
    c, A=(), b=(), equality=(), lower=0.0, upper=np.inf, integer=False, P=None, products=(), **more
) -> Program:
    """Return a small program; ``products`` are ``(row, i, j, value)``."""
    n, m = len(c), len(b)
    terms = np.array(products, float).reshape(-1, 4)
    body = Rows(
        sp.csr_array(np.reshape(np.array(A, float), (m, n))),
        np.array(b, float),
        np.array(equality if len(equality) else [False] * m, bool),
        Monomials.collect(terms[:, 0].astype(int), terms[:, 1:3].astype(int), terms[:, 3]),
        tuple(f"r{i}" for i in range(m)),
    )
    square = sp.csr_array((n, n)) if P is None else sp.csr_array(np.array(P, float))
    return Program(
        tuple(f"v{i}" for i in range(n)),
        np.broadcast_to(np.array(lower, float), n).copy(),
        np.broadcast_to(np.array(upper, float), n).copy(),
        np.broadcast_to(np.array(integer, bool), n).copy(),
        Objective(square, np.array(c, float)),
        body,
        **more,
    )


# v0 + v1 >= 2, v0 - v1 == -1: optimum (0.5, 1.5) of value 0.5 + 3 = 3.5.
LINEAR = program([1, 2], [[-1, -1], [1, -1]], [-2, -1], [False, True], lower=-np.inf)

# min -v0 - v1 over the unit disc: t = 1 is row 0 of the cone's matrix.
DISC = program(
    [-1, -1],
    lower=-np.inf,
    cones=(
        Cone(sp.csr_array(np.array([[0.0, 0], [1, 0], [0, 1]])), np.array([-1.0, 0, 0]), "disc"),
    ),
)


def solve(row, given: Program, limits: Limits | None = None, **more) -> RawAnswer:
    return backends.get(row.name).solve(given, limits or Limits(**more))


def takes(row, given: Program) -> bool:
    return not backends.get(row.name).missing(given)


@EVERY
def test_features_are_those_of_the_registry(row):
    backend = backends.get(row.name)
    assert backend.name == row.name
    assert backend.features == row.features


@EVERY
def test_optimal(row):
    raw = solve(row, LINEAR)
    assert raw.termination is Termination.OPTIMAL
    np.testing.assert_allclose(raw.v, [0.5, 1.5], atol=row.tolerance)
    assert raw.bound == pytest.approx(3.5, abs=row.tolerance)
    assert raw.raw_status
    assert raw.seconds >= 0


@EVERY
def test_a_constant_is_part_of_the_value(row):
    moved = replace(LINEAR, objective=replace(LINEAR.objective, constant=10.0))
    assert solve(row, moved).bound == pytest.approx(13.5, abs=10 * row.tolerance)


@EVERY
@pytest.mark.parametrize("quadratic", [False, True])
def test_infeasible(row, quadratic):
    P = np.eye(1) if quadratic else None
    given = program([1], [[1], [-1]], [1, -2], P=P)
    if takes(row, given):
        raw = solve(row, given)
        assert raw.termination in verdicts(row) - {Termination.UNBOUNDED}
        assert raw.v is None


@EVERY
def test_contradicting_bounds(row):
    raw = solve(row, program([1, 1], [[1, 1]], [9], lower=[2, 0], upper=[1, 5]))
    assert raw.termination in verdicts(row) - {Termination.UNBOUNDED}
    assert raw.v is None


@EVERY
def test_unbounded(row):
    raw = solve(row, program([-1, 0], [[-1, 1]], [3]))
    assert raw.termination in verdicts(row) - {Termination.INFEASIBLE}
    assert raw.v is None


@EVERY
def test_unbounded_along_a_line_only(row):
    """Free columns whose difference is fixed, and a cost along their sum."""
    raw = solve(row, program([1, 1], [[1, -1]], [0], [True], lower=-np.inf))
    assert raw.termination in verdicts(row) - {Termination.INFEASIBLE}


@EVERY
def test_without_rows(row):
    raw = solve(row, program([1, -1], lower=[-2, 0], upper=[5, 3]))
    assert raw.termination is Termination.OPTIMAL
    np.testing.assert_allclose(raw.v, [-2, 3], atol=row.tolerance)


@EVERY
def test_without_objective(row):
    raw = solve(row, program([0, 0], [[1, 1]], [1], [True]))
    assert raw.termination is Termination.OPTIMAL
    assert raw.v.sum() == pytest.approx(1, abs=row.tolerance)
    assert raw.bound == pytest.approx(0, abs=row.tolerance)


@EVERY
def test_an_empty_row_is_kept_or_makes_infeasible(row):
    holds = solve(row, program([1, 1], [[0, 0], [-1, -1]], [1, -1]))
    assert holds.termination is Termination.OPTIMAL
    assert holds.bound == pytest.approx(1, abs=row.tolerance)
    for b, equality in ((-1.0, False), (1.0, True)):
        never = solve(row, program([1, 1], [[0, 0], [-1, -1]], [b, -1], [equality, False]))
        assert never.termination in verdicts(row) - {Termination.UNBOUNDED}


@EVERY
def test_fixed_columns_and_redundant_equations(row):
    given = program(
        [1, 2, 3],
        [[1, 1, 1], [2, 2, 2], [1, 0, 0]],
        [4, 8, 1],
        [True, True, True],
        lower=[0, 2, 0],
        upper=[9, 2, 9],
    )
    raw = solve(row, given)
    assert raw.termination is Termination.OPTIMAL
    np.testing.assert_allclose(raw.v, [1, 2, 1], atol=10 * row.tolerance)


@EVERY
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_scaled_data(row, scale):
    given = program([1 / scale, 2], [[-scale, -1], [scale, -1]], [-2, -1], [False, True])
    raw = solve(row, given)
    if not row.any_scale and raw.termination in GIVEN_UP:
        return
    assert raw.termination is Termination.OPTIMAL
    truth = linprog([1 / scale, 2], [[-scale, -1]], [-2], [[scale, -1]], [-1], bounds=(0, None)).fun
    assert raw.bound == pytest.approx(truth, rel=1e-5)


@EVERY
def test_convex_quadratic(row):
    # min v0^2 + v0 v1 + v1^2 - 3 v0, v0 + v1 = 1: v0 = 2, v1 = -1 -> minimum at derivative zero.
    given = program([-3, 0], [[1, 1]], [1], [True], lower=-np.inf, P=[[2, 1], [1, 2]])
    if not takes(row, given):
        assert not row.features & Feature.CONVEX_QUADRATIC
        return
    raw = solve(row, given)
    grid = np.linspace(-5, 5, 100001)
    values = grid**2 + grid * (1 - grid) + (1 - grid) ** 2 - 3 * grid
    assert raw.bound == pytest.approx(values.min(), abs=1e-5)
    assert raw.v[0] == pytest.approx(grid[values.argmin()], abs=1e-3)


@EVERY
def test_singular_quadratic_with_a_free_direction(row):
    given = program([0, 0], [[1, -1]], [1], P=[[1, 1], [1, 1]], lower=-np.inf)
    if takes(row, given):
        raw = solve(row, given)
        assert raw.termination is Termination.OPTIMAL
        assert raw.bound == pytest.approx(0, abs=1e-6)


@EVERY
def test_unbounded_quadratic(row):
    given = program([0, -1], P=[[1, 0], [0, 0]], lower=-np.inf)
    if takes(row, given):
        raw = solve(row, given)
        assert raw.termination in verdicts(row) - {Termination.INFEASIBLE}
        assert raw.v is None


@EVERY
def test_integers(row):
    # A knapsack: values 5, 4, 3 for weights 4, 3, 2 into 6.
    given = program([-5, -4, -3], [[4, 3, 2]], [6], upper=1, integer=True)
    if not takes(row, given):
        assert not row.features & Feature.INTEGER
        return
    raw = solve(row, given)
    assert raw.termination is Termination.OPTIMAL
    np.testing.assert_allclose(raw.v, [1, 0, 1], atol=1e-6)
    assert raw.bound == pytest.approx(-8, abs=1e-5)
    assert raw.duals is None


@EVERY
@pytest.mark.parametrize("offset", [0.5, -1.5])
def test_general_integers_beyond_binary(row, offset):
    given = program([1], lower=offset, upper=7.2, integer=True)
    if takes(row, given):
        assert solve(row, given).v[0] == pytest.approx(np.ceil(offset))
        top = program([-1], lower=offset, upper=7.2, integer=True)
        assert solve(row, top).v[0] == pytest.approx(7)


@EVERY
def test_sos1_sets(row):
    given = program([-1, -2, -3], [[1, 1, 1]], [4], upper=3, sos1=(("s", (0, 1)), ("t", (1, 2))))
    if takes(row, given):
        raw = solve(row, given)
        assert raw.v[:2].prod() == raw.v[1:].prod() == pytest.approx(0, abs=1e-9)
        assert raw.bound == pytest.approx(-10, abs=1e-5)


@EVERY
@pytest.mark.parametrize("active", [0, 1])
@pytest.mark.parametrize(("low", "high"), [(0, 5), (-5, 0), (-5, 5), (-np.inf, np.inf)])
def test_indicators(row, active, low, high):
    given = program(
        [0, 0],
        [[0, -1], [0, 1]],
        [5, 5],
        lower=[0, low],
        upper=[1, high],
        integer=[True, False],
        indicators=(Indicator(0, active, 1, "rule"),),
    )
    if not takes(row, given):
        assert not row.features & Feature.INDICATOR
        return
    for sign in (1.0, -1.0):
        # Paying for the binary to have the value that closes the gate.
        price = 100.0 if active else -100.0
        closed = replace(given, objective=Objective(sp.csr_array((2, 2)), np.array([-price, sign])))
        assert solve(row, closed).v[1] == pytest.approx(0, abs=1e-6)
        opened = replace(given, objective=Objective(sp.csr_array((2, 2)), np.array([price, sign])))
        expected = max(low, -5) if sign > 0 else min(high, 5)
        assert solve(row, opened).v[1] == pytest.approx(expected, abs=1e-6)


@EVERY
def test_products_in_rows(row):
    # max v0 v1 on v0 + v1 = 4 as min -t, t <= v0 v1.
    given = program(
        [0, 0, -1], [[1, 1, 0], [0, 0, 1]], [4, 0], [True, False], products=[(1, 0, 1, -1.0)]
    )
    if takes(row, given):
        raw = solve(row, given)
        assert raw.bound == pytest.approx(-4, abs=1e-4)
        assert raw.v[2] == pytest.approx(4, abs=1e-4)


@EVERY
def test_nonconvex_objective(row):
    given = program([0, 0], [[1, 1]], [4], lower=-1, P=[[0, 1], [1, 0]])
    if takes(row, given):
        raw = solve(row, given)
        assert raw.termination is Termination.OPTIMAL
        assert raw.bound == pytest.approx(-5, abs=1e-4)  # -1 times 5


@EVERY
def test_second_order_cones(row):
    if not takes(row, DISC):
        assert not row.features & Feature.CONES
        return
    raw = solve(row, DISC)
    assert raw.bound == pytest.approx(-np.sqrt(2), abs=1e-5)


# --------------------------------------------------------------------------------- multipliers


@EVERY
@pytest.mark.parametrize("quadratic", [False, True])
def test_duals_are_the_derivatives_of_the_value(row, quadratic):
    """``d value / d b_i = -lam_i`` for both kinds of rows, by central differences."""
    P = np.diag([2.0, 1.0, 1.0]) if quadratic else None
    given = program(
        [3, 1, -1],
        [[-1, -2, 0], [1, 0, 1], [0, 1, -1], [1, 1, 1]],
        [-2.3, 4.1, 0.7, 3.9],
        [False, False, True, False],
        lower=-4,
        upper=6,
        P=P,
    )
    if not takes(row, given):
        return
    raw = solve(row, given)
    if not row.has_duals:
        assert raw.duals is None
        return
    assert raw.duals.shape == (4,)
    assert (raw.duals[~given.rows.equality] >= -1e-9).all()
    for i in range(4):
        ends = []
        for step in (1e-3, -1e-3):
            b = given.rows.b.copy()
            b[i] += step
            moved = solve(row, replace(given, rows=replace(given.rows, b=b)))
            ends.append(given.objective.evaluate(moved.v))
        slope = (ends[0] - ends[1]) / 2e-3
        assert slope == pytest.approx(-raw.duals[i], abs=1e-4)


@EVERY
def test_duals_make_the_gradient_vanish(row):
    """``c + P v + A'lam`` is zero but for the multipliers of active bounds."""
    given = program([3, 1], [[-1, -2], [1, -1]], [-2, 0.5], [False, True], lower=-np.inf)
    raw = solve(row, given)
    if row.has_duals:
        np.testing.assert_allclose(given.objective.c + given.rows.A.T @ raw.duals, 0, atol=1e-6)
        assert raw.duals[0] > 0


# ------------------------------------------------------------------------------ limits and options


def hard(n: int = 45, rows_: int = 30, seed: int = 3) -> Program:
    """Return a market-split program: equations that branch and bound does not solve in seconds."""
    rng = np.random.default_rng(seed)
    A = rng.integers(0, 100, size=(rows_ // 6, n)).astype(float)
    b = np.floor(A.sum(axis=1) / 2)
    m = len(b)
    full = np.hstack([A, np.eye(m), -np.eye(m)])
    c = np.concatenate([np.zeros(n), np.ones(2 * m)])
    upper = np.concatenate([np.ones(n), np.full(2 * m, np.inf)])
    whole = np.concatenate([np.ones(n, bool), np.zeros(2 * m, bool)])
    return program(c, full, b, [True] * m, upper=upper, integer=whole)


def nothing_chosen(given: Program) -> np.ndarray:
    """Return the point of the market split in which the slacks make up for everything."""
    n, m = given.n, len(given.rows.b)
    return np.concatenate([np.zeros(n - 2 * m), given.rows.b, np.zeros(m)])


@EVERY
def test_time_limit(row):
    given = hard()
    if not takes(row, given):
        return
    # The point is given, so that a busy machine has one too.
    raw = backends.get(row.name).solve(given, Limits(time_limit=1.0), nothing_chosen(given))
    assert raw.termination is Termination.LIMIT
    assert raw.v is not None
    assert given.rows.violation(raw.v).max() < 1e-6
    assert raw.bound <= given.objective.evaluate(raw.v) + 1e-9


@EVERY
def test_the_callback_reports_and_stops(row):
    given = hard()
    if not row.has_callback or not takes(row, given):
        return
    moments = []

    def stop(moment):
        moments.append(moment)
        return moment.incumbent is not None and len(moments) > 3

    raw = solve(row, given, time_limit=200.0, progress=stop)
    assert raw.termination is Termination.INTERRUPTED
    assert raw.v is not None
    for moment in moments:
        assert moment.seconds >= 0
        assert moment.nodes >= 0
        if moment.incumbent is not None and moment.bound is not None:
            assert moment.bound <= moment.incumbent + 1e-6
            assert moment.gap >= 0


@EVERY
def test_a_start_helps_and_need_not_be_feasible(row):
    given = program([-5, -4, -3], [[4, 3, 2]], [6], upper=1, integer=True)
    if not takes(row, given):
        given = LINEAR
    for start in (np.ones(given.n), np.zeros(given.n), np.full(given.n, 0.5)):
        raw = backends.get(row.name).solve(given, Limits(), start)
        assert raw.termination is Termination.OPTIMAL
        assert raw.bound == pytest.approx(solve(row, given).bound, abs=1e-6)


@EVERY
def test_a_start_is_used(row):
    """Stopped at once, a backend that takes starts returns one at least as good."""
    given = hard()
    if not row.has_callback or not takes(row, given):
        return
    trivial = given.objective.evaluate(nothing_chosen(given))

    def better(moment):
        return moment.incumbent is not None and moment.incumbent < trivial / 2

    good = solve(row, given, time_limit=200.0, progress=better).v
    value = given.objective.evaluate(good)
    assert value < trivial / 2
    raw = backends.get(row.name).solve(given, Limits(time_limit=0.5), good)
    assert raw.v is not None
    assert given.objective.evaluate(raw.v) <= value + 1e-6


@EVERY
def test_the_same_seed_gives_the_same_point(row):
    given = hard(n=20, rows_=6) if takes(row, hard()) else LINEAR
    first, second = (solve(row, given, seed=11, time_limit=20.0) for _ in range(2))
    np.testing.assert_array_equal(first.v, second.v)
    assert first.nodes == second.nodes


@EVERY
def test_options_reach_the_vendor(row):
    raw = solve(row, LINEAR, options=row.option)
    assert raw.bound == pytest.approx(3.5, abs=row.tolerance)


@EVERY
def test_an_unknown_option_is_refused_by_name(row):
    (name,) = row.bad_option
    with pytest.raises(BackendError, match=name):
        solve(row, LINEAR, options=row.bad_option)


@EVERY
def test_an_option_of_the_wrong_type_is_refused(row):
    (name,) = row.option
    with pytest.raises(BackendError):
        solve(row, LINEAR, options={name: object()})


@EVERY
def test_nothing_is_printed(row, capfd):
    solve(row, LINEAR)
    solve(row, hard(n=12, rows_=6) if takes(row, hard()) else LINEAR)
    captured = capfd.readouterr()
    assert not captured.out
    assert not captured.err


@EVERY
def test_a_program_is_not_changed(row):
    before = [LINEAR.objective.c.copy(), LINEAR.rows.A.toarray(), LINEAR.rows.b.copy()]
    solve(row, LINEAR)
    for old, new in zip(
        before, [LINEAR.objective.c, LINEAR.rows.A.toarray(), LINEAR.rows.b], strict=True
    ):
        np.testing.assert_array_equal(old, new)


@EVERY
def test_an_unknown_status_is_an_error(row, monkeypatch):
    """A vendor's new word must never be read as "unknown"."""
    if not row.has_vendor:
        pytest.skip("our own search asks its sessions, and has no vendor's words")
    backends.get(row.name)
    module = importlib.import_module(f"bilevel.backends.{row.name}")
    monkeypatch.setattr(module, "_STATUS", {})
    with pytest.raises(BackendError, match="unknown"):
        solve(row, LINEAR)


@EVERY
def test_broken_numbers_are_never_optimal(row):
    broken = replace(LINEAR, objective=replace(LINEAR.objective, c=np.array([np.nan, np.nan])))
    try:
        raw = solve(row, broken)
    except BackendError as error:
        assert str(error)
    else:
        assert raw.termination is not Termination.OPTIMAL


# -------------------------------------------------------------------------------------- registry


def test_every_backend_has_a_row():
    assert set(backends.names()) == {row.name for row in BACKENDS}


def test_unknown_backend_names_the_known_ones():
    with pytest.raises(ProblemError, match=r"cplex.*highs.*scip"):
        backends.get("cplex")


ROUTES = {
    Purpose.FOLLOWER: ("highs", "daqp", "clarabel", "scip"),
    Purpose.CERTIFICATE: ("clarabel", "daqp", "highs", "scip"),
    Purpose.EXTREME: ("highs", "clarabel", "daqp", "scip"),
    Purpose.POINT: ("highs", "clarabel", "scip"),
    Purpose.CONVEX: ("highs", "clarabel"),
    Purpose.ACTIVE_SET: ("highs", "daqp", "clarabel"),
    Purpose.CURVED: ("daqp", "clarabel"),
    Purpose.CONIC: ("clarabel",),
}


@pytest.mark.parametrize("purpose", Purpose, ids=lambda purpose: purpose.name)
def test_routes_of_a_purpose_stand_in_their_order(purpose):
    """The order decides which of several responses is found: a change of it is a change of answers.

    None of these backends is an extra, so no purpose is ever without a route.
    """
    assert backends.routes(purpose) == ROUTES[purpose]
    assert tuple(backend.name for backend in backends.serving(purpose)) == ROUTES[purpose]


def test_no_two_backends_stand_in_one_place():
    for purpose in Purpose:
        places = [e.places[purpose] for e in registry._ENTRIES.values() if purpose in e.places]
        assert len(set(places)) == len(places), purpose


def test_a_backend_that_is_not_installed_is_left_out_of_its_routes(monkeypatch):
    monkeypatch.setattr(registry, "_installed", lambda package: package != "daqp")
    assert backends.routes(Purpose.FOLLOWER) == ("highs", "clarabel", "scip")
    found = [backend.name for backend in backends.serving(Purpose.FOLLOWER)]
    assert found == ["highs", "clarabel", "scip"]


def test_routes_import_no_vendor():
    """Who serves a purpose is asked without importing those who do; then one after another."""
    script = (
        "import sys\n"
        "from bilevel.backends import Purpose, available, names, routes, serving\n"
        "vendors = set(names()) - {'tree'}\n"
        "def loaded():\n"
        "    return [name for name in vendors if f'bilevel.backends.{name}' in sys.modules]\n"
        "available(), [routes(purpose) for purpose in Purpose]\n"
        "print(loaded())\n"
        "next(serving(Purpose.CONVEX))\n"
        "print(loaded())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["[]", "['highs']"]


@EVERY
def test_multipliers_that_are_promised_come_with_cones_too(row):
    backend = backends.get(row.name)
    assert (row.name in registry.with_multipliers()) == backend.gives_multipliers
    if not backend.gives_multipliers:
        return
    assert row.has_duals
    if Feature.CONES in row.features:
        raw = solve(row, DISC)
        # The gradient is the cone's multiplier seen through its rows: c = A'z, z in the dual cone.
        (z,) = raw.cone_duals
        np.testing.assert_allclose(DISC.cones[0].A.T @ z, DISC.objective.c, atol=1e-5)
        assert np.linalg.norm(z[1:]) <= z[0] + 1e-6


@EVERY
def test_missing_package_names_the_install_line_and_what_is_there(row, monkeypatch):
    package = registry._ENTRIES[row.name].package
    install = registry._ENTRIES[row.name].install
    real = registry.find_spec
    monkeypatch.setattr(registry, "find_spec", lambda name: None if name == package else real(name))
    assert row.name not in backends.available()
    with pytest.raises(BackendNotFound, match=re.escape(f"pip install {install}")) as caught:
        backends.get(row.name)
    assert isinstance(caught.value, ImportError)
    for other in backends.available():
        assert other in str(caught.value)
