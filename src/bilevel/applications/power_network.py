"""The linear (DC) model of a power network."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from bilevel.applications.data import number
from bilevel.errors import ProblemError

if TYPE_CHECKING:
    from bilevel.problem.functions import Array


@dataclass(frozen=True, eq=False)
class PowerNetwork:
    """Nodes and lines; the flow of a line is its susceptance times the difference of angles.

    Parameters
    ----------
    nodes
        The nodes; the angle of the first is zero.
    flow
        Flows by the other nodes' angles, shape (lines, nodes - 1).
    outflow
        Net flow out of each node by the same angles, shape (nodes, nodes - 1).
    limit
        Largest flow of each line in either direction, MW, shape (lines,).

    Examples
    --------
    >>> from bilevel.applications.power_network import PowerNetwork
    >>> network = PowerNetwork.of([("a", "b", 10.0, 50.0)], ["a", "b"])
    >>> print(network.flow.tolist())
    [[-10.0]]
    """

    nodes: tuple[Hashable, ...]
    flow: Array
    outflow: Array
    limit: Array

    @classmethod
    def of(cls, lines: Iterable[Any], others: Iterable[Hashable]) -> PowerNetwork:
        """Return the network of ``(node, node, susceptance, limit)`` and further nodes, checked."""
        ends = []
        susceptance = []
        limit = []
        for row in lines:
            try:
                tail, head, value, most = row
            except (TypeError, ValueError):
                raise ProblemError(
                    f"A line is (node, node, susceptance, limit), not {row!r}."
                ) from None
            name = f"line {tail!r} - {head!r}"
            if tail == head:
                raise ProblemError(f"The {name} ends where it begins: leave it out.")
            ends.append((tail, head))
            susceptance.append(number(value, f"The susceptance of {name}", above=0.0))
            unlimited = isinstance(most, (float, np.floating)) and most == np.inf
            remedy = "Leave a line that carries nothing out."
            what = f"The limit of {name}"
            limit.append(most if unlimited else number(most, what, above=0.0, remedy=remedy))
        nodes = tuple(dict.fromkeys([*(node for pair in ends for node in pair), *others]))
        position = {node: i for i, node in enumerate(nodes)}
        incidence = np.zeros((len(ends), len(nodes)))
        for row, (tail, head) in enumerate(ends):
            incidence[row, position[tail]] = 1.0
            incidence[row, position[head]] = -1.0
        _, part = connected_components(sp.csr_array(abs(incidence.T) @ abs(incidence)))
        if (apart := np.flatnonzero(part != part[0])).size:
            raise ProblemError(
                f"The network falls apart: no line leads from node {nodes[0]!r} to node "
                f"{nodes[apart[0]]!r}, so that the angles are not determined. Connect the parts, "
                f"or clear each by itself."
            )
        flow = np.array(susceptance)[:, None] * incidence[:, 1:]
        return cls(nodes, flow, incidence.T @ flow, np.array(limit))

    def incidence(self, nodes: Iterable[Hashable]) -> Array:
        """Return where units stand: shape (nodes of the network, units)."""
        columns = [self.nodes.index(node) for node in nodes]
        return np.eye(len(self.nodes))[:, columns]
