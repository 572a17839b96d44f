"""Routes that may be cheapest at some tolls, of a network given by a table of arcs."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import dijkstra

from bilevel.applications.data import number
from bilevel.errors import ProblemError

if TYPE_CHECKING:
    from bilevel.problem.functions import Array

# Costs this near to each other, relative to the larger, are taken for equal.
_NEARLY = 1e-12
_MOST_LABELS = 200_000


@dataclass(frozen=True)
class Route:
    """One way from an origin to a destination.

    Parameters
    ----------
    nodes
        The nodes passed, origin and destination among them.
    cost
        Its cost without tolls.
    tolled
        Indices of the tolled arcs on it.
    """

    nodes: tuple[Hashable, ...]
    cost: float
    tolled: frozenset[int]


@dataclass(frozen=True, eq=False)
class Network:
    """A directed network with costs on its arcs.

    Parameters
    ----------
    nodes
        The nodes.
    arcs
        ``(tail, head)`` of each arc.
    cost
        Costs, shape (arcs,).
    """

    nodes: tuple[Hashable, ...]
    arcs: tuple[tuple[Hashable, Hashable], ...]
    cost: Array

    @classmethod
    def of(cls, table: Iterable[Any]) -> Network:
        """Return the network of a table of ``(tail, head, cost)``, checked."""
        arcs: dict[tuple[Hashable, Hashable], float] = {}
        for row in table:
            try:
                tail, head, cost = row
            except (TypeError, ValueError):
                raise ProblemError(f"An arc is (tail, head, cost), not {row!r}.") from None
            value = number(
                cost,
                f"The cost of arc {tail!r} -> {head!r}",
                least=0.0,
                remedy="With negative costs there may be no cheapest route.",
            )
            if (tail, head) in arcs:
                raise ProblemError(
                    f"Arc {tail!r} -> {head!r} is given twice. Put a node into one of the two."
                )
            arcs[tail, head] = value
        nodes = tuple(dict.fromkeys(node for arc in arcs for node in arc))
        return cls(nodes, tuple(arcs), np.array(list(arcs.values())))

    def index(self, node: Hashable, what: str) -> int:
        """Return a node's position."""
        try:
            return self.nodes.index(node)
        except ValueError:
            raise ProblemError(f"{what} is {node!r}, a node that no arc touches.") from None

    def distances(self, source: int, extra: Array, reverse: bool = False) -> Array:
        """Return cheapest costs from a node (to it, if reversed) with ``extra`` on the arcs."""
        price = self.cost + extra
        kept = np.flatnonzero(np.isfinite(price))
        position = {node: i for i, node in enumerate(self.nodes)}
        tails = [position[self.arcs[a][0]] for a in kept]
        heads = [position[self.arcs[a][1]] for a in kept]
        n = len(self.nodes)
        graph = sp.coo_array((price[kept], (tails, heads)), shape=(n, n)).tocsr()
        return dijkstra(graph.T.tocsr() if reverse else graph, indices=source)


def undominated_routes(
    network: Network, origin: int, destination: int, tolled: dict[int, int], limit: float
) -> tuple[Route, ...]:
    """Return the routes that no other beats at all tolls, the cheapest first.

    Parameters
    ----------
    network
        The network.
    origin, destination
        Positions of nodes.
    tolled
        For each arc with a toll, by its position, the index of the toll.
    limit
        Cost above which a route is of no use.

    Notes
    -----
    Labels (cost, tolled arcs) are extended in the order of cost (Martins, *European Journal of
    Operational Research* 16 (1984) 236-245). A label is dropped if one at its node has a subset of
    its tolled arcs, or if the cheapest way to the destination exceeds the limit.
    """
    onward = network.distances(destination, np.zeros(len(network.arcs)), reverse=True)
    position = {node: i for i, node in enumerate(network.nodes)}
    leaving: list[list[tuple[int, int]]] = [[] for _ in network.nodes]
    for a, (tail, head) in enumerate(network.arcs):
        leaving[position[tail]].append((a, position[head]))
    limit += _NEARLY * max(1.0, abs(limit)) if np.isfinite(limit) else 0.0
    settled: list[list[tuple[float, frozenset[int], tuple[int, ...]]]] = [[] for _ in leaving]
    heap: list[Any] = [(0.0, 0, 0, frozenset(), (origin,))]
    count = 1
    while heap:
        cost, _, _, tolls, path = heapq.heappop(heap)
        node = path[-1]
        if any(known <= tolls for _, known, _ in settled[node]):
            continue
        settled[node].append((cost, tolls, path))
        for a, head in leaving[node] if node != destination else ():
            further = cost + float(network.cost[a])
            if not further + onward[head] <= limit:
                continue
            more = tolls | {tolled[a]} if a in tolled else tolls
            heapq.heappush(heap, (further, len(more), count, more, (*path, head)))
            count += 1
            if count > _MOST_LABELS:
                raise ProblemError(
                    f"More than {_MOST_LABELS} partial routes from {network.nodes[origin]!r} to "
                    f"{network.nodes[destination]!r} may be cheapest at some tolls: put tolls on "
                    f"fewer arcs, or limit them by max_toll."
                )
    return tuple(
        Route(tuple(network.nodes[i] for i in path), cost, tolls)
        for cost, tolls, path in settled[destination]
    )
