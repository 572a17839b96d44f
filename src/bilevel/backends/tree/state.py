"""What a search knows at a moment: enough to go on from."""

from __future__ import annotations

import heapq
from copy import deepcopy
from dataclasses import dataclass, field, replace

import numpy as np

from bilevel.backends.tree.compact import Compact
from bilevel.backends.tree.node import Node
from bilevel.backends.tree.pseudocosts import Pseudocosts
from bilevel.problem.functions import Array
from bilevel.program import Program, Resume


@dataclass
class SearchState:
    """The open nodes and what has been learnt.

    Parameters
    ----------
    low, high
        Bounds of entries that hold for every point still looked for.
    costs
        What the trials of branching have taught.
    heap
        The open nodes.
    best, value
        The best point, ``None`` if there is none, and its value.
    closed
        The lowest bound of what was fathomed, or lost.
    is_lost
        Whether a node had no verdict.
    count, created
        Nodes looked at, and made.
    probe_at
        From how many nodes on disjunctions are probed again.
    seconds
        Time spent in earlier runs.
    """

    low: Array
    high: Array
    costs: Pseudocosts
    heap: list[Node] = field(default_factory=list)
    best: Array | None = None
    value: float = np.inf
    closed: float = np.inf
    is_lost: bool = False
    count: int = 0
    created: int = 0
    probe_at: int = 0
    seconds: float = 0.0

    @staticmethod
    def begin(
        program: Program, compact: Compact, disjunctions: int, resume: Resume | None = None
    ) -> SearchState:
        """Return a copy of the state that is resumed if it is this program's, or a fresh one."""
        if resume is not None and resume.belongs_to(program):
            return deepcopy(resume.state)
        return SearchState(compact.low.copy(), compact.high.copy(), Pseudocosts(disjunctions))

    def push(self, node: Node) -> None:
        """Add an open node."""
        heapq.heappush(self.heap, node)

    def pop(self) -> Node:
        """Take the open node of the lowest bound."""
        return heapq.heappop(self.heap)

    def close(self, bound: float) -> None:
        """Note that a subtree with this bound is done with."""
        self.closed = min(self.closed, bound)

    def bound(self, current: Node | None) -> float:
        """Return the bound of everything, a node that is being looked at included."""
        waiting = self.heap[0].bound if self.heap else np.inf
        active = np.inf if current is None else current.bound
        return min(waiting, active, self.closed, self.value)

    def saved(self, program: Program, seconds: float) -> Resume:
        """Return where to go on; what belongs to a vendor's memory is left out."""
        heap = [replace(node, answer=replace(node.answer, warm=None)) for node in self.heap]
        costs = deepcopy(self.costs)
        state = replace(self, heap=heap, costs=costs, seconds=seconds)
        return Resume(program.digest, state, seconds)
