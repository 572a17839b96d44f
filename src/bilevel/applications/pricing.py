"""Prices for consumers who respond with what is worth most to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cvxpy as cp
import numpy as np

from bilevel.applications.data import numbers
from bilevel.errors import ProblemError
from bilevel.problem.problem import Follower, Problem

if TYPE_CHECKING:
    from bilevel.problem.functions import Array
    from bilevel.solution import Solution

__all__ = ["Pricing", "pricing"]


@dataclass(frozen=True, eq=False)
class Pricing:
    """A pricing problem, with the way back from its variables to products.

    Parameters
    ----------
    problem
        What ``bl.solve`` takes.
    price
        The leader's variable, one entry per product.
    demand
        For each consumer the follower's variable, one entry per product.
    sizes
        How many equal consumers each one stands for, shape (consumers,).
    largest_price
        Upper bounds of prices, shape (products,).
    """

    problem: Problem
    price: cp.Variable = field(repr=False)
    demand: tuple[cp.Variable, ...] = field(repr=False)
    sizes: Array = field(repr=False)
    largest_price: Array = field(repr=False)

    def prices(self, solution: Solution) -> Array:
        """Return the price of each product, shape (products,)."""
        return np.asarray(solution[self.price], float)

    def demands(self, solution: Solution) -> Array:
        """Return what each consumer buys, shape (consumers, products)."""
        return np.array([solution[variable] for variable in self.demand], float)

    def sales(self, solution: Solution) -> Array:
        """Return the units sold of each product to all consumers, shape (products,)."""
        return self.sizes @ self.demands(solution)


def pricing(
    willingness: Any, slope: Any, cost: Any, *, sizes: float | Sequence[float] = 1.0
) -> Pricing:
    r"""Return the problem of a seller who sets one price per product.

        maximize    sum_i size_i (price - cost)'y_i                            over price >= 0
        subject to  y_i in argmax { willingness_i'y - y'slope_i y / 2 - price'y : y >= 0 }

    Parameters
    ----------
    willingness
        What the first unit is worth to each consumer, shape (consumers, products).
    slope
        How the worth of a unit falls with what is bought already: one per product, shape
        (products,), a symmetric positive definite matrix, shape (products, products), or one for
        each consumer, shape (consumers, products, products). Positive entries off the diagonal
        make substitutes, negative ones complements.
    cost
        Of one unit of each product, at least 0, shape (products,).
    sizes
        How many equal consumers each row stands for.

    Returns
    -------
    Pricing
        Its ``problem`` goes to ``bl.solve``.

    Raises
    ------
    ProblemError
        If a shape does not fit, a number is NaN or out of place, a slope is not positive definite,
        or nobody wants a product.

    Notes
    -----
    Each row is a follower with a unique response. By its complementarity, ``price'y`` is
    ``willingness'y - y'slope y``, so that the seller's objective is written without products of
    prices and demands and is concave:

        sum_i size_i ((willingness_i - cost)'y_i - y_i'slope_i y_i)

    The problem is not concave in the prices: at each price where a consumer stops buying a product
    the profit has a kink.

    Prices are bounded. As ``price >= 0``, ``y'slope y = (willingness - price)'y`` gives ``|y| <=
    |max(willingness, 0)| / (smallest eigenvalue of slope)``, and product ``j`` is worth at most
    ``willingness_j`` and what complements add to it; above that nobody buys it.

    References
    ----------
    Singh & Vives, *RAND Journal of Economics* 15 (1984) 546-554 (the utility).

    Examples
    --------
    One consumer with utility ``10 y - y**2`` (instance T16): price ``(10 + cost) / 2``.

    >>> import bilevel as bl
    >>> from bilevel.applications.pricing import pricing
    >>> shop = pricing([[10.0]], [2.0], [1.0])
    >>> solution = bl.solve(shop.problem)
    >>> print(shop.prices(solution).round(3), round(solution.leader_value, 3))
    [5.5] 10.125
    """
    worth, slopes, charge, n_each = _checked(willingness, slope, cost, sizes)
    consumers, products = worth.shape
    price = cp.Variable(products, name="price")
    largest = np.max([_reach(a, B) for a, B in zip(worth, slopes, strict=True)], axis=0)
    demand = []
    followers = []
    profit = 0.0
    for i in range(consumers):
        y = cp.Variable(products, name=f"demand[{i}]")
        # Two trees, one for each level.
        curved = [cp.quad_form(y, cp.psd_wrap(slopes[i])) for _ in range(2)]
        surplus = worth[i] @ y - curved[0] / 2 - price @ y
        followers.append(Follower(cp.Maximize(surplus), [y >= 0], [y], f"consumer {i}"))
        profit = profit + n_each[i] * ((worth[i] - charge) @ y - curved[1])
        demand.append(y)
    rows = [price >= 0, price <= largest]
    problem = Problem(cp.Maximize(profit), rows, followers)
    return Pricing(problem, price, tuple(demand), n_each, largest)


def _reach(worth: Array, slope: Array) -> Array:
    """Return prices above which a consumer buys nothing of each product, whatever the others'."""
    most = np.linalg.norm(np.maximum(worth, 0.0)) / np.linalg.eigvalsh(slope)[0]
    complements = np.maximum(-(slope - np.diag(np.diag(slope))), 0.0)
    return np.maximum(worth + np.linalg.norm(complements, axis=1) * most, 0.0)


def _checked(
    willingness: Any, slope: Any, cost: Any, sizes: Any
) -> tuple[Array, Array, Array, Array]:
    worth = _array(willingness, "willingness")
    if worth.ndim != 2 or not worth.size:
        raise ProblemError(
            f"willingness must have the shape (consumers, products), not {worth.shape}."
        )
    consumers, products = worth.shape
    for i, j in np.argwhere(~np.isfinite(worth)):
        raise ProblemError(f"The willingness of consumer {i} for product {j} must be finite.")
    charge = numbers(cost, range(products), "cost of product", least=0.0)
    n_each = numbers(sizes, range(consumers), "size of consumer", above=0.0)
    slopes = _array(slope, "slope")
    if slopes.shape == (products,):
        slopes = np.diag(slopes)
    if slopes.shape == (products, products):
        slopes = np.broadcast_to(slopes, (consumers, products, products))
    if slopes.shape != (consumers, products, products):
        raise ProblemError(
            f"slope must have the shape ({products},), ({products}, {products}) or ({consumers}, "
            f"{products}, {products}), not {slopes.shape}."
        )
    for i, matrix in enumerate(slopes):
        if not np.isfinite(matrix).all():
            raise ProblemError(f"The slope of consumer {i} must be finite.")
        least = np.linalg.eigvalsh(matrix)[0]
        if not np.allclose(matrix, matrix.T) or least <= 1e-9 * abs(matrix).max():
            raise ProblemError(
                f"The slope of consumer {i} is not symmetric positive definite (smallest "
                f"eigenvalue {least:.3g}): the worth of a unit has to fall with every bundle."
            )
    for j in np.flatnonzero((worth <= 0).all(axis=0)):
        raise ProblemError(
            f"Nobody would take product {j} for nothing (willingness of at most 0): leave it out."
        )
    return worth, slopes, charge, n_each


def _array(values: Any, what: str) -> Array:
    try:
        return np.array(values, dtype=float)
    except (TypeError, ValueError):
        raise ProblemError(f"{what} must be an array of numbers of one shape.") from None
