"""Substitution against enumeration of complementarity patterns, and where it must refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from tests.oracle import NOTHING, UNBOUNDED, assert_claim_is_true, games

import bilevel as bl
from bilevel import Status


def compare(game):
    """Solve by substitution and by enumeration; what is claimed must be true and proved."""
    game = replace(game, integer=np.zeros(len(game.low), bool))
    truth = game.optimum()
    solution = bl.solve(game.problem(), bl.Substitution(), throw=False)
    assert_claim_is_true(solution, game, truth, 1e-6)
    if truth == NOTHING:
        assert solution.status.is_proved, solution.summary()
    elif truth == UNBOUNDED:
        assert solution.status is Status.UNBOUNDED, solution.summary()
    else:
        assert solution.status is Status.OPTIMAL, solution.summary()


@settings(max_examples=15)
@given(games())
def test_linear_followers(game):
    compare(game)


@settings(max_examples=15)
@given(games(quadratic=True))
def test_quadratic_followers(game):
    compare(game)


@settings(max_examples=10)
@given(games(quadratic=True, priced=True))
def test_prices(game):
    compare(game)


@settings(max_examples=10)
@given(games(boxed=False))
def test_followers_without_bounds(game):
    compare(game)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=200)
@given(games(quadratic=True, priced=True, boxed=False, rows=4))
def test_many_games(game):
    compare(game)
