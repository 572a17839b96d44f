"""Taxes against closed forms: the firms' responses are known, and the pieces between kinks."""

import itertools

import numpy as np
import pytest
from scipy.optimize import brentq

import bilevel as bl
from bilevel.applications.tax import emission_tax


def firms(n, seed):
    rng = np.random.default_rng(seed)
    return rng.uniform(5, 20, n), rng.uniform(0.5, 2, n), rng.uniform(0.5, 2, n)


def emitted(margin, slope, intensity, tax):
    return intensity @ (np.maximum(margin - tax * intensity, 0) / slope)


def least_tax(margin, slope, intensity, quota):
    """Return the least tax that meets a quota."""
    if emitted(margin, slope, intensity, 0.0) <= quota:
        return 0.0
    top = (margin / intensity).max()
    return brentq(lambda t: emitted(margin, slope, intensity, t) - quota, 0.0, top, xtol=1e-13)


def best_revenue(margin, slope, intensity, quota=np.inf):
    """Return the best revenue: between kinks it is a parabola."""
    first = least_tax(margin, slope, intensity, quota)
    kinks = np.unique([first, *(margin / intensity)])
    best = 0.0
    for low, high in itertools.pairwise(kinks[kinks >= first]):
        on = margin / intensity >= high
        linear = (intensity * margin / slope)[on].sum()
        square = (intensity**2 / slope)[on].sum()
        t = np.clip(linear / (2 * square), low, high)
        best = max(best, t * (linear - t * square))
    return best


def check(game, solution, margin, slope, intensity):
    assert solution.status is bl.Status.OPTIMAL
    assert solution.certificate.accepted
    tax = float(solution[game.tax])
    expected = np.maximum(margin - tax * intensity, 0) / slope
    assert game.outputs(solution) == pytest.approx(expected, abs=1e-5)
    return tax


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [None, 0.3, 0.6])
def test_revenue_is_the_best_of_its_pieces(seed, share):
    data = firms(8, seed)
    quota = None if share is None else share * emitted(*data, 0.0)
    game = emission_tax(*data, quota=quota)
    solution = bl.solve(game.problem)
    tax = check(game, solution, *data)
    expected = best_revenue(*data, np.inf if quota is None else quota)
    assert solution.leader_value == pytest.approx(expected, rel=1e-5)
    assert tax * game.emissions(solution).sum() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_without_quota_the_best_tax_for_welfare_is_the_damage(seed):
    data = firms(10, seed)
    game = emission_tax(*data, objective="welfare", damage=4.0)
    solution = bl.solve(game.problem)
    tax = check(game, solution, *data)
    margin, slope, intensity = data
    q = np.maximum(margin - 4.0 * intensity, 0) / slope
    best = margin @ q - slope / 2 @ q**2 - 4.0 * intensity @ q
    assert solution.leader_value == pytest.approx(best, rel=2e-6)
    # Welfare falls with the square of the tax's error.
    curvature = (intensity**2 / slope)[margin > 4.5 * intensity].sum()
    assert abs(tax - 4.0) <= np.sqrt(2 * 2e-6 * best / curvature)


@pytest.mark.parametrize("seed", range(3))
def test_a_quota_sets_the_tax_that_meets_it(seed):
    data = firms(10, seed)
    quota = 0.4 * emitted(*data, 0.0)
    game = emission_tax(*data, objective="welfare", quota=quota)
    solution = bl.solve(game.problem)
    tax = check(game, solution, *data)
    assert tax == pytest.approx(least_tax(*data, quota), abs=1e-4)
    assert game.emissions(solution).sum() == pytest.approx(quota, rel=1e-5)


@pytest.mark.parametrize("n", [40, pytest.param(120, marks=pytest.mark.slow)])
def test_many_firms(n):
    data = firms(n, 1)
    game = emission_tax(*data)
    solution = bl.solve(game.problem)
    check(game, solution, *data)
    assert len(game.problem.followers) == n
    assert solution.leader_value == pytest.approx(best_revenue(*data), rel=1e-5)


def test_a_limit_of_the_tax_holds():
    game = emission_tax([10.0, 4.0], 1.0, 1.0, max_tax=2.0)
    solution = bl.solve(game.problem)
    assert float(solution[game.tax]) == pytest.approx(2.0, abs=1e-5)
    assert solution.leader_value == pytest.approx(2 * (8 + 2), rel=1e-5)


GOOD = {"margin": [10.0, 4.0], "slope": 1.0, "intensity": 1.0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"margin": [10.0, 0.0]}, "margin of firm 1 must be above 0.*Leave the firm out"),
        ({"margin": [10.0, np.nan]}, "margin of firm 1 must be finite"),
        ({"margin": []}, "no firm"),
        ({"slope": [1.0, -1.0]}, "slope of firm 1 must be above 0"),
        ({"slope": [1.0]}, "2 of what has a slope of firm, but 1"),
        ({"intensity": [0.0, 1.0]}, "intensity of firm 0 must be above 0"),
        ({"objective": "votes"}, "objective must be one of"),
        ({"damage": -1}, "damage must be at least 0"),
        ({"quota": -1}, "quota must be at least 0"),
        ({"quota": 1.0, "max_tax": 2.0}, "quota of 1 cannot be met: at a tax of 2 .* emit 10"),
        ({"max_tax": "high"}, "max_tax must be a number"),
    ],
)
def test_bad_input_is_named(change, words):
    with pytest.raises(bl.ProblemError, match=words):
        emission_tax(**{**GOOD, **change})
