"""A producer's bid: it leads, and the operator that clears the electricity market follows."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cvxpy as cp
import numpy as np

from bilevel.applications.data import number, numbers
from bilevel.applications.power_network import PowerNetwork
from bilevel.errors import ProblemError
from bilevel.problem.problem import Follower, Problem

if TYPE_CHECKING:
    from bilevel.problem.functions import Array
    from bilevel.solution import Solution

__all__ = ["Generator", "MarketBid", "market_bid"]


@dataclass(frozen=True)
class Generator:
    """A generating unit.

    Parameters
    ----------
    name
        Its name.
    node
        The node of the network it feeds.
    cost
        Marginal cost, per MWh.
    capacity
        Largest output, MW.
    """

    name: str
    node: Hashable
    cost: float
    capacity: float


@dataclass(frozen=True, eq=False)
class MarketBid:
    """A bidding problem, with the way back from its variables to units and nodes.

    Parameters
    ----------
    problem
        What ``bl.solve`` takes.
    generators
        All units, the producer's first.
    n_owned
        How many of them are the producer's.
    network
        Nodes and lines.
    offer
        The leader's variable: price offered for each own unit, per MWh.
    quantity
        The leader's variable: MW offered of each own unit; ``None`` if all of it is offered.
    output
        The follower's variable: MW of each unit.
    balance
        Multipliers of the nodes' balances, as the leader uses them: prices are their negative.
    """

    problem: Problem
    generators: tuple[Generator, ...]
    n_owned: int
    network: PowerNetwork = field(repr=False)
    offer: cp.Variable = field(repr=False)
    quantity: cp.Variable | None = field(repr=False)
    output: cp.Variable = field(repr=False)
    balance: cp.Variable = field(repr=False)

    def offers(self, solution: Solution) -> dict[str, float]:
        """Return the price offered for each own unit, per MWh."""
        return self._named(solution[self.offer])

    def quantities(self, solution: Solution) -> dict[str, float]:
        """Return the MW offered of each own unit."""
        if self.quantity is None:
            return self._named([unit.capacity for unit in self.generators[: self.n_owned]])
        return self._named(solution[self.quantity])

    def outputs(self, solution: Solution) -> dict[str, float]:
        """Return the MW of every unit that the operator dispatches."""
        return self._named(solution[self.output])

    def prices(self, solution: Solution) -> dict[Hashable, float]:
        """Return the price at every node, per MWh.

        Where ``solution.certificate.unique_multipliers`` is false, other prices clear the market
        as well; these are the ones the producer likes best.
        """
        values = -np.asarray(solution[self.balance], float)
        return dict(zip(self.network.nodes, values.tolist(), strict=True))

    def profit(self, solution: Solution) -> float:
        """Return price less cost, times output, over the own units."""
        prices = self.prices(solution)
        outputs = self.outputs(solution)
        own = self.generators[: self.n_owned]
        return sum((prices[unit.node] - unit.cost) * outputs[unit.name] for unit in own)

    def _named(self, values: Any) -> dict[str, float]:
        names = [unit.name for unit in self.generators]
        return dict(zip(names, np.asarray(values, float).tolist(), strict=False))


def market_bid(
    generators: Iterable[Generator | tuple[str, Hashable, float, float]],
    owned: Iterable[str],
    demand: Mapping[Hashable, float],
    lines: Iterable[tuple[Hashable, Hashable, float, float]] = (),
    *,
    price_cap: float,
    withholding: bool = False,
) -> MarketBid:
    r"""Return the problem of a producer that bids into a market with a price at every node.

        maximize    sum_{own i} (price_{node of i} - cost_i) p_i          over offer, quantity
        subject to  0 <= offer <= price_cap,  0 <= quantity <= capacity
                    p, price a solution, with multipliers, of the clearing

        clearing:   minimize    offer'p_own + cost'p_others + price_cap * sum(shed)
                    subject to  p + shed - demand == outflow of the angles     (price)
                                0 <= p <= quantity,  |flow| <= limit,  0 <= shed <= demand

    Parameters
    ----------
    generators
        ``(name, node, cost, capacity)``; others than the owned bid their cost.
    owned
        Names of the producer's units.
    demand
        MW by node, at least 0.
    lines
        ``(node, node, susceptance, limit)``: a flow of ``susceptance`` times the difference of
        angles, at most ``limit`` MW in either direction (``inf`` for none).
    price_cap
        Largest offer, and the price of demand that is not served, per MWh.
    withholding
        Whether the producer also chooses how much of its units to offer.

    Returns
    -------
    MarketBid
        Its ``problem`` goes to ``bl.solve``.

    Raises
    ------
    ProblemError
        If a number is NaN or out of place, a name is unknown or given twice, or the network falls
        apart.

    Notes
    -----
    The product of price and output is not left to the solver. By complementarity an own unit earns
    ``price * p = offer * p + (multiplier of p <= quantity) * quantity``, and strong duality of the
    clearing turns the sum over own units into terms that are linear in its variables and
    multipliers (Ruiz & Conejo): what consumers pay, less what the network and the others take,

        price'demand - scarcity'demand - congestion'limit - rent'capacity_others
            - cost'p_others - price_cap * sum(shed)

    This is equal to the product wherever the operator responds optimally, and exact for offered
    quantities too.

    The stance is optimistic. Of equally cheap dispatches the producer has the one it likes best;
    and where prices are not unique (demand that exhausts a capacity exactly), the highest.

    References
    ----------
    Ruiz & Conejo, *IEEE Transactions on Power Systems* 24 (2009) 1855-1866 (the linear form of the
    profit). Gabriel, Conejo, Fuller, Hobbs & Ruiz, *Complementarity Modeling in Energy Markets*
    (2013), chapter 6.

    Examples
    --------
    A unit of cost 10 against one of cost 30 that cannot serve the demand alone: it is better to
    sell what is left at the cap (50 MW at 100 per MWh) than everything at 30.

    >>> import bilevel as bl
    >>> from bilevel.applications.market_bid import market_bid
    >>> units = [("coal", "bus", 10, 120), ("gas", "bus", 30, 70)]
    >>> bid = market_bid(units, ["coal"], {"bus": 120}, price_cap=100)
    >>> solution = bl.solve(bid.problem)
    >>> print(
    ...     round(solution.leader_value, 4), round(bid.prices(solution)["bus"], 4)
    ... )
    4500.0 100.0
    """
    cap = number(price_cap, "price_cap", above=0.0)
    units, n_owned = _units(generators, owned)
    network = PowerNetwork.of(lines, [*demand, *(unit.node for unit in units)])
    load = np.zeros(len(network.nodes))
    where = [network.nodes.index(node) for node in demand]
    load[where] = numbers(list(demand.values()), list(demand), "demand of node", least=0.0)
    if not load.any():
        raise ProblemError("No node has a demand above 0, so there is no market to clear.")
    _check_cap(units, cap)

    offer = cp.Variable(n_owned, name="offer")
    quantity = cp.Variable(n_owned, name="quantity") if withholding else None
    output = cp.Variable(len(units), name="output")
    operator, balance, profit = _clearing(units, network, load, cap, (offer, quantity, output))
    rows = [offer >= 0, offer <= cap]
    if quantity is not None:
        rows += [quantity >= 0, quantity <= [unit.capacity for unit in units[:n_owned]]]
    problem = Problem(cp.Maximize(profit), rows, [operator])
    return MarketBid(problem, units, n_owned, network, offer, quantity, output, balance)


def _clearing(
    units: tuple[Generator, ...],
    network: PowerNetwork,
    load: Array,
    cap: float,
    variables: tuple[cp.Variable, cp.Variable | None, cp.Variable],
) -> tuple[Follower, cp.Variable, Any]:
    """Return the operator, the multiplier of its balances, and the producer's profit, linear."""
    offer, quantity, output = variables
    n_owned = offer.size
    served = np.flatnonzero(load)
    cost = np.array([unit.cost for unit in units])
    capacity = np.array([unit.capacity for unit in units])
    shed = cp.Variable(len(served), name="shed")
    decided = [output, shed]
    surplus = network.incidence(unit.node for unit in units) @ output - load
    surplus = surplus + np.eye(len(load))[:, served] @ shed
    # Rows with a constant right-hand side: what they take from the consumers' payment.
    limits: list[tuple[Any, Array]] = [(shed, load[served])]
    payment = offer @ output[:n_owned]
    others = slice(n_owned, None)
    if n_owned < len(units):
        payment = payment + cost[others] @ output[others]
        limits.append((output[others], capacity[others]))
    if network.flow.shape[1]:
        angle = cp.Variable(network.flow.shape[1], name="angle")
        decided.append(angle)
        surplus = surplus - network.outflow @ angle
        some = np.isfinite(network.limit)
        if some.any():
            flow = network.flow[some] @ angle
            limits += [(flow, network.limit[some]), (-flow, network.limit[some])]
    balance = surplus == 0
    bounded = [left <= right for left, right in limits]
    offered = output[:n_owned] <= (capacity[:n_owned] if quantity is None else quantity)
    rows = [balance, offered, *bounded, output >= 0, shed >= 0]
    unserved = cap * cp.sum(shed)
    operator = Follower(cp.Minimize(payment + unserved), rows, decided, "operator")
    # The Lagrangian is f + nu'(surplus), so that the prices are -nu.
    profit = -load @ operator.dual(balance) - unserved - cost @ output
    for row, (_, right) in zip(bounded, limits, strict=True):
        profit = profit - right @ operator.dual(row)
    return operator, operator.dual(balance), profit


def _units(generators: Iterable[Any], owned: Iterable[str]) -> tuple[tuple[Generator, ...], int]:
    units: dict[str, Generator] = {}
    for row in generators:
        try:
            unit = row if isinstance(row, Generator) else Generator(*row)
        except TypeError:
            raise ProblemError(
                f"A generator is (name, node, cost, capacity), not {row!r}."
            ) from None
        if unit.name in units:
            raise ProblemError(f"Two generators are called {unit.name!r}; rename one.")
        cost = number(unit.cost, f"The cost of generator {unit.name!r}", least=0.0)
        most = number(unit.capacity, f"The capacity of generator {unit.name!r}", above=0.0)
        units[unit.name] = Generator(unit.name, unit.node, cost, most)
    names = [owned] if isinstance(owned, str) else list(dict.fromkeys(owned))
    for name in names:
        if name not in units:
            raise ProblemError(f"There is no generator {name!r}; there are {list(units)}.")
    if not names:
        raise ProblemError("The producer owns no generator: name at least one in owned.")
    ordered = [*names, *(name for name in units if name not in names)]
    return tuple(units[name] for name in ordered), len(names)


def _check_cap(units: tuple[Generator, ...], cap: float) -> None:
    for unit in units:
        if unit.cost >= cap:
            raise ProblemError(
                f"Generator {unit.name!r} costs {unit.cost:g}, not below the price cap of {cap:g}: "
                f"it would never run. Raise price_cap or leave it out."
            )
