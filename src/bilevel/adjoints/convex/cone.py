"""Derivatives of a cone program's answer by the residual map of its optimality conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from scipy.linalg import null_space
from torch import Tensor

from bilevel.adjoints.adjoint import AbstractAdjoint, Diagnosis, Form, Prepared, Solve
from bilevel.adjoints.convex.degeneracy import is_free
from bilevel.adjoints.convex.projections import derivative, distance_to_kink, orders
from bilevel.adjoints.convex.saddle import outer
from bilevel.adjoints.function import AbstractRule, apply
from bilevel.errors import ProblemError
from bilevel.problem.functions import Array
from bilevel.problem.parametric import ParametricProgram

ConeDegenerate = Literal["lstsq", "raise"]

_SINGULAR = 1e-11


@dataclass(frozen=True)
class ConicResponses:
    """Answers to a batch of cone programs.

    Parameters
    ----------
    y, z
        Answers and multipliers; where there are none, what the layer returns instead.
    v
        ``z - s``, of which ``z`` is the projection onto the dual cone, shape ``(B, m)``.
    usable
        Where there is an answer, shape ``(B,)``.
    """

    y: Array
    z: Array
    v: Array
    usable: Array


@dataclass(frozen=True)
class Cone(AbstractAdjoint):
    r"""Differentiate an answer as the root of the residual map of a cone program.

        N(y, v) = [P y + q + A' Pi(v);  A y + Pi(v) - v - b]

    for ``min y'P y / 2 + q'y`` subject to ``A y + s = b``, ``s`` in ``K``, where ``Pi`` projects
    onto the dual cone of ``K``, ``z = Pi(v)`` is the multiplier and ``s = z - v`` the slack.

    Parameters
    ----------
    degenerate
        What to do at a kink of ``Pi`` or where the Jacobian of ``N`` is singular: ``"lstsq"`` takes
        the derivative of one side, and a least-squares solution; ``"raise"`` refuses.
    tolerance
        A kink nearer than that counts as met, relative to the size of ``v``.

    Notes
    -----
    The homogeneous variable of the self-dual embedding is kept at one; with it the Jacobian would
    always be singular. Answers are polished by Newton's method on ``N`` until its residual is at
    rounding level, because a derivative is only right at an answer. Second derivatives exist for
    second-order cones; for exponential and semidefinite ones asking for them raises
    ``UnsupportedDerivative``.

    References
    ----------
    Busseti, Moursi and Boyd, *Solution Refinement at Regular Points of Conic Problems* (2019);
    Agrawal et al., *Differentiating Through a Cone Program* (2019).

    Examples
    --------
    >>> from bilevel import adjoints
    >>> adjoints.Cone().degenerate
    'lstsq'
    """

    degenerate: ConeDegenerate = "lstsq"
    tolerance: float = 1e-8

    def __post_init__(self) -> None:
        known = get_args(ConeDegenerate)
        if self.degenerate not in known:
            raise ProblemError(f"degenerate must be one of {known}, not {self.degenerate!r}.")
        if not 0 < self.tolerance < 1:
            raise ProblemError(f"tolerance must lie between 0 and 1, not {self.tolerance!r}.")

    def prepare(self, program: ParametricProgram, *, with_multipliers: bool) -> Prepared:
        """See the abstract method."""
        return Prepared(Form.CONIC, partial(ConeRule, self, program, with_multipliers))


class ConeRule(AbstractRule):
    """The rule of ``Cone``: the map ``(H, q, A, b) -> (y, z, v, ...)``, ``P = H + H'``.

    Parameters
    ----------
    adjoint
        The policy for degenerate instances, and the tolerance.
    program
        The program, for its cones.
    with_multipliers
        Whether multipliers are asked for, so that they must be unique for a classical derivative.
    solve
        Solves a batch; returns ``ConicResponses``.
    """

    what = "the answer of a program with exponential or semidefinite cones"
    differentiable = 3

    def __init__(
        self, adjoint: Cone, program: ParametricProgram, with_multipliers: bool, solve: Solve
    ) -> None:
        self._adjoint = adjoint
        self._solve = solve
        self._program = program
        self._with_multipliers = with_multipliers
        self.order = orders(program.cones)
        self.diagnosis: Diagnosis | None = None
        self._probe: tuple[Tensor, Tensor] | None = None
        self._complete = True

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See the abstract method."""
        H, q, A, b = (one.detach().cpu() for one in inputs)
        adjoint = self._adjoint
        found = self._solve(*(one.numpy() for one in (H, q, A, b)), tolerance=adjoint.tolerance)
        usable = found.usable
        clean = torch.from_numpy(np.nan_to_num(found.v))
        D = derivative(clean, self._program)
        J = jacobian(H + H.mT, A, D)
        inverse, singular = _invert(J.numpy(), usable)
        for i in np.flatnonzero(singular):
            singular[i] = not self._is_slack(J[i].numpy(), D[i].numpy())
        distance = distance_to_kink(clean, self._program).numpy()
        margin = distance / (1 + abs(clean.numpy()).max(-1, initial=0.0))
        weak = (margin < adjoint.tolerance)[:, None] & usable[:, None]
        margin = np.where(usable, margin, np.nan)
        is_exact = not (weak.any() or singular.any()) and bool(usable.all())
        self.diagnosis = Diagnosis(usable, weak, singular, margin, adjoint.degenerate, is_exact)
        if adjoint.degenerate == "raise":
            self.diagnosis.demand_exact()
        self._probe = (J, inverse)
        self._complete = bool(usable.all())
        answers = tuple(map(torch.from_numpy, (found.y, found.z, found.v)))
        results = (*answers, inverse, D)
        return tuple(one.to(inputs[0].device) for one in results)

    def backward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        """See the abstract method."""
        H, _, A, _ = inputs
        y, z, v, inverse, D = outputs
        if not self._complete:
            y, z, v = (torch.nan_to_num(one) for one in (y, z, v))
        if self.order is None:
            D = derivative(v, self._program)
        gy = torch.zeros_like(y) if grads[0] is None else grads[0]
        gv = torch.zeros_like(v) if grads[2] is None else grads[2]
        if grads[1] is not None:
            gv = gv + (D @ grads[1][..., None])[..., 0]
        J = jacobian(H + H.mT, A, D)
        (r,) = apply(LinearSolveRule(), J.mT, torch.cat([gy, gv], -1), inverse.mT)
        r1 = r[..., : y.shape[-1]]
        r2 = r[..., y.shape[-1] :]
        gH = -outer(r1, y)
        return gH + gH.mT, -r1, -outer(z, r1) - outer(r2, y), r2

    def _is_slack(self, J: Array, D: Array) -> bool:
        """Return whether what the Jacobian leaves free is nothing that is asked for."""
        n = self._program.n
        free = null_space(J, rcond=1e-10)
        moved = D @ free[n:] if self._with_multipliers else free[:0]
        return is_free(free, self._program.named) and abs(moved).max(initial=0.0) <= 1e-7

    def probe(self) -> Tensor:
        """Return the relative residual of the adjoint system for a right-hand side of ones."""
        if self._probe is None:
            raise ProblemError("There is no answer yet.")
        J, inverse = self._probe
        return (J.mT @ inverse.mT.sum(-1, keepdim=True) - 1).abs().amax((-1, -2))


class LinearSolveRule(AbstractRule):
    """``x = J^-1 g`` for a known inverse; differentiable in ``J`` and ``g`` to any order."""

    what = "a linear solve"

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See the abstract method."""
        J, g, inverse = inputs
        x = inverse @ g[..., None]
        return ((x + inverse @ (g[..., None] - J @ x))[..., 0],)

    def backward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        """See the abstract method."""
        J, _, inverse = inputs
        (x,), (h,) = outputs, grads
        h = torch.zeros_like(x) if h is None else h
        (w,) = apply(LinearSolveRule(), J.mT, h, inverse.mT)
        return -w[..., :, None] * x[..., None, :], w, None


def jacobian(P: Tensor, A: Tensor, D: Tensor) -> Tensor:
    """Return the Jacobian of the residual map, shape ``(B, n + m, n + m)``."""
    unit = torch.eye(D.shape[-1], dtype=D.dtype, device=D.device)
    return torch.cat([torch.cat([P, A.mT @ D], -1), torch.cat([A, D - unit], -1)], -2)


def residual(P: Tensor, q: Tensor, A: Tensor, b: Tensor, y: Tensor, v: Tensor, z: Tensor) -> Tensor:
    """Return the residual map, shape ``(B, n + m)``."""
    top = (P @ y[..., None] + A.mT @ z[..., None])[..., 0] + q
    return torch.cat([top, (A @ y[..., None])[..., 0] + z - v - b], -1)


def _invert(J: Array, usable: Array) -> tuple[Tensor, Array]:
    """Return inverses, or pseudo-inverses and True where the matrix is singular."""
    unit = np.eye(J.shape[-1])
    J = np.where((usable & np.isfinite(J).all((1, 2)))[:, None, None], J, unit)
    inverse, info = (one.numpy() for one in torch.linalg.inv_ex(torch.from_numpy(J)))
    inverse[~np.isfinite(inverse).all((1, 2))] = 0.0  # LAPACK's answer to an exactly singular one
    size = abs(J).max((1, 2)) * abs(inverse).max((1, 2))
    bad = (info > 0) | ~(abs(J @ inverse - unit).max((1, 2)) < 1e-8) | ~(size < 1 / _SINGULAR)
    if bad.any():
        inverse[bad] = np.linalg.pinv(J[bad], rcond=_SINGULAR)
    inverse[~usable] = 0.0
    return torch.from_numpy(inverse), bad & usable
