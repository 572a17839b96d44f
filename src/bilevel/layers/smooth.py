"""A smooth bilevel problem as a PyTorch layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bilevel.adjoints.adjoint import GradientKind, demand_adjoint
from bilevel.adjoints.smooth.adjoint import LeaderAdjoint, SmoothDerivative
from bilevel.adjoints.smooth.implicit import Implicit
from bilevel.adjoints.smooth.stationarity import Stationarity
from bilevel.deprecation import renamed_keywords
from bilevel.errors import BatchFailed, ProblemError
from bilevel.layers.kinks import warn_of_kinks
from bilevel.layers.options import OnFailure, check_word
from bilevel.layers.result import Report, Result
from bilevel.problem.precision import attainable
from bilevel.problem.smooth import Instances, SmoothProblem, check_inputs
from bilevel.problem.trees import detached
from bilevel.solvers.smooth.follower_solution import INDEFINITE
from bilevel.solvers.smooth.kkt_point import KKTPoint
from bilevel.solvers.smooth.reduced_newton import ReducedNewton
from bilevel.solvers.smooth.solver import AbstractSmoothSolver, Task
from bilevel.status import Status

Inequalities = Literal["kkt", "barrier"]
#: The largest norm of the optimality conditions with which an answer is passed on.
ACCEPTED = 1e-6
#: An inequality whose slack and multiplier are both smaller is weakly active.
_WEAK = 1e-7

UserSolver = Callable[..., tuple[Any, Any]]


class SmoothBilevelLayer(nn.Module):
    r"""The answer ``(x, y)`` of a smooth bilevel problem as a function of its inputs.

    .. code-block:: text

        x*(z) in argmin F(x, y, *z)  s.t.  H = 0, G <= 0,  y in argmin {f(x, y, *z) : h = 0, g <= 0}

    Parameters
    ----------
    F
        The leader's objective, a function of ``(x, y, *z)``; or a ``SmoothProblem``.
    f
        The follower's objective.
    H, G, h, g
        Constraints of either level, or ``None``.
    start
        Decisions ``(x, y)`` of one instance to begin with, tensors or trees of tensors; they also
        say shapes, dtype and device.
    solver
        ``bl.ReducedNewton()``, which solves a batch at once, another solver of smooth problems, or
        a function ``(x, y, *z) -> (x, y)`` of one's own for one instance. What the others find is
        brought to rounding error by Newton's method on the optimality conditions.
    adjoint
        ``adjoints.Implicit()``, or one of your own with a method ``leader``
        (``adjoints.LeaderAdjoint``).
    inequalities
        ``"kkt"`` differentiates the active rows, ``"barrier"`` the answer of a log barrier.
    barrier_parameter
        How accurate the barrier is: each multiplier times its slack is one over it.
    in_dims
        For each input, or for all: 0 if its first axis is the batch, ``None`` if all instances
        share it.
    on_failure
        What happens to instances without an answer: ``"raise"`` after the whole batch is solved,
        ``"nan"`` or ``"zero"``.

    Raises
    ------
    ProblemError
        If an argument is malformed.

    Notes
    -----
    Modules among the functions become submodules of the layer. Tensors with gradient that the
    functions capture are differentiated as if they were inputs. The method is local: where the
    leader's problem is not convex in ``x``, the answer depends on the start. An answer is passed on
    only if its optimality conditions hold and the follower's second derivative is positive
    definite on what its active constraints leave; the report's kinds say what each gradient is.

    References
    ----------
    Alesiani (2023), *Implicit Bilevel Optimization: Differentiating through Bilevel Optimization
    Programming* (BIGRAD), AAAI, sections 2.1 and 3.1, appendices A.1 and A.3.

    Examples
    --------
    >>> import torch
    >>> from bilevel.layers import SmoothBilevelLayer
    >>> layer = SmoothBilevelLayer(
    ...     F=lambda x, y, z: (x - z) ** 2 + y**2,
    ...     f=lambda x, y, z: (y - x) ** 2,
    ...     start=(
    ...         torch.tensor(0.0, dtype=torch.float64),
    ...         torch.tensor(0.0, dtype=torch.float64),
    ...     ),
    ... )
    >>> z = torch.tensor([2.0, 4.0], dtype=torch.float64, requires_grad=True)
    >>> x, y = layer(z)
    >>> x.sum().backward()
    >>> print(
    ...     [round(v, 9) for v in x.tolist()],
    ...     [round(v, 9) for v in z.grad.tolist()],
    ... )
    [1.0, 2.0] [0.5, 0.5]
    """

    @renamed_keywords(t="barrier_parameter")
    def __init__(
        self,
        F: Callable[..., Tensor] | SmoothProblem,
        f: Callable[..., Tensor] | None = None,
        *,
        H: Callable[..., Tensor] | None = None,
        G: Callable[..., Tensor] | None = None,
        h: Callable[..., Tensor] | None = None,
        g: Callable[..., Tensor] | None = None,
        start: tuple[Any, Any],
        solver: AbstractSmoothSolver | UserSolver | None = None,
        adjoint: LeaderAdjoint | None = None,
        inequalities: Inequalities = "kkt",
        barrier_parameter: float = 1e6,
        in_dims: int | Sequence[int | None] | None = 0,
        on_failure: OnFailure = "raise",
    ) -> None:
        super().__init__()
        self._problem = _problem(F, f, H=H, G=G, h=h, g=g)
        for name in "FfHGhg":
            function = getattr(self._problem, name)
            if isinstance(function, nn.Module):
                self.add_module(f"function_{name}", function)
        check_word("inequalities", inequalities, Inequalities)
        if not barrier_parameter > 0:
            raise ProblemError(f"barrier_parameter must be positive, not {barrier_parameter!r}.")
        check_word("on_failure", on_failure, OnFailure)
        adjoint = Implicit() if adjoint is None else adjoint
        demand_adjoint(adjoint, "leader", "A SmoothBilevelLayer", "adjoints.Implicit()")
        if solver is not None and not callable(solver) and not hasattr(solver, "run"):
            raise ProblemError(f"solver must be a solver of smooth problems, not {solver!r}.")
        self._task = Task(
            self._problem,
            start,
            barrier_parameter=barrier_parameter if inequalities == "barrier" else None,
        )
        self._trees = self._task.trees
        self._solver = ReducedNewton() if solver is None else solver
        self._adjoint = adjoint
        self._in_dims = in_dims
        self._on_failure = on_failure
        self._last: tuple[Tensor, Tensor] | None = None
        self._is_looked_at = self._problem.zero_sum

    def forward(self, *z: Any, warm_start: bool = False) -> tuple[Any, Any]:
        """Return the answers ``(x, y)`` to a batch.

        Parameters
        ----------
        z
            The inputs, each a tensor or a tree of tensors.
        warm_start
            Begin with the last call's answers where the batch has the same size.

        Returns
        -------
        tuple
            ``x`` and ``y`` in the shapes of the start, with a batch axis in front unless no input
            has one.

        Raises
        ------
        ProblemError
            If the inputs do not fit.
        BatchFailed
            If an instance has no answer and ``on_failure`` is ``"raise"``.

        Warns
        -----
        BilevelWarning
            At the first call, if a follower's function is piecewise (``relu``): its third
            derivatives, which the gradient needs, are then zero where autograd looks.
        """
        x, y = self.solve(*z, warm_start=warm_start).values
        return x, y

    def solve(self, *z: Any, warm_start: bool = False) -> Result:
        """Return the answers to a batch with a status and a report for every instance.

        Examples
        --------
        >>> import torch
        >>> from bilevel.layers import SmoothBilevelLayer
        >>> zero = torch.tensor(0.0, dtype=torch.float64)
        >>> layer = SmoothBilevelLayer(
        ...     F=lambda x, y, z: (y - z) ** 2,
        ...     f=lambda x, y, z: (y - x) ** 2,
        ...     G=lambda x, y, z: x - 1,
        ...     start=(zero, zero),
        ... )
        >>> answer = layer.solve(torch.tensor([0.5, 3.0], dtype=torch.float64))
        >>> print(
        ...     [round(v, 9) for v in answer.values[0].tolist()],
        ...     answer.report.kind[0].name,
        ... )
        [0.5, 1.0] CLASSICAL
        """
        instances = self._instances(z)
        x, y = self._start(instances.count, warm_start)
        if not self._is_looked_at:
            self._is_looked_at = True
            warn_of_kinks(instances, x, y)
        found = self._find(instances, x, y)
        status, notes = _judge(found)
        usable = torch.tensor([one is Status.STATIONARY for one in status], device=found.u.device)
        if self._on_failure == "raise" and not bool(usable.all()):
            raise BatchFailed("SmoothBilevelLayer", status, notes)
        u, root = self._differentiate(found, usable, instances, z)
        st = found.st
        x, w, *_ = st.split(u)
        self._last = (x.detach(), w[:, : st.sizes[1]].detach()) if warm_start else None
        values = []
        for tree, part in zip(self._trees, (x, w[:, : st.sizes[1]]), strict=True):
            values.append(tree.tree(part if instances.is_batched else part[0]))
        nan = torch.tensor(torch.nan, dtype=found.residual.dtype, device=u.device)
        residual = torch.where(usable, found.residual, nan)

        def probe() -> Tensor:
            whole = residual.clone()
            if root is not None:
                whole[usable] = root.probe().to(whole)
            return whole

        margin = torch.where(usable, found.margin, nan)
        return Result(tuple(values), status, Report(_kinds(found), residual, margin, notes, probe))

    def _instances(self, z: tuple[Any, ...]) -> Instances:
        dims = self._in_dims
        in_dims = (dims,) * len(z) if dims is None or isinstance(dims, int) else tuple(dims)
        if len(in_dims) != len(z) or any(dim not in (0, None) for dim in in_dims):
            raise ProblemError(
                f"in_dims must be 0 or None for each of the {len(z)} inputs, not {dims!r}."
            )
        check_inputs(z, self._task.flat_start()[0].dtype)
        return Instances(self._problem, *self._trees, detached(z), in_dims)

    def _start(self, count: int, warm: bool) -> tuple[Tensor, Tensor]:
        if warm and self._last is not None and len(self._last[0]) == count:
            return self._last
        x, y = (part.expand(count, -1).clone() for part in self._task.flat_start())
        return x, y

    def _find(self, instances: Instances, x: Tensor, y: Tensor) -> KKTPoint:
        solver = self._solver
        if not isinstance(solver, ReducedNewton):
            x, y = self._ask(solver, instances, x, y)
            solver = ReducedNewton()
        st = Stationarity.of(instances, x, y, self._task.barrier_parameter)
        w = torch.cat([y, y.new_zeros(len(y), st.follower_size - y.shape[-1])], -1)
        return solver.stationary(st, x, w)

    def _ask(
        self, solver: Any, instances: Instances, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what another solver finds, instance by instance; the start where it fails."""
        for i in range(instances.count):
            one = instances.one(i)
            start = [t.tree(v[i]) for t, v in zip(self._trees, (x, y), strict=True)]
            if isinstance(solver, AbstractSmoothSolver):
                with torch.enable_grad():
                    found = solver.run(replace(self._task, start=tuple(start), z=one.z))
                answer = (found.x, found.y)
            else:
                answer = solver(*start, *one.z)
            x[i], y[i] = (
                t.flat(part).detach() for t, part in zip(self._trees, answer, strict=True)
            )
        return x, y

    def _differentiate(
        self, found: KKTPoint, usable: Tensor, instances: Instances, z: tuple[Any, ...]
    ) -> tuple[Tensor, SmoothDerivative | None]:
        """Return the answers with their derivatives; a fill where there is none."""
        if not bool(usable.any()):
            return torch.full_like(found.u, self._fill), None
        st = found.st
        u = found.u
        if not bool(usable.all()):
            z = instances.taken(z, usable)
            active = {name: getattr(st, name)[usable] for name in ("active_g", "active_G")}
            st = replace(st, instances=instances.at(detached(z)), **active)
            u = u[usable]
        root = self._adjoint.leader(st, u, z)
        (value,) = root.answer
        if bool(usable.all()):
            return value, root
        whole = torch.full_like(found.u, self._fill)
        return whole.index_put((usable.nonzero()[:, 0],), value), root

    @property
    def _fill(self) -> float:
        return 0.0 if self._on_failure == "zero" else float("nan")


def _problem(F: Any, f: Any, **constraints: Any) -> SmoothProblem:
    if not isinstance(F, SmoothProblem):
        if f is None:
            raise ProblemError("A SmoothBilevelLayer needs F and f, or a bl.SmoothProblem.")
        return SmoothProblem(F, f, **constraints)
    if f is not None or any(one is not None for one in constraints.values()):
        raise ProblemError("A SmoothProblem has its follower and constraints itself.")
    return F


def _judge(found: KKTPoint) -> tuple[tuple[Status, ...], dict[int, str]]:
    """Return the status of each instance, and a note where there is more to say."""
    status = []
    notes = {}
    largest = attainable(ACCEPTED, found.u)
    has_rows = found.st.barrier_parameter is None and bool(found.st.sizes[3])
    kink = ", perhaps at a kink: inequalities='barrier' has none" if has_rows else ""
    rows = zip(
        found.residual.tolist(),
        found.follower_is_minimum.tolist(),
        found.is_minimum.tolist(),
        strict=True,
    )
    for i, (residual, is_answer, is_minimum) in enumerate(rows):
        status.append(Status.STATIONARY)
        if not residual <= largest:
            status[i] = Status.FAILED
            notes[i] = f"its optimality conditions fail by {residual:.1e}{kink}"
        elif not is_answer:
            status[i] = Status.FAILED
            notes[i] = INDEFINITE
        elif not is_minimum:
            notes[i] = "the leader's second derivative is not positive definite here"
    return tuple(status), notes


def _kinds(found: KKTPoint) -> tuple[GradientKind, ...]:
    """Return what the gradient of each instance is."""
    named = []
    largest = attainable(ACCEPTED, found.u)
    weak = attainable(_WEAK, found.u)
    is_smoothed = found.st.barrier_parameter is not None and bool(
        found.st.sizes[3] + found.st.sizes[5]
    )
    rows = zip(
        *(
            part.tolist()
            for part in (found.residual, found.follower_is_minimum, found.is_singular, found.margin)
        ),
        strict=True,
    )
    for residual, is_answer, is_singular, margin in rows:
        if not residual <= largest or not is_answer:
            named.append(GradientKind.NONE)
        elif is_singular:
            named.append(GradientKind.SURROGATE)
        elif is_smoothed:
            named.append(GradientKind.SMOOTHED)
        else:
            named.append(GradientKind.ONE_SIDED if margin <= weak else GradientKind.CLASSICAL)
    return tuple(named)
