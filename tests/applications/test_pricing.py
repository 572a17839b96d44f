"""Prices against closed forms, pieces of the profit, and grids."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

import bilevel as bl
from bilevel.applications.pricing import pricing


def bought(worth, slope, price):
    """Return a consumer's answer by nonnegative least squares: no line of the library."""
    root = np.linalg.cholesky(slope).T
    return nnls(root, np.linalg.solve(root.T, worth - price))[0]


def profit(worth, slopes, cost, sizes, price):
    units = [n * bought(a, B, price) for a, B, n in zip(worth, slopes, sizes, strict=True)]
    return float((price - cost) @ np.sum(units, axis=0))


def best_single(worth, slopes, cost, sizes):
    """Return the best profit with one product: on each piece between kinks it is a parabola."""
    kinks = np.unique(np.concatenate([[0.0], worth[worth > 0]]))
    best = 0.0
    for low, high in itertools.pairwise(kinks):
        served = worth >= high
        weight = (sizes / slopes)[served]
        top = (weight @ worth[served] / weight.sum() + cost) / 2
        p = np.clip(top, low, high)
        best = max(best, (p - cost) * weight @ (worth[served] - p))
    return best


def check(shop, solution, worth, slopes, cost, sizes):
    assert solution.status is bl.Status.OPTIMAL
    assert solution.certificate.accepted
    found = profit(worth, slopes, cost, sizes, shop.prices(solution))
    assert found == pytest.approx(solution.leader_value, rel=1e-5, abs=1e-5)
    earned = (shop.prices(solution) - cost) @ shop.sales(solution)
    assert earned == pytest.approx(solution.leader_value, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("n", [1, 3])
def test_equal_consumers_and_products_have_the_closed_form(n):
    a, c, own, cross = 10.0, 1.0, 2.0, 0.5
    slope = np.array([[own, cross], [cross, own]])
    shop = pricing([[a, a]], slope, [c, c], sizes=n)
    solution = bl.solve(shop.problem)
    assert shop.prices(solution) == pytest.approx((a + c) / 2, abs=1e-4)
    # Each product sells (a - c) / (2 (own + cross)) to each consumer.
    expected = n * 2 * (a - c) ** 2 / (4 * (own + cross))
    assert solution.leader_value == pytest.approx(expected, rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_one_product_is_the_best_of_its_pieces(seed, n):
    rng = np.random.default_rng(seed)
    worth, slopes = rng.uniform(2, 20, n), rng.uniform(0.5, 3, n)
    cost, sizes = rng.uniform(0, 4), rng.integers(1, 9, n)
    shop = pricing(worth[:, None], slopes[:, None, None], [cost], sizes=sizes)
    solution = bl.solve(shop.problem)
    expected = best_single(worth, slopes, cost, sizes)
    assert solution.leader_value == pytest.approx(expected, rel=1e-5, abs=1e-5)
    check(shop, solution, worth[:, None], slopes[:, None, None], [cost], sizes)


@pytest.mark.parametrize("cross", [0.6, -0.6])
def test_no_pair_of_prices_on_a_grid_is_better(cross):
    rng = np.random.default_rng(3)
    worth, cost, sizes = rng.uniform(3, 15, (4, 2)), np.array([1.0, 2.0]), np.array([1, 3, 2, 1])
    slopes = np.array([[[1.5, cross], [cross, 1.0]]] * 4) * rng.uniform(0.5, 2, 4)[:, None, None]
    shop = pricing(worth, slopes, cost, sizes=sizes)
    solution = bl.solve(shop.problem)
    check(shop, solution, worth, slopes, cost, sizes)
    axis = np.linspace(0, 18, 31)
    tried = [profit(worth, slopes, cost, sizes, np.array(p)) for p in itertools.product(axis, axis)]
    assert max(tried) <= solution.leader_value + 1e-6
    # Nothing is bought above the bounds.
    for j in range(2):
        above = np.zeros(2)
        above[j] = shop.largest_price[j] + 1e-6
        answers = [bought(a, B, above)[j] for a, B in zip(worth, slopes, strict=True)]
        assert max(answers) <= 1e-6


def test_fifteen_consumers():
    rng = np.random.default_rng(0)
    worth, slopes = rng.uniform(5, 20, 15), rng.uniform(1, 4, 15)
    shop = pricing(worth[:, None], slopes[:, None, None], [2.0])
    solution = bl.solve(shop.problem)
    expected = best_single(worth, slopes, 2.0, np.ones(15))
    assert solution.leader_value == pytest.approx(expected, rel=1e-5)


GOOD = {"willingness": [[10.0, 8.0], [6.0, 9.0]], "slope": [1.0, 2.0], "cost": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"willingness": [1.0, 2.0]}, r"shape \(consumers, products\)"),
        ({"willingness": [[1.0, 2.0], [1.0]]}, "willingness must be an array"),
        ({"willingness": [[1.0, np.nan], [1.0, 2.0]]}, "consumer 0 for product 1"),
        ({"willingness": [[1.0, -2.0], [1.0, 0.0]]}, "product 1 for nothing"),
        ({"slope": [1.0, 0.0]}, "slope of consumer 0 is not symmetric positive definite"),
        ({"slope": [[1.0, 2.0], [2.0, 1.0]]}, "smallest eigenvalue -1"),
        ({"slope": [[1.0, 0.5], [0.0, 1.0]]}, "not symmetric"),
        ({"slope": [1.0]}, "slope must have the shape"),
        ({"slope": [1.0, np.nan]}, "slope of consumer 0 must be finite"),
        ({"cost": [1.0, -1.0]}, "cost of product 1 must be at least 0"),
        ({"cost": [1.0]}, "2 of what has a cost of product, but 1"),
        ({"sizes": 0}, "size of consumer 0 must be above 0"),
    ],
)
def test_bad_input_is_named(change, words):
    with pytest.raises(bl.ProblemError, match=words):
        pricing(**{**GOOD, **change})
