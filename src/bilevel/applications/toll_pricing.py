"""Tolls on some arcs of a network whose users take the cheapest routes."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cvxpy as cp
import numpy as np

from bilevel.applications.data import number
from bilevel.applications.routes import Network, Route, undominated_routes
from bilevel.errors import ProblemError
from bilevel.problem.problem import Follower, Problem

if TYPE_CHECKING:
    from bilevel.solution import Solution

    Arc = tuple[Hashable, Hashable]

__all__ = ["Commodity", "TollPricing", "toll_pricing"]


@dataclass(frozen=True, eq=False)
class Commodity:
    """Traffic from one node to another, and the routes it may take at some tolls.

    Parameters
    ----------
    origin, destination
        Nodes.
    demand
        Units that travel.
    routes
        Undominated routes, the cheapest at zero tolls first.
    share
        The follower's variable: the part of the demand on each route; ``None`` where no toll is of
        any consequence, so that there is one route.
    """

    origin: Hashable
    destination: Hashable
    demand: float
    routes: tuple[Route, ...] = field(repr=False)
    share: cp.Variable | None = field(repr=False)

    @property
    def name(self) -> str:
        """What its follower is called."""
        return f"{self.origin}->{self.destination}"


@dataclass(frozen=True, eq=False)
class TollPricing:
    """A toll problem, with the way back from its variables to arcs and routes.

    Parameters
    ----------
    problem
        What ``bl.solve`` takes.
    tolled
        The arcs with a toll.
    toll
        The leader's variable, one entry per tolled arc.
    largest_toll
        Upper bound of each toll, shape (tolled arcs,).
    commodities
        Demands with their routes and variables.
    """

    problem: Problem
    tolled: tuple[Arc, ...]
    toll: cp.Variable = field(repr=False)
    largest_toll: np.ndarray = field(repr=False)
    commodities: tuple[Commodity, ...] = field(repr=False)

    def tolls(self, solution: Solution) -> dict[Arc, float]:
        """Return the toll of every tolled arc in a solution, per unit of flow."""
        values = np.asarray(solution[self.toll]).tolist()
        return dict(zip(self.tolled, values, strict=True))

    def routes(self, solution: Solution) -> dict[str, dict[tuple[Hashable, ...], float]]:
        """Return, by commodity, the units on each route that is used, a route by its nodes."""
        found: dict[str, dict[tuple[Hashable, ...], float]] = {}
        for commodity in self.commodities:
            share = np.ones(1)
            if commodity.share is not None:
                share = np.asarray(solution[commodity.share])
            found[commodity.name] = {
                route.nodes: float(part) * commodity.demand
                for route, part in zip(commodity.routes, share, strict=True)
                if part > 1e-7
            }
        return found


def toll_pricing(
    arcs: Iterable[tuple[Hashable, Hashable, float]],
    tolled: Iterable[Arc],
    commodities: Iterable[tuple[Hashable, Hashable, float]],
    *,
    max_toll: float | Mapping[Arc, float] = np.inf,
) -> TollPricing:
    r"""Return the problem of a leader whose tolls on some arcs of a network are to earn the most.

        maximize    sum_k demand_k * toll'(tolled part of the route of k)       over toll
        subject to  0 <= toll <= largest_toll
                    route of k in argmin { cost + toll : routes from origin to destination of k }

    Parameters
    ----------
    arcs
        ``(tail, head, cost)`` with costs of at least 0; of a networkx graph
        ``graph.edges(data="cost")``.
    tolled
        ``(tail, head)`` of the arcs with a toll.
    commodities
        ``(origin, destination, demand)``, demands above 0.
    max_toll
        Limit of every toll, or of some tolls by arc.

    Returns
    -------
    TollPricing
        Its ``problem`` goes to ``bl.solve``.

    Raises
    ------
    ProblemError
        If a number is NaN, negative or out of place, an arc is given twice or unknown, a
        commodity has no route, or its tolls could grow without limit.

    Notes
    -----
    Each commodity is a follower that divides its demand among routes. Only undominated routes are
    offered: a route is dominated by another that costs no more and uses no other tolled arc. At
    nonnegative tolls the dominated one is never the cheaper, and where both are cheapest the other
    pays at least the same tolls, so that neither the followers' costs nor the best revenue change.
    The number of undominated routes may grow exponentially with that of tolled arcs.

    The revenue from a commodity, toll times flow, is what it pays less its cost. What it pays is
    its optimal value, which by strong duality is its multiplier; the leader's objective is linear
    in multipliers and flows, and no product is left:

        toll'flow_k = value_k - cost'flow_k

    Bounds of tolls are derived. Let ``u_k`` be the cost of commodity ``k`` if every toll is at its
    limit (``max_toll``, or infinite), so that ``k`` never pays more. An arc ``a`` whose toll is
    above ``max_k (u_k - cost of k's cheapest route over a)`` is used by nobody. With this bound
    for its toll, every route over ``a`` still costs ``k`` at least ``u_k``: what was optimal for
    ``k`` remains optimal, and the revenue is not less. Hence some optimal tolls respect the bounds.

    The stance is optimistic: of routes with equal cost a commodity takes the one that pays more. A
    leader who does not want to rely on it lowers the tolls a little.

    References
    ----------
    Labbé, Marcotte & Savard, *Management Science* 44 (1998) 1608-1622 (the problem, tolls from
    differences of shortest paths). Bouhtou, van Hoesel, van der Kraaij & Lutton, *INFORMS Journal
    on Computing* 19 (2007) 458-469 (reduction of the network).

    Examples
    --------
    A bridge saves ten travellers 5 minutes and five others 3: the leader gives up the five.

    >>> import bilevel as bl
    >>> from bilevel.applications.toll_pricing import toll_pricing
    >>> arcs = [
    ...     ("a", "b", 2),
    ...     ("a", "m", 7),
    ...     ("m", "b", 0),
    ...     ("c", "a", 1),
    ...     ("c", "b", 6),
    ... ]
    >>> game = toll_pricing(arcs, [("a", "b")], [("a", "b", 10), ("c", "b", 5)])
    >>> solution = bl.solve(game.problem)
    >>> toll = game.tolls(solution)["a", "b"]
    >>> print(solution.status.name, round(toll, 4), round(solution.leader_value, 4))
    OPTIMAL 5.0 50.0
    """
    network = Network.of(arcs)
    charged = _tolled(network, tolled)
    limits = _limits(network, charged, max_toll)
    index = {a: i for i, a in enumerate(charged)}
    prices = np.zeros(len(network.arcs))
    prices[charged] = limits
    listed = []
    most = np.zeros(len(charged))
    for row in commodities:
        origin, destination, demand, ends = _commodity(network, row)
        dearest = float(network.distances(ends[0], prices)[ends[1]])
        if not np.isfinite(dearest):
            _refuse_route(network, (origin, destination), ends)
        found = undominated_routes(network, *ends, index, dearest)
        for route in found:
            for i in route.tolled:
                most[i] = max(most[i], dearest - route.cost)
        share = None
        if any(route.tolled for route in found):
            share = cp.Variable(len(found), name=f"share[{origin}->{destination}]")
        listed.append(Commodity(origin, destination, demand, found, share))
    if not any(commodity.share is not None for commodity in listed):
        raise ProblemError(
            "No toll can be earned: no commodity has a cheaper route over a tolled arc than "
            "without. Put tolls on arcs that save cost."
        )
    names = [commodity.name for commodity in listed]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ProblemError(f"Commodity {min(twice)} is given twice; add the demands up.")
    largest = np.minimum(most, limits)
    toll = cp.Variable(len(charged), name="toll")
    followers = []
    revenue = 0.0
    for commodity in listed:
        if commodity.share is not None:
            follower, earned = _follower(commodity, commodity.share, toll)
            followers.append(follower)
            revenue = revenue + commodity.demand * earned
    problem = Problem(cp.Maximize(revenue), [toll >= 0, toll <= largest], followers)
    pairs = tuple(network.arcs[a] for a in charged)
    return TollPricing(problem, pairs, toll, largest, tuple(listed))


def _follower(
    commodity: Commodity, share: cp.Variable, toll: cp.Variable
) -> tuple[Follower, cp.Expression]:
    """Return a commodity's follower, and what it pays per unit of demand, linear."""
    cost = np.array([route.cost for route in commodity.routes])
    passes = np.zeros((len(cost), toll.size))
    for r, route in enumerate(commodity.routes):
        passes[r, list(route.tolled)] = 1.0
    whole = cp.sum(share) == 1
    follower = Follower(
        cp.Minimize((cost + passes @ toll) @ share), [whole, share >= 0], [share], commodity.name
    )
    # The Lagrangian is f + nu * (sum(share) - 1), so that the optimal value is -nu.
    return follower, -follower.dual(whole) - cost @ share


def _tolled(network: Network, tolled: Iterable[Any]) -> list[int]:
    position = {arc: a for a, arc in enumerate(network.arcs)}
    charged = []
    for arc in tolled:
        pair = tuple(arc) if isinstance(arc, Iterable) else arc
        if pair not in position:
            raise ProblemError(
                f"Tolled arc {arc!r} is not in the table of arcs; give (tail, head) of an arc."
            )
        charged.append(position[pair])
    if not charged:
        raise ProblemError("Give at least one tolled arc.")
    if len(set(charged)) < len(charged):
        raise ProblemError("A tolled arc is given twice.")
    return charged


def _limits(network: Network, charged: list[int], max_toll: Any) -> np.ndarray:
    limits = np.full(len(charged), np.inf)
    arcs = [network.arcs[a] for a in charged]
    given = max_toll if isinstance(max_toll, Mapping) else dict.fromkeys(arcs, max_toll)
    for arc, value in given.items():
        if arc not in arcs:
            raise ProblemError(f"max_toll names {arc!r}, which is not a tolled arc.")
        if not isinstance(value, (int, float, np.number)) or not value >= 0:
            raise ProblemError(
                f"max_toll of arc {arc[0]!r} -> {arc[1]!r} must be a number of at least 0, not "
                f"{value!r}."
            )
        limits[arcs.index(arc)] = float(value)
    return limits


def _commodity(network: Network, row: Any) -> tuple[Hashable, Hashable, float, tuple[int, int]]:
    try:
        origin, destination, demand = row
    except (TypeError, ValueError):
        raise ProblemError(f"A commodity is (origin, destination, demand), not {row!r}.") from None
    name = f"commodity {origin!r} -> {destination!r}"
    units = number(demand, f"The demand of {name}", above=0.0, remedy="Leave it out.")
    if origin == destination:
        raise ProblemError(f"The {name} ends where it begins: leave it out.")
    ends = (
        network.index(origin, f"The origin of {name}"),
        network.index(destination, f"The destination of {name}"),
    )
    return origin, destination, units, ends


def _refuse_route(network: Network, name: tuple[Hashable, Hashable], ends: tuple[int, int]) -> None:
    who = f"Commodity {name[0]!r} -> {name[1]!r}"
    if np.isinf(network.distances(ends[0], np.zeros(len(network.arcs)))[ends[1]]):
        raise ProblemError(f"{who} is disconnected: no route leads there. Add an arc.")
    raise ProblemError(
        f"{who} has no route without tolls, so that it would pay any: limit the tolls on its "
        f"routes by max_toll, or add a route without."
    )
