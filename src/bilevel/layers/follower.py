"""A follower's response as a layer: a convex program's solution, differentiable in its data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import cvxpy as cp
import torch
from torch import Tensor

from bilevel.adjoints import KKT, AbstractAdjoint, Cone, Form, ResponseRule
from bilevel.adjoints.adjoint import demand_adjoint
from bilevel.adjoints.function import apply, compiler_disabled
from bilevel.errors import ProblemError, UnsupportedProblem
from bilevel.layers.data import DataMap
from bilevel.layers.forms import SOLVERS, LayerSolver
from bilevel.layers.inputs import DeclaredSigns, choose, gather
from bilevel.layers.options import OnFailure, Options, read_options
from bilevel.layers.outputs import find_outputs
from bilevel.layers.result import Report, Result
from bilevel.layers.source import read_source
from bilevel.problem.assemble import compile_program
from bilevel.problem.follower import Follower
from bilevel.problem.leaves import label


class FollowerLayer(torch.nn.Module):
    r"""Return the solution of a convex program as a differentiable function of its data.

        y(theta) in argmin  f(y, theta)   subject to  g(y, theta) <= 0,  h(y, theta) == 0

    A drop-in for ``cvxpylayers.torch.CvxpyLayer``.

    Parameters
    ----------
    problem
        A ``bilevel.Follower``, or a convex ``cvxpy.Problem``: linear, quadratic, or with
        second-order, exponential and semidefinite cones; affine in its parameters
        (CVXPY's DPP rules), but for squares: ``sum_squares(L @ y)`` and ``quad_form(y, P)`` with
        parameters ``L`` and ``P`` are taken and stay ``n`` by ``n`` matrices.
    parameters
        What tensors are given for, in this order: every ``cvxpy.Parameter`` of the problem and, for
        a follower, the leader's variables in it.
    variables
        What is returned, in this order: variables, multipliers
        (``constraint.dual_variables[0]``, or ``follower.dual(constraint)``), or ``follower.value``.
    solver
        Where ``CvxpyLayer`` has its solver: an old place for ``backend``, which warns.
    gp, verbose, canon_backend
        As ``CvxpyLayer`` has them; geometric programs are refused, and ``canon_backend`` is not
        needed.
    solver_args
        Options for a named backend. Those that only set the accuracy of another library's solver
        are ignored with a warning: answers are exact here.
    adjoint
        ``bilevel.adjoints.KKT(...)``, ``Cone(...)`` or an ``adjoints.AbstractAdjoint`` of your own;
        ``None``: ``Cone`` where there are cones, else ``KKT``.
    backend
        ``None``, or the name of a backend, such as ``"clarabel"`` or ``"proxsuite"``. Whatever
        it returns is checked, polished, and refused if it is not exact.
    on_failure
        ``"raise"`` raises ``BatchFailed`` after the whole batch is solved, if an instance has no
        answer; ``"nan"`` returns NaN for it and ``"zero"`` zero, and no gradient flows into its
        data. Other instances keep their values and gradients: to the last bit beside any neighbours
        (with cones, in a batch of the same size).

    Raises
    ------
    ProblemError
        If a parameter is missing or unknown, or something requested is not in the problem.
    UnsupportedProblem
        If the problem is not convex, has integer variables, or breaks the DPP rules.

    Notes
    -----
    Inputs have their parameter's shape, or that with a batch axis in front; both may be mixed, and
    the gradient of an input without a batch is the sum over the batch. Arithmetic is in double
    precision whatever the inputs' is; results have the inputs' precision and device. A matrix
    given for a symmetric parameter counts by its symmetric part. For quadratic programs the
    layer may be differentiated any number of times and under ``torch.func``. Multipliers have the
    sign of CVXPY's ``dual_value``.

    References
    ----------
    Amos and Kolter, *OptNet* (2017); Agrawal et al., *Differentiable Convex Optimization Layers*
    (2019); Busseti, Moursi and Boyd, *Solution Refinement at Regular Points of Conic Problems*
    (2019).

    Examples
    --------
    >>> import cvxpy as cp, torch
    >>> from bilevel.layers import FollowerLayer
    >>> y, p = cp.Variable(2), cp.Parameter(2)
    >>> problem = cp.Problem(
    ...     cp.Minimize(cp.sum_squares(y - p)), [y >= 0, cp.sum(y) == 1]
    ... )
    >>> layer = FollowerLayer(problem, parameters=[p], variables=[y])
    >>> point = torch.tensor([0.2, 0.4], dtype=torch.float64, requires_grad=True)
    >>> (projected,) = layer(point)
    >>> print([round(v, 6) for v in projected.tolist()])
    [0.4, 0.6]
    >>> projected[0].backward()
    >>> print([round(v, 6) for v in point.grad.tolist()])
    [0.5, -0.5]
    """

    def __init__(
        self,
        problem: Follower | cp.Problem,
        parameters: Sequence[Any],
        variables: Sequence[Any],
        solver: str | None = None,
        gp: bool = False,
        verbose: bool = False,
        canon_backend: str | None = None,
        solver_args: Mapping[str, Any] | None = None,
        *,
        adjoint: AbstractAdjoint | None = None,
        backend: str | None = None,
        on_failure: OnFailure = "raise",
    ) -> None:
        super().__init__()
        del canon_backend
        if gp:
            raise UnsupportedProblem(
                "Geometric programs are not supported: write the problem in the logarithms of its "
                "variables, where it is convex."
            )
        if solver is not None:
            backend = _backend_of(solver, backend)
        self._options = read_options(Options(backend, {}, verbose, on_failure), solver_args)
        source = read_source(problem)
        inputs = choose(parameters, source.leaves(), source.who)
        self._program = compile_program(
            source.who, source.objective, source.constraints, source.variables, inputs
        )
        self._outputs = find_outputs(
            self._program, variables, source.constraints, source.multipliers, source.value
        )
        default = Cone() if self._program.cones else KKT()
        self._adjoint = default if adjoint is None else adjoint
        demand_adjoint(self._adjoint, "prepare", "A FollowerLayer", "adjoints.KKT() or Cone()")
        wants_multipliers = any(output.source == "z" for output in self._outputs)
        prepared = self._adjoint.prepare(self._program, with_multipliers=wants_multipliers)
        if self._program.cones and prepared.form is not Form.CONIC:
            raise UnsupportedProblem(
                f"{self._program.who} has cones, but {self._adjoint} goes with the solver of "
                f"{prepared.form.value}; use adjoints.Cone()."
            )
        self._prepared = prepared
        self._make_solver = SOLVERS[prepared.form]
        self._sparse = prepared.form is Form.SPARSE
        self._map = DataMap(self._program, self._sparse)
        self._signs = DeclaredSigns(self._program.inputs)
        self._wants_value = any(output.source == "value" for output in self._outputs)
        # torch.compile cannot trace a cone's solver; keeping it out costs more than a small QP.
        self._is_traced = not self._program.cones
        self._last_active: Any = None

    @property
    def input_names(self) -> tuple[str, ...]:
        """The parameters' names, in the order of the tensors."""
        return tuple(name for name, _, _ in self._program.slots)

    def extra_repr(self) -> str:
        """Return what is printed between the parentheses."""
        return f"parameters=[{', '.join(map(label, self._program.inputs))}], {self._adjoint}"

    def forward(
        self,
        *tensors: Tensor,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool = False,
    ) -> tuple[Tensor, ...]:
        """Return the answers to a batch.

        Parameters
        ----------
        tensors
            One per parameter, each of its shape or with a batch axis in front.
        solver_args
            Options for this call; they go before those of the constructor.
        warm_start
            Begin with the active constraints of the last call, for a batch of the same size.

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
        return self._run(tensors, solver_args, warm_start)[0]

    def solve(
        self,
        *tensors: Tensor,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: bool = False,
    ) -> Result:
        """Return the answers to a batch with a status and a report for every instance.

        Parameters
        ----------
        tensors, solver_args, warm_start
            As for calling the layer.

        Returns
        -------
        Result
            ``values`` are the tensors that the call returns, differentiable alike.

        Examples
        --------
        >>> import cvxpy as cp, torch
        >>> from bilevel.layers import FollowerLayer
        >>> y, p = cp.Variable(), cp.Parameter()
        >>> problem = cp.Problem(cp.Minimize(cp.square(y - p)), [y >= 0])
        >>> layer = FollowerLayer(problem, [p], [y])
        >>> answer = layer.solve(torch.tensor([-1.0, 0.0, 2.0]))
        >>> print([kind.name for kind in answer.report.kind])
        ['CLASSICAL', 'ONE_SIDED', 'CLASSICAL']
        """
        values, rule, solver = self._run(tensors, solver_args, warm_start)
        record = solver.record
        diagnosis = rule.diagnosis
        if record is None or diagnosis is None:
            raise ProblemError(
                f"The rule of {self._adjoint} has no report: its forward must call what it was "
                f"given to solve with, and set self.diagnosis."
            )
        report = Report(
            diagnosis.kinds,
            torch.from_numpy(record.residual),
            torch.from_numpy(diagnosis.margin),
            diagnosis.notes(self._program) | record.notes,
            rule.probe,
        )
        return Result(values, record.status, report)

    def _run(
        self, tensors: Sequence[Any], solver_args: Mapping[str, Any] | None, warm_start: bool
    ) -> tuple[tuple[Tensor, ...], ResponseRule, LayerSolver]:
        program = self._program
        options = read_options(self._options, solver_args) if solver_args else self._options
        batch = gather(program.slots, tensors, _name(program.who))
        data = self._map(self._signs(batch.theta))
        solver = self._make_solver(program, options, self._last_active if warm_start else None)
        rule = self._prepared.make_rule(solver)
        matrices = (data.H, data.q, data.A, data.b)
        call = apply if self._is_traced else partial(compiler_disabled, apply)
        y, z, *_ = call(rule, *matrices)
        if warm_start:
            self._last_active = solver.active
        value = None
        if self._wants_value:
            H = program.H
            square = (
                (data.H * y[:, H.row] * y[:, H.column]).sum(-1, keepdim=True)
                if self._sparse
                else (y * (data.H @ y[..., None])[..., 0]).sum(-1, keepdim=True)
            )
            value = square + (y * data.q).sum(-1, keepdim=True) + data.r
        values = tuple(batch.back(output.read(y, z, value)) for output in self._outputs)
        return values, rule, solver


def _name(who: str) -> str:
    """Return how messages about tensors call the layer."""
    return "The layer" if who == "the layer" else f"The layer of {who}"


def _backend_of(solver: str, backend: str | None) -> str:
    """Return the backend that is named by the old keyword, and warn."""
    if not isinstance(solver, str):
        raise ProblemError(
            f"A FollowerLayer has no solver but the library's own, so solver= takes no "
            f"{type(solver).__name__}; name a backend: backend='clarabel'."
        )
    if backend is not None:
        raise ProblemError(
            f"solver={solver!r} is the old spelling of backend={backend!r}: leave solver= out."
        )
    warnings.warn(
        f"FollowerLayer(solver={solver!r}) is now called backend={solver!r}; the old spelling goes "
        f"with the next release.",
        DeprecationWarning,
        stacklevel=3,
    )
    return solver
