"""A bilevel problem as a layer: both levels' answers, differentiable in both levels' data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor

from bilevel.adjoints import KKT, AbstractBilevelAdjoint
from bilevel.adjoints.adjoint import demand_adjoint
from bilevel.adjoints.function import apply, compiler_disabled
from bilevel.errors import ProblemError, UnsupportedProblem
from bilevel.layers.bilevel_model import Model, as_nash
from bilevel.layers.bilevel_rule import Equilibrium, Ways
from bilevel.layers.inputs import choose, gather
from bilevel.layers.options import OnFailure, check_word
from bilevel.layers.result import Report, Result
from bilevel.problem.functions import Array
from bilevel.problem.problem import Problem
from bilevel.solvers.best_responses import BestResponses
from bilevel.solvers.solver import AbstractSolver
from bilevel.structure import Stance

EquilibriumName = Literal["stackelberg", "nash"]


class BilevelLayer(torch.nn.Module):
    r"""Return the answer of a bilevel problem as a differentiable function of its parameters.

        x(theta), y(theta) in argmin  F(x, y, theta)
        subject to  G(x, y, theta) <= 0,  y in argmin { f(x, y, theta) : g(x, y, theta) <= 0 }

    Parameters
    ----------
    problem
        A ``bilevel.Problem`` with an optimistic leader. Followers may be linear or convex quadratic
        programs, or have second-order cones. Integer variables of the leader are constants of the
        derivative.
    parameters
        All ``cvxpy.Parameter`` of the problem, in the order of the tensors.
    variables
        What is returned, in this order: variables of any level, ``follower.dual(constraint)``,
        ``constraint.dual_variables[0]`` of a follower, or ``follower.value``.
    solver
        Any solver of the library, such as ``bl.Branching()``; ``None`` chooses by structure, and
        in games with cones lets everybody answer in turn until nobody moves.
    adjoint
        ``bilevel.adjoints.KKT(...)``, whose ``degenerate`` may be ``"lstsq"`` or ``"raise"``, or an
        ``AbstractBilevelAdjoint`` of your own.
    equilibrium
        ``"stackelberg"``: the leader knows that the followers respond. ``"nash"``: it takes their
        answer as given, as they take its decision.
    on_failure
        As for ``FollowerLayer``.
    time_limit
        Seconds for each instance, or ``None``.

    Raises
    ------
    ProblemError
        If a parameter is missing or unknown, or something requested is not in the problem.
    UnsupportedProblem
        If the leader is pessimistic, a follower has exponential or semidefinite cones, or the data
        are not affine in the parameters.

    Notes
    -----
    The derivative is that of the optimality conditions on the active constraints of both levels,
    which contain second derivatives of the follower; no inner problem is unrolled. Where the
    leader's optimum lies at a kink of the follower's response and is held there, the derivative
    moves along with the kink. It is one of the answer that was found: a global optimum may jump to
    another answer, and a local solver's answer may not be the best. ``report.kind`` says where the
    derivative is not one in the usual sense. It exists once; a second one raises.

    References
    ----------
    Fiacco (1983), theorem 2.1, applied to the problem with the follower's conditions as equations;
    Luo, Pang and Ralph, *Mathematical Programs with Equilibrium Constraints* (1996), section 4.

    Examples
    --------
    A monopolist's price when demand has the level ``a``: the price is ``(a + 1) / 2``.

    >>> import bilevel as bl, cvxpy as cp, torch
    >>> from bilevel.layers import BilevelLayer
    >>> price, demand = cp.Variable(name="price"), cp.Variable(name="demand")
    >>> a = cp.Parameter(name="a")
    >>> buyer = bl.Follower(
    ...     cp.Maximize(a * demand - cp.square(demand) - price * demand),
    ...     [demand >= 0],
    ...     [demand],
    ... )
    >>> problem = bl.Problem(
    ...     cp.Maximize(price * demand - demand), [price >= 1, price <= 10], [buyer]
    ... )
    >>> layer = BilevelLayer(problem, parameters=[a], variables=[price, demand])
    >>> level = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    >>> best, sold = layer(level)
    >>> best.backward()
    >>> print(
    ...     round(best.item(), 6),
    ...     round(sold.item(), 6),
    ...     round(level.grad.item(), 6),
    ... )
    5.0 2.0 0.5
    """

    def __init__(
        self,
        problem: Problem,
        parameters: Sequence[cp.Parameter],
        variables: Sequence[Any],
        solver: AbstractSolver | None = None,
        *,
        adjoint: AbstractBilevelAdjoint | None = None,
        equilibrium: EquilibriumName = "stackelberg",
        on_failure: OnFailure = "raise",
        time_limit: float | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(problem, Problem):
            raise ProblemError(f"A BilevelLayer needs a bilevel.Problem, not {problem!r}.")
        check_word("equilibrium", equilibrium, EquilibriumName)
        check_word("on_failure", on_failure, OnFailure)
        if problem.stance is Stance.PESSIMISTIC:
            raise UnsupportedProblem(
                "The derivative of a pessimistic answer is not known here; where the follower's "
                "answer is unique it is that of the optimistic one: problem.replace("
                "stance='optimistic')."
            )
        if solver is not None and not isinstance(solver, AbstractSolver):
            raise ProblemError(
                f"solver must be an object such as bl.Branching() or bl.Auto(), not {solver!r}."
            )
        adjoint = KKT() if adjoint is None else adjoint
        demand_adjoint(adjoint, "prepare_bilevel", "A BilevelLayer", "adjoints.KKT()")
        chosen = as_nash(problem) if equilibrium == "nash" else problem
        needed = {p.id: p for p in chosen.parameters}
        self._model = Model(chosen, choose(parameters, needed, "the problem"))
        self._outputs = tuple(self._model.output(variable) for variable in variables)
        prepared = adjoint.prepare_bilevel(self._model.conditions)
        if equilibrium == "nash" and solver is None and self._model.has_cones:
            solver = BestResponses()
        self._ways = Ways(solver, time_limit, on_failure, prepared)
        self._last: list[Array | None] = []

    @property
    def input_names(self) -> tuple[str, ...]:
        """The parameters' names, in the order of the tensors."""
        return tuple(name for name, _, _ in self._model.slots)

    def extra_repr(self) -> str:
        """Return what is printed between the parentheses."""
        return f"{self._model.problem!r}, parameters=[{', '.join(self.input_names)}]"

    def forward(self, *tensors: Tensor, warm_start: bool = False) -> tuple[Tensor, ...]:
        """Return the answers to a batch.

        Parameters
        ----------
        tensors
            One per parameter, each of its shape or with a batch axis in front.
        warm_start
            Hand the last call's answers to the solver as points to begin with.

        Returns
        -------
        tuple of tensors
            One per variable, with a batch axis in front if any input has one.

        Raises
        ------
        ProblemError
            If the tensors do not fit.
        BatchFailed
            If an instance has no answer and ``on_failure`` is ``"raise"``.
        """
        return compiler_disabled(self._run, tensors, warm_start)[0]

    def solve(self, *tensors: Tensor, warm_start: bool = False) -> Result:
        """Return the answers to a batch with a status and a report for every instance.

        Examples
        --------
        >>> import bilevel as bl, cvxpy as cp, torch
        >>> from bilevel.layers import BilevelLayer
        >>> x, y, p = (
        ...     cp.Variable(name="x"),
        ...     cp.Variable(name="y"),
        ...     cp.Parameter(name="p"),
        ... )
        >>> follower = bl.Follower(cp.Minimize(cp.square(y - x)), [y >= 0], [y])
        >>> problem = bl.Problem(
        ...     cp.Minimize(cp.square(x - p) + y), [x >= -2, x <= 2], [follower]
        ... )
        >>> layer = BilevelLayer(problem, [p], [x, y])
        >>> answer = layer.solve(torch.tensor([-1.0, 1.5]))
        >>> print(answer.values[0].tolist(), [status.name for status in answer.status])
        [-1.0, 1.0] ['OPTIMAL', 'OPTIMAL']
        """
        values, rule = compiler_disabled(self._run, tensors, warm_start)
        record = rule.record
        margin = [np.nan if root is None else root.margin for root in rule.roots]
        report = Report(
            rule.kinds(any(output.source == "z" for output in self._outputs)),
            torch.from_numpy(record.residual),
            torch.tensor(margin, dtype=torch.float64),
            record.notes,
            rule.probe,
        )
        return Result(values, record.status, report)

    def _run(
        self, tensors: Sequence[Any], warm_start: bool
    ) -> tuple[tuple[Tensor, ...], Equilibrium]:
        batch = gather(self._model.slots, tensors, "The layer")
        start = self._last if warm_start and len(self._last) == len(batch.theta) else None
        rule = Equilibrium(self._model, self._ways, start)
        w, lam = apply(rule, batch.theta)
        if warm_start:
            self._last = [None if root is None else root.w for root in rule.roots]
        values = []
        for output in self._outputs:
            if output.source == "value":
                k = int(output.index[0])
                rows = zip(w, batch.theta, strict=True)
                each = [self._model.conditions.value(k, *pair) for pair in rows]
                values.append(batch.back(torch.stack(each)))
            else:
                values.append(batch.back(output.read(w, lam, None)))
        return tuple(values), rule
