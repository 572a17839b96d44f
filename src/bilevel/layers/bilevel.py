"""A bilevel problem as a layer: both levels' answers, differentiable in both levels' data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor

from bilevel.adjoints import KKT, GradientKind
from bilevel.adjoints.bilevel import Root, find_root
from bilevel.adjoints.function import AbstractRule, apply
from bilevel.errors import BilevelError, ProblemError, UnsupportedDerivative, UnsupportedProblem
from bilevel.layers.answer import Answer, BatchFailed, Record, Report
from bilevel.layers.inputs import gather
from bilevel.layers.model import Model, as_nash, check_parameters
from bilevel.layers.options import ON_FAILURE
from bilevel.problem.functions import Array
from bilevel.problem.leaves import label
from bilevel.problem.problem import Problem
from bilevel.response.answer import answer
from bilevel.solvers.solve import certified
from bilevel.solvers.solver import AbstractSolver, Request
from bilevel.status import Status
from bilevel.structure import Stance

_EQUILIBRIA = ("stackelberg", "nash")


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
        Any solver of the library, such as ``bl.Branching()``; ``None`` chooses by structure.
    adjoint
        ``bilevel.adjoints.KKT(...)``: its ``degenerate`` may be ``"lstsq"`` or ``"raise"``.
    equilibrium
        ``"stackelberg"``: the leader knows that the followers answer. ``"nash"``: it takes their
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
    leader's optimum lies at a kink of the follower's answer and is held there, the derivative moves
    along with the kink. It is one of the answer that was found: a global optimum may jump to
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
    ...     cp.Maximize(a * demand - cp.square(demand) - price * demand), [demand >= 0], [demand]
    ... )
    >>> problem = bl.Problem(
    ...     cp.Maximize(price * demand - demand), [price >= 1, price <= 10], [buyer]
    ... )
    >>> layer = BilevelLayer(problem, parameters=[a], variables=[price, demand])
    >>> level = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    >>> best, sold = layer(level)
    >>> best.backward()
    >>> print(round(best.item(), 6), round(sold.item(), 6), round(level.grad.item(), 6))
    5.0 2.0 0.5
    """

    def __init__(
        self,
        problem: Problem,
        parameters: Sequence[cp.Parameter],
        variables: Sequence[Any],
        solver: AbstractSolver | None = None,
        *,
        adjoint: KKT | None = None,
        equilibrium: str = "stackelberg",
        on_failure: str = "raise",
        time_limit: float | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(problem, Problem):
            raise ProblemError(f"A BilevelLayer needs a bilevel.Problem, not {problem!r}.")
        if equilibrium not in _EQUILIBRIA:
            raise ProblemError(f"equilibrium must be one of {_EQUILIBRIA}, not {equilibrium!r}.")
        if on_failure not in ON_FAILURE:
            raise ProblemError(f"on_failure must be one of {ON_FAILURE}, not {on_failure!r}.")
        if problem.stance is Stance.PESSIMISTIC:
            raise UnsupportedProblem(
                "The derivative of a pessimistic answer is not known here; where the follower's "
                "answer is unique it is that of the optimistic one: problem.replace("
                "stance='optimistic')."
            )
        self._adjoint = adjoint or KKT()
        if self._adjoint.degenerate not in ("lstsq", "raise"):
            raise ProblemError("A BilevelLayer takes adjoints.KKT with 'lstsq' or 'raise' only.")
        self._problem = as_nash(problem) if equilibrium == "nash" else problem
        self._inputs = check_parameters(parameters, self._problem)
        self._slots = tuple((label(p), tuple(p.shape), int(p.size)) for p in self._inputs)
        self._model = Model(self._problem, self._inputs)
        self._outputs = tuple(self._model.output(variable) for variable in variables)
        self._solver, self._time_limit = solver, time_limit
        self._on_failure = on_failure
        self._last: list[Array | None] = []

    @property
    def input_names(self) -> tuple[str, ...]:
        """The parameters' names, in the order of the tensors."""
        return tuple(name for name, _, _ in self._slots)

    def extra_repr(self) -> str:
        """Return what is printed between the parentheses."""
        return f"{self._problem!r}, parameters=[{', '.join(map(label, self._inputs))}]"

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
        return self._run(tensors, warm_start)[0]

    def solve(self, *tensors: Tensor, warm_start: bool = False) -> Answer:
        """Return the answers to a batch with a status and a report for every instance.

        Examples
        --------
        >>> import bilevel as bl, cvxpy as cp, torch
        >>> from bilevel.layers import BilevelLayer
        >>> x, y, p = cp.Variable(name="x"), cp.Variable(name="y"), cp.Parameter(name="p")
        >>> follower = bl.Follower(cp.Minimize(cp.square(y - x)), [y >= 0], [y])
        >>> problem = bl.Problem(cp.Minimize(cp.square(x - p) + y), [x >= -2, x <= 2], [follower])
        >>> layer = BilevelLayer(problem, [p], [x, y])
        >>> answer = layer.solve(torch.tensor([-1.0, 1.5]))
        >>> print(answer.values[0].tolist(), [status.name for status in answer.status])
        [-1.0, 1.0] ['OPTIMAL', 'OPTIMAL']
        """
        values, rule = self._run(tensors, warm_start)
        record = rule.record
        margin = [np.nan if root is None else root.margin for root in rule.roots]
        report = Report(
            rule.kinds(any(output.source == "z" for output in self._outputs)),
            torch.from_numpy(record.residual),
            torch.tensor(margin, dtype=torch.float64),
            record.notes,
            rule.probe,
        )
        return Answer(values, record.status, report)

    def _run(self, tensors: Sequence[Any], warm_start: bool) -> tuple[tuple[Tensor, ...], _Rule]:
        batch = gather(self._slots, tensors, "The layer")
        start = self._last if warm_start and len(self._last) == len(batch.theta) else None
        rule = _Rule(self, start)
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

    def answer_one(
        self, theta: Array, start: Array | None
    ) -> tuple[Root | None, Status, str]:
        """Solve one instance and return its active conditions, the status and a note."""
        split = np.split(theta[:-1], np.cumsum([size for _, _, size in self._slots])[:-1])
        given = {
            p: part.reshape(shape)
            for p, part, (_, shape, _) in zip(self._inputs, split, self._slots, strict=True)
        }
        try:
            form = self._problem.compile(given)
            request = Request(time_limit=self._time_limit, start=start, rtol=1e-8)
            solution, outcome = certified(self._problem, form, self._solver, request)
            if not solution.status.has_point or outcome.w is None:
                return None, solution.status, solution.stats.note
            w = outcome.w
            cones = [
                np.concatenate([np.empty(0), *answer(form, k, w).cone_multipliers])
                for k in range(len(form.followers))
            ]
            root = find_root(self._model.conditions, w, torch.from_numpy(theta), cones)
        except BilevelError as error:
            return None, Status.FAILED, str(error)
        return root, solution.status, "; ".join(root.notes)


def _without_point(status: Status) -> Status:
    """Return a status that claims no point."""
    return Status.FAILED if status.has_point else status


class _Rule(AbstractRule):
    """Solves every instance, and keeps the system that gives its derivative."""

    order = 1
    what = "a bilevel problem's answer"

    def __init__(self, layer: BilevelLayer, start: Sequence[Array | None] | None) -> None:
        self._layer, self._start = layer, start
        self.roots: list[Root | None] = []
        self.record = Record((), np.zeros(0), {})

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        theta = inputs[0].numpy(force=True)
        layer, model = self._layer, self._layer._model
        status, notes = [], {}
        for i, row in enumerate(theta):
            start = None if self._start is None else self._start[i]
            root, one, note = layer.answer_one(row, start)
            self.roots.append(root)
            status.append(one if root is not None else _without_point(one))
            if note:
                notes[i] = note
        residual = np.array([np.nan if root is None else root.residual for root in self.roots])
        self.record = Record(tuple(status), residual, notes)
        if layer._on_failure == "raise" and None in self.roots:
            raise BatchFailed("the layer", tuple(status), notes)
        if layer._adjoint.degenerate == "raise":
            self._demand_exact()
        fill = 0.0 if layer._on_failure == "zero" else np.nan
        w, lam = np.full((len(theta), model.n), fill), np.full((len(theta), model.m), fill)
        for i, root in enumerate(self.roots):
            if root is not None:
                w[i], lam[i] = root.w, np.concatenate([np.empty(0), *root.lam])
        return tuple(torch.from_numpy(part).to(inputs[0].device) for part in (w, lam))

    def backward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        if torch._C._are_functorch_transforms_active():
            raise UnsupportedDerivative(
                "torch.func cannot transform the derivative of a BilevelLayer; use "
                "tensor.backward(), torch.autograd.grad or torch.autograd.functional.jacobian."
            )
        sizes = [len(rows) for rows in self._layer._model.conditions.rows]
        found = torch.zeros_like(inputs[0])
        gw, glam = (
            np.zeros(one.shape) if grad is None else grad.numpy(force=True)
            for one, grad in zip(outputs, grads, strict=True)
        )
        for i, root in enumerate(self.roots):
            if root is not None:
                parts = np.split(glam[i], np.cumsum(sizes)[:-1])
                theta = inputs[0][i].detach().cpu()
                with torch.enable_grad():
                    found[i] = root.pull(gw[i], parts, theta).to(found)
        return (found,)

    def kinds(self, with_multipliers: bool) -> tuple[GradientKind, ...]:
        """Return what each instance's gradient is."""
        kinds = []
        for root in self.roots:
            if root is None:
                kinds.append(GradientKind.NONE)
            elif with_multipliers and not root.unique_multipliers:
                kinds.append(GradientKind.SURROGATE)
            else:
                kinds.append(root.kind)
        return tuple(kinds)

    def probe(self) -> Tensor:
        """Return the relative residual of each adjoint system for a right-hand side of ones."""
        found = []
        for root in self.roots:
            error = np.nan
            if root is not None:
                error = abs(root.H @ root.inverse.sum(-1) - 1).max(initial=0.0)
            found.append(error)
        return torch.tensor(found, dtype=torch.float64)

    def _demand_exact(self) -> None:
        kinds = self.kinds(False)
        flagged = [i for i, kind in enumerate(kinds) if not kind.is_exact and self.roots[i]]
        if flagged:
            raise UnsupportedDerivative(
                f"{len(flagged)} of {len(kinds)} instances have no derivative in the usual sense "
                f"(instance {flagged[0]}: {kinds[flagged[0]].value})."
            )
