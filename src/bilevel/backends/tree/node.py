"""A node of the tree, and how the tree is searched."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from bilevel.backends.tree.disjunctions import Change
from bilevel.backends.tree.session import NodeAnswer


@dataclass(frozen=True)
class Settings:
    """How the tree is searched.

    Parameters
    ----------
    candidates
        How many disjunctions strong branching tries at a node.
    reliable
        From how many trials on pseudocosts are believed.
    effort
        Share of the time spent on making feasible points from relaxations.
    probe
        From how many nodes on disjunctions are probed at the root, and again after eight times as
        many each time: what can only be decided in one way is settled for the whole tree.
    """

    candidates: int = 8
    reliable: int = 2
    effort: float = 0.2
    probe: int = 64

    def __post_init__(self) -> None:
        for name in (one.name for one in fields(self)):
            if not isinstance(getattr(self, name), int | float):
                raise TypeError(f"{name} must be a number")


@dataclass(order=True)
class Node:
    """A subproblem whose relaxation is solved, ordered by its bound."""

    bound: float
    number: int
    changes: tuple[Change, ...] = field(compare=False)
    answer: NodeAnswer = field(compare=False, repr=False)


def gain(child: Node, parent: Node) -> float:
    """Return by how much a child's bound exceeds its parent's; zero while both are unbounded."""
    return child.bound - parent.bound if child.bound > parent.bound else 0.0
