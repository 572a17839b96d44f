"""An electricity market whose costs are parameters: what an operator is seen to do reveals them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cvxpy as cp
import numpy as np

from bilevel.applications.data import number
from bilevel.applications.power_network import PowerNetwork
from bilevel.errors import ProblemError
from bilevel.problem.problem import Follower

if TYPE_CHECKING:
    from bilevel.problem.functions import Array

__all__ = ["MarketClearing", "market_clearing"]


@dataclass(frozen=True, eq=False)
class MarketClearing:
    """An operator that clears a market, with its parameters and what can be observed of it.

    Parameters
    ----------
    operator
        The follower; ``bilevel.layers.FollowerLayer`` takes it, and so does ``bl.Problem``.
    units
        Names of the generating units.
    network
        Nodes and lines.
    cost
        Parameter: what the first MWh of each unit costs, shape (units,).
    rise
        Parameter: by how much a MWh becomes dearer for each MW of output, at least 0, shape
        (units,).
    demand
        Parameter: MW at each node of the network, shape (nodes,).
    output
        Variable: MW of each unit, shape (units,).
    price
        Multiplier of the nodes' balances: the price at each node, per MWh, shape (nodes,).
    """

    operator: Follower
    units: tuple[str, ...]
    network: PowerNetwork = field(repr=False)
    cost: cp.Parameter = field(repr=False)
    rise: cp.Parameter = field(repr=False)
    demand: cp.Parameter = field(repr=False)
    output: cp.Variable = field(repr=False)
    price: cp.Variable = field(repr=False)


def market_clearing(
    units: Iterable[tuple[str, Hashable, float]],
    lines: Iterable[tuple[Hashable, Hashable, float, float]] = (),
    nodes: Iterable[Hashable] = (),
) -> MarketClearing:
    r"""Return the operator of a market with a price at every node, its costs being parameters.

        minimize    sum_i cost_i p_i + rise_i p_i**2 / 2
        subject to  demand + outflow of the angles == p at each node     (price)
                    0 <= p <= capacity,  |flow| <= limit

    Parameters
    ----------
    units
        ``(name, node, capacity)``, the capacity in MW.
    lines
        ``(node, node, susceptance, limit)``: a flow of ``susceptance`` times the difference of
        angles, at most ``limit`` MW in either direction (``inf`` for none).
    nodes
        Nodes without a unit and without a line; those of lines and units come first.

    Returns
    -------
    MarketClearing
        Its ``operator`` goes to a layer, with ``cost``, ``rise`` and ``demand`` as parameters.

    Raises
    ------
    ProblemError
        If a number is NaN or out of place, a name is given twice, or the network falls apart.

    Notes
    -----
    A demand that the units and lines cannot serve has no answer. Outputs alone reveal costs only up
    to what is added to all of them, because demand is fixed; prices reveal the rest. A unit that
    is idle, or at its capacity, in every observed hour reveals no more than a bound on its cost.

    References
    ----------
    Gabriel, Conejo, Fuller, Hobbs and Ruiz, *Complementarity Modeling in Energy Markets* (2013),
    chapter 6 (the clearing). Birge, Hortacsu and Pavlin, *Operations Research* 65 (2017) 837-855
    (costs from what a market is seen to do).

    Examples
    --------
    Two units share 60 MW so that both have the same marginal cost, which is the price.

    >>> import cvxpy as cp
    >>> from bilevel.applications.market_clearing import market_clearing
    >>> market = market_clearing([("coal", "bus", 100), ("gas", "bus", 100)])
    >>> market.cost.value, market.rise.value, market.demand.value = (
    ...     [10, 20],
    ...     [0.5, 0.25],
    ...     [60],
    ... )
    >>> operator = market.operator
    >>> value = cp.Problem(operator.objective, operator.constraints).solve(
    ...     solver="CLARABEL"
    ... )
    >>> print(
    ...     market.output.value.round(3),
    ...     operator.constraints[0].dual_value.round(3),
    ... )
    [33.333 26.667] [26.667]
    """
    where: dict[str, Hashable] = {}
    capacity = []
    for row in units:
        try:
            name, node, most = row
        except (TypeError, ValueError):
            raise ProblemError(f"A unit is (name, node, capacity), not {row!r}.") from None
        if name in where:
            raise ProblemError(f"Two units are called {name!r}; rename one.")
        where[name] = node
        capacity.append(number(most, f"The capacity of unit {name!r}", above=0.0))
    if not where:
        raise ProblemError("There is no unit: give at least one (name, node, capacity).")
    network = PowerNetwork.of(lines, [*where.values(), *nodes])
    return _clearing(where, np.array(capacity), network)


def _clearing(where: dict[str, Hashable], capacity: Array, network: PowerNetwork) -> MarketClearing:
    """Return the operator, and what belongs to it."""
    count = len(where)
    cost = cp.Parameter(count, name="cost")
    rise = cp.Parameter(count, nonneg=True, name="rise")
    demand = cp.Parameter(len(network.nodes), name="demand")
    output = cp.Variable(count, name="output")
    decided = [output]
    missing = demand - network.incidence(where.values()) @ output
    rows = []
    if network.flow.shape[1]:
        angle = cp.Variable(network.flow.shape[1], name="angle")
        decided.append(angle)
        missing = missing + network.outflow @ angle
        some = np.isfinite(network.limit)
        if some.any():
            flow = network.flow[some] @ angle
            rows = [flow <= network.limit[some], -flow <= network.limit[some]]
    # The Lagrangian is f + price'missing, so that a price is what another MW of demand costs.
    balance = missing == 0
    spent = cost @ output + cp.sum(cp.multiply(rise, cp.square(output))) / 2
    rows = [balance, output >= 0, output <= capacity, *rows]
    operator = Follower(cp.Minimize(spent), rows, decided, "operator")
    price = operator.dual(balance)
    return MarketClearing(operator, tuple(where), network, cost, rise, demand, output, price)
