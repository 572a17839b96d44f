"""The answer to a smooth problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bilevel.solution import Stats
from bilevel.status import Status


@dataclass(frozen=True, repr=False)
class SmoothSolution:
    """The answer to a smooth bilevel problem.

    Parameters
    ----------
    status
        What is claimed; never more than ``STATIONARY``, since methods for smooth problems are
        local.
    x, y
        The decisions, in the shapes of the start; tensors.
    leader_value, follower_value
        ``F`` and ``f`` there.
    hypergradient_norm
        Norm of the derivative of ``F(x, y(x))``, or of the leader's optimality conditions.
    follower_residual
        Norm of the follower's optimality conditions.
    stats
        How it was found; ``nodes`` counts the leader's steps.

    Examples
    --------
    >>> import bilevel as bl, torch
    >>> problem = bl.SmoothProblem(
    ...     lambda x, y: (y - 1) ** 2, lambda x, y: (y - 2 * x) ** 2
    ... )
    >>> start = (
    ...     torch.zeros((), dtype=torch.float64),
    ...     torch.zeros((), dtype=torch.float64),
    ... )
    >>> solution = bl.solve(problem, start=start)
    >>> print(
    ...     solution.status.name,
    ...     round(solution.x.item(), 9),
    ...     round(solution.y.item(), 9),
    ... )
    STATIONARY 0.5 1.0
    """

    status: Status
    x: Any
    y: Any
    leader_value: float
    follower_value: float
    hypergradient_norm: float
    follower_residual: float
    stats: Stats

    def __repr__(self) -> str:
        return (
            f"SmoothSolution({self.status.name}, leader_value={self.leader_value:.9g}, "
            f"hypergradient_norm={self.hypergradient_norm:.1e}, method={self.stats.method})"
        )

    def summary(self) -> str:
        """Return the answer as a few lines of text."""
        lines = [
            f"status             {self.status.name}: {self.status.value}",
            f"leader value       {self.leader_value:.10g}",
            f"follower value     {self.follower_value:.10g}",
            f"hypergradient      {self.hypergradient_norm:.1e}   follower residual "
            f"{self.follower_residual:.1e}",
            f"method             {self.stats.method}",
            f"  {self.stats.nodes} steps, {self.stats.solve_seconds:.3g} s",
        ]
        if self.stats.gradients:
            taken = f"{self.stats.gradients:.4g} gradients, {self.stats.products:.4g} products"
            lines.append(f"  {taken} with second derivatives, in passes over the data")
        if self.stats.note:
            lines.append(f"note               {self.stats.note}")
        return "\n".join(lines)
