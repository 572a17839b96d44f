"""The response of a smooth follower: a batch of Newton's methods, one scalar of step each."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bilevel.adjoints.smooth.krylov import cg
from bilevel.adjoints.smooth.stationarity import Hessian, Stationarity
from bilevel.deprecation import renamed_fields
from bilevel.errors import BilevelWarning
from bilevel.problem.precision import attainable
from bilevel.problem.smooth import Instances, SmoothProblem
from bilevel.problem.trees import Tree, detached
from bilevel.solvers.smooth.follower_solution import (
    DENSE,
    INDEFINITE,
    FollowerSolution,
    second_order,
)
from bilevel.solvers.smooth.interior_point import begin, near
from bilevel.solvers.smooth.unconstrained import minimize

#: Newton's method ends at a residual near rounding; this one allows for a bad scale.
_ANSWERED = 1e-8


@renamed_fields(limit="max_steps")
@dataclass(frozen=True)
class Newton:
    """How accurately, and for how long, a follower is asked.

    Parameters
    ----------
    atol
        Norm of the optimality conditions at which a response is one.
    max_steps
        Most steps.

    Examples
    --------
    >>> from bilevel.solvers.smooth import Newton
    >>> Newton(atol=1e-8).max_steps
    200
    """

    atol: float = 1e-10
    max_steps: int = 200

    def __call__(
        self, st: Stationarity, x: Tensor, w: Tensor, rows: Tensor | None = None
    ) -> FollowerSolution:
        """Return the responses to ``x``, from ``w`` on.

        Without constraints: Newton's method with a line search on ``f``, with matrices up to 256
        variables and truncated conjugate gradients beyond. With constraints: a primal-dual
        interior-point method; or, near a known response, Newton's method on its active rows, and
        the interior-point method for the instances where that ends nowhere.

        Parameters
        ----------
        rows
            ``None`` if nothing is known; else ``w`` is near responses whose active rows ``st``
            holds, and this mask names the instances that are asked. What is returned for the
            others means nothing.
        """
        with torch.no_grad():
            atol = attainable(self.atol, w, 10)
            if st.follower_size == st.sizes[1]:
                return minimize(st, x, w, atol, self.max_steps)
            if rows is None:
                return begin(st, x, w, atol, self.max_steps)
            return near(st, x, w, atol, self.max_steps, rows)

    def answer(self, problem: SmoothProblem, x: Any, y: Any, *z: Any) -> Any:
        """Return the response of a problem's follower to ``x``; the leader is not looked at.

        .. code-block:: text

            minimize f(x, y, *z) over y  s.t.  h(x, y, *z) = 0,  g(x, y, *z) <= 0

        Parameters
        ----------
        problem
            Whose follower is asked.
        x, z
            The leader's decision and the inputs, each a tensor or a tree of tensors.
        y
            Where the search begins; a tensor or a tree of tensors.

        Returns
        -------
        tensor or tree of tensors
            The response, in the shapes of ``y``, without gradient: ``adjoints.Implicit().attach``
            gives it one.

        Raises
        ------
        ProblemError
            If the functions do not take these tensors.

        Warns
        -----
        BilevelWarning
            If it is no response: the residual of the optimality conditions is above ``atol`` and
            above 1e-8, or the second derivative is not positive definite on what the active
            constraints leave.

        Notes
        -----
        A local method: where ``f`` is not convex in ``y``, the response depends on the start.

        Examples
        --------
        >>> import bilevel as bl, torch
        >>> from bilevel.solvers.smooth import Newton
        >>> problem = bl.SmoothProblem(
        ...     F=lambda x, y: y, f=lambda x, y: y.exp() - x * y, g=lambda x, y: y - 1
        ... )
        >>> x, y = (
        ...     torch.tensor([2.0, 9.0], dtype=torch.float64),
        ...     torch.zeros((), dtype=torch.float64),
        ... )
        >>> [round(Newton().answer(problem, one, y).item(), 6) for one in x]
        [0.693147, 1.0]
        """
        shape_x = Tree(x, "x")
        shape_y = Tree(y, "y")
        flat_x, flat_y = (t.flat(v).detach().unsqueeze(0) for t, v in ((shape_x, x), (shape_y, y)))
        st = Stationarity.of(
            Instances(problem, shape_x, shape_y, detached(tuple(z))), flat_x, flat_y
        )
        w = torch.cat([flat_y, flat_y.new_zeros(1, st.follower_size - shape_y.size)], -1)
        found = self(st, flat_x, w)
        residual = float(found.residual)
        is_minimum = bool(found.is_minimum)
        largest = max(self.atol, attainable(_ANSWERED, flat_y))
        if not residual <= largest or not is_minimum:
            why = (
                f"its optimality conditions fail by {residual:.1e}; begin elsewhere, raise "
                f"Newton's max_steps, or see whether its constraints contradict each other"
                if not residual <= largest
                else INDEFINITE
            )
            warnings.warn(
                f"The follower's response is none: {why}.",
                BilevelWarning,
                stacklevel=2,
            )
        return shape_y.tree(found.w[0, : shape_y.size])


def is_minimum(st: Stationarity, x: Tensor, w: Tensor) -> bool | None:
    """Return whether the follower's second-order condition holds at a response; ``None``: unknown.

    Beyond 256 unknowns, whether conjugate gradients meet a direction of negative curvature.
    """
    H = Hessian(lambda w: st.follower(x, w), w)
    _, p, k = st.sizes[1:4]
    if w.shape[-1] <= DENSE:
        return bool(second_order(st, w, H.dense()))
    generator = torch.Generator().manual_seed(0)
    b = torch.randn(w.shape, generator=generator, dtype=w.dtype).to(w.device)
    return None if p + k else bool(cg(H, b, rtol=1e-3, max_steps=50).is_positive.all())
