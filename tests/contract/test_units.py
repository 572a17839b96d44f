"""Units decide nothing: the same problem in other units has the same claim and the same answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracle import NOTHING, UNBOUNDED, Game, games

import bilevel as bl
from bilevel import Status

POWERS = st.integers(-8, 8)


def money(game: Game, k: float, _: int) -> Game:
    """The follower counts its money in another currency; multipliers follow."""
    return replace(game, c=game.c * k, D=game.D * k, Q=game.Q * k, price=game.price / k)


def row(game: Game, k: float, which: int) -> Game:
    """One row of the follower times ``k``; its multiplier becomes smaller by that."""
    factor = np.ones(len(game.b))
    factor[which % len(game.b)] = k
    A, B = game.A * factor[:, None], game.B * factor[:, None]
    return replace(game, A=A, B=B, b=game.b * factor, price=game.price * factor)


def variable(game: Game, k: float, which: int) -> Game:
    """One variable of the follower in another unit, in every place where it stands."""
    size = np.ones(len(game.c))
    size[which % len(size)] = k
    both = np.concatenate([np.ones(game.D.shape[1]), size])
    return replace(
        game,
        c=game.c * size,
        D=game.D * size[:, None],
        Q=game.Q * np.outer(size, size),
        A=game.A * size,
        F=game.F * both,
        G=game.G * both,
    )


def leaders_row(game: Game, k: float, which: int) -> Game:
    """One row of the leader times ``k``."""
    if not len(game.g):
        return game
    factor = np.ones(len(game.g))
    factor[which % len(factor)] = k
    return replace(game, G=game.G * factor[:, None], g=game.g * factor)


def leaders_money(game: Game, k: float, _: int) -> Game:
    """The leader counts in another currency: its values are multiplied, its claims are not."""
    return replace(game, F=game.F * k, price=game.price * k)


CHANGES = (money, row, variable, leaders_row)


def claim_and_value(game: Game) -> tuple[Status, float | None]:
    solution = bl.solve(game.problem(), throw=False, time_limit=20)
    value = solution.leader_value
    return solution.status, None if value is None else game.sign * value


def assert_true(game: Game, truth: float, unit: float = 1.0) -> None:
    status, value = claim_and_value(game)
    if truth == UNBOUNDED:
        assert status is Status.UNBOUNDED
    elif truth == NOTHING:
        assert status.name in ("INFEASIBLE", "FOLLOWER_INFEASIBLE", "FOLLOWER_UNBOUNDED")
    else:
        assert status is Status.OPTIMAL
        assert value == pytest.approx(unit * truth, abs=1e-5 * unit * max(1.0, abs(truth)))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@settings(max_examples=12)
@given(game=games(), power=POWERS, which=st.integers(0, 5))
def test_linear_games_in_other_units(change, game, power, which):
    assert_true(change(game, 10.0**power, which), game.optimum())


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@settings(max_examples=8)
@given(game=games(quadratic=True), power=POWERS, which=st.integers(0, 5))
def test_quadratic_games_in_other_units(change, game, power, which):
    assert_true(change(game, 10.0**power, which), game.optimum())


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@settings(max_examples=8)
@given(game=games(priced=True), power=POWERS, which=st.integers(0, 5))
def test_games_with_prices_in_other_units(change, game, power, which):
    assert_true(change(game, 10.0**power, which), game.optimum())


@settings(max_examples=10)
@given(game=games(priced=True), power=POWERS)
def test_the_leader_in_another_currency(game, power):
    assert_true(leaders_money(game, 10.0**power, 0), game.optimum(), 10.0**power)
