"""One convex program solved many times, with other bounds each time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilevel.problem.functions import Array
from bilevel.program import Termination


@dataclass(frozen=True)
class NodeAnswer:
    """The answer to a program at some bounds.

    Parameters
    ----------
    termination
        ``OPTIMAL``, ``INFEASIBLE``, ``UNBOUNDED``, ``NUMERICAL``, or ``LIMIT`` where the value
        passed the cutoff.
    entries
        The optimum: values of the compact program's columns and rows, or ``None``.
    value
        A lower bound on the objective: the optimal value, or ``-inf``.
    warm
        What a similar solve may start from; opaque.
    ray
        Of an unbounded program, a direction of descent in the space of entries, if known.
    """

    termination: Termination
    entries: Array | None = None
    value: float = -np.inf
    warm: Any = None
    ray: Array | None = None


class AbstractSession(ABC):
    """Holds one ``Compact`` program in a vendor's memory; bounds change from solve to solve."""

    @abstractmethod
    def solve(
        self, low: Array, high: Array, warm: Any = None, cutoff: float = np.inf
    ) -> NodeAnswer:
        """Solve with other bounds.

        Parameters
        ----------
        low, high
            Bounds of the compact program's columns and rows, ``low <= high``.
        warm
            ``NodeAnswer.warm`` of a similar solve, or ``None``.
        cutoff
            A value above which the optimum is of no interest.

        Returns
        -------
        NodeAnswer
            ``NUMERICAL`` where the vendor reached no verdict.
        """
