"""Derivatives of a quadratic program's answer by its active optimality conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from bilevel.adjoints.adjoint import AbstractAdjoint, Diagnosis, Form, Prepared, Solve
from bilevel.adjoints.bilevel.adjoint import AbstractBilevelAdjoint, BilevelPrepared
from bilevel.adjoints.bilevel.conditions import Conditions
from bilevel.adjoints.bilevel.total import find_root
from bilevel.adjoints.convex import kernels, saddle
from bilevel.adjoints.convex.barrier import central_ratios
from bilevel.adjoints.convex.degeneracy import is_slack, margin_without
from bilevel.adjoints.convex.sparse import SparseKKTRule
from bilevel.adjoints.function import AbstractRule, is_plain
from bilevel.errors import ProblemError, UnsupportedProblem
from bilevel.problem.functions import Array
from bilevel.problem.parametric import ParametricProgram

Degenerate = Literal["lstsq", "active", "barrier", "raise"]

#: Programs with more columns and rows than that, and few entries, are treated as sparse.
_LARGE = 500
_DENSITY = 0.1


@dataclass(frozen=True)
class QuadraticResponses:
    """Answers to a batch of quadratic programs in dense matrices.

    Parameters
    ----------
    y, z
        Answers and multipliers; where there are none, what the layer returns instead.
    usable
        Where there is an answer, shape ``(B,)``.
    active, weak
        Rows that are active with a multiplier above the tolerance (and equations), and rows that
        are weakly active: at their side with multiplier zero, shape ``(B, m)``.
    margin
        See ``Diagnosis``.
    half
        ``saddle.half(H, q, A)``.
    complete
        Whether there are answers everywhere.
    kinked
        Whether a row is weak anywhere.
    """

    y: Array
    z: Array
    usable: Array
    active: Array
    weak: Array
    margin: Array
    half: saddle.Half
    complete: bool
    kinked: bool


@dataclass(frozen=True)
class KKT(AbstractAdjoint, AbstractBilevelAdjoint):
    r"""Differentiate an answer by the linear system of its active optimality conditions.

        [P   A_J'] [dy]     [dP y + dq + dA' z]
        [A_J  0  ] [dz] = - [dA_J y - db_J    ]

    for ``min y'P y / 2 + q'y`` subject to ``A y <= b`` (or ``== b``), where ``J`` holds the
    equations and the inequalities with a positive multiplier.

    Parameters
    ----------
    degenerate
        What to do where an inequality is active with multiplier zero (the answer has a kink
        there), or where the system is singular (the answer or its multipliers are not unique):

        ``"lstsq"``
            count such inequalities as inactive, take a least-squares solution of the system;
        ``"active"``
            count them as active: the other one-sided derivative;
        ``"barrier"``
            derive the answer smoothed by a vanishing log barrier: for one kink the mean of both;
        ``"raise"``
            refuse.
    tolerance
        A slack or multiplier below it counts as zero, relative, on rows of unit norm.
    sparse
        Whether matrices are factorized as sparse ones; ``None``: if they are large and sparse.

    Notes
    -----
    Exact where the active rows are linearly independent, the multipliers are strict and ``P`` is
    positive definite on the null space of the active rows. ``report.kind`` says for each instance
    whether that holds. Second and higher derivatives are those at a fixed active set.

    References
    ----------
    Fiacco, *Introduction to Sensitivity and Stability Analysis* (1983), theorem 2.1.

    Examples
    --------
    >>> from bilevel import adjoints
    >>> adjoints.KKT(degenerate="barrier").degenerate
    'barrier'
    """

    degenerate: Degenerate = "lstsq"
    tolerance: float = 1e-8
    sparse: bool | None = None

    def __post_init__(self) -> None:
        known = get_args(Degenerate)
        if self.degenerate not in known:
            raise ProblemError(f"degenerate must be one of {known}, not {self.degenerate!r}.")
        if not 0 < self.tolerance < 1:
            raise ProblemError(f"tolerance must lie between 0 and 1, not {self.tolerance!r}.")
        if self.sparse and self.degenerate == "barrier":
            raise ProblemError("degenerate='barrier' needs dense matrices: leave sparse out.")

    def prepare(self, program: ParametricProgram, *, with_multipliers: bool) -> Prepared:
        """See the abstract method; the form is sparse where ``sparse`` or the program says so."""
        if program.cones:
            raise UnsupportedProblem(
                f"{program.who} has cones, whose answers adjoints.KKT cannot differentiate; use "
                f"adjoints.Cone()."
            )
        if self.sparse and program.curved:
            raise UnsupportedProblem(
                f"{program.who} squares a parametric expression, so its matrices are dense; use "
                f"adjoints.KKT(sparse=False)."
            )
        if self.sparse is None:
            is_sparse = _is_sparse(program) and self.degenerate != "barrier"
        else:
            is_sparse = self.sparse
        if is_sparse:
            return Prepared(Form.SPARSE, partial(SparseKKTRule, self, program))
        return Prepared(Form.DENSE, partial(KKTRule, self, program, with_multipliers))

    def prepare_bilevel(self, conditions: Conditions) -> BilevelPrepared:
        """See the abstract method; ``"active"`` and ``"barrier"`` are refused."""
        if self.degenerate not in ("lstsq", "raise"):
            raise ProblemError(
                f"A BilevelLayer takes adjoints.KKT with degenerate 'lstsq' or 'raise', not "
                f"{self.degenerate!r}."
            )
        return BilevelPrepared(partial(find_root, conditions), self.degenerate == "raise")


def _is_sparse(program: ParametricProgram) -> bool:
    """Return whether a program is large enough, and empty enough, for sparse factorizations."""
    total = program.n + program.m
    entries = 2 * len(program.A.row) + 2 * len(program.H.row)
    return total > _LARGE and entries < _DENSITY * total * total and not program.curved


class KKTRule(AbstractRule):
    """The rule of ``KKT``: the map ``(H, q, A, b) -> (y, z)``, ``P = H + H'``.

    Parameters
    ----------
    adjoint
        The policy for degenerate instances, and the tolerance.
    program
        The program, for the number of its equations and the user's columns.
    with_multipliers
        Whether multipliers are asked for, so that they must be unique for a classical derivative.
    solve
        Solves a batch; returns ``QuadraticResponses``.
    """

    what = "a quadratic program's answer"
    differentiable = 2

    def __init__(
        self, adjoint: KKT, program: ParametricProgram, with_multipliers: bool, solve: Solve
    ) -> None:
        self._adjoint = adjoint
        self._solve = solve
        self._program = program
        self._with_multipliers = with_multipliers
        self.diagnosis: Diagnosis | None = None
        self._kept: tuple[Any, ...] | None = None

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See the abstract method."""
        data = tuple(map(saddle.array, inputs))
        adjoint = self._adjoint
        equalities = self._program.equalities
        found = self._solve(*data, tolerance=adjoint.tolerance)
        active = found.active
        weak = found.weak
        smooth = None
        if found.kinked:
            self._excuse(data, found)
        has_kink = adjoint.degenerate in ("active", "barrier") and weak.any()
        if has_kink and adjoint.degenerate == "active":
            active = active | weak
        elif has_kink:
            kinked = weak.any(-1)
            smooth = np.zeros_like(found.z)
            P = data[0] + data[0].swapaxes(1, 2)
            P, q, A, b, y, z = (one[kinked] for one in (P, *data[1:], found.y, found.z))
            active[kinked], smooth[kinked] = central_ratios(P, q, A, b, y, z, equalities)
        factor, singular = saddle.factorize(
            data[0], data[2], active, found.half, found.usable, smooth
        )
        for i in np.flatnonzero(singular):
            none = np.zeros_like(weak[i])
            singular[i] = not self._is_slack(data[0][i], data[2][i], active[i], none)
        y = found.y
        z = found.z
        if not found.complete:
            y = np.nan_to_num(y)
            z = np.nan_to_num(z)
        self._kept = (data[0], data[2], factor, y, z)
        is_exact = found.complete and not singular.any()
        is_exact = is_exact and not (found.kinked and weak.any())
        self.diagnosis = Diagnosis(
            found.usable, weak, singular, found.margin, adjoint.degenerate, is_exact
        )
        if adjoint.degenerate == "raise":
            self.diagnosis.demand_exact()
        results = (torch.from_numpy(found.y), torch.from_numpy(found.z), *factor.tensors())
        device = inputs[0].device
        return results if device.type == "cpu" else tuple(one.to(device) for one in results)

    def backward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        """See the abstract method."""
        if is_plain() and self._kept is not None:
            return self._gradients(self._kept, grads, outputs[0].device)
        H, _, A, _ = inputs
        y, z, *rest = outputs
        y = torch.nan_to_num(y)
        z = torch.nan_to_num(z)
        gy = torch.zeros_like(y) if grads[0] is None else grads[0]
        gz = torch.zeros_like(z) if grads[1] is None else grads[1]
        dy, dz = saddle.solve(H, A, gy, gz, rest)
        gH = -saddle.outer(dy, y)
        return gH + gH.mT, -dy, -saddle.outer(z, dy) - saddle.outer(dz, y), dz

    def _gradients(
        self, kept: tuple[Any, ...], grads: Sequence[Tensor | None], device: torch.device
    ) -> tuple[Tensor, ...]:
        """Return the same from what ``forward`` has kept, by compiled loops."""
        H, A, factor, y, z = kept
        gy, gz = (
            np.zeros_like(one) if grad is None else saddle.array(grad)
            for one, grad in zip((y, z), grads, strict=False)
        )
        dy, dz = factor.solve(H, A, gy, gz)
        parts = (*kernels.gradients(y, z, dy, dz), dz)
        return tuple(torch.from_numpy(part).to(device) for part in parts)

    def _excuse(self, data: tuple[Array, ...], found: QuadraticResponses) -> None:
        """Forget weakly active rows that only bound auxiliary columns which are free to move."""
        H, q, A, b = data
        for i in np.flatnonzero(found.weak.any(-1) & found.usable):
            if self._is_slack(H[i], A[i], found.active[i], found.weak[i]):
                one = (q[i], A[i], b[i], found.y[i], found.z[i], found.weak[i])
                found.margin[i] = margin_without(*one, equalities=self._program.equalities)
                found.weak[i] = False

    def _is_slack(self, H: Array, A: Array, active: Array, weak: Array) -> bool:
        return is_slack(H, A, active, weak, self._program.named, self._with_multipliers)

    def probe(self) -> Tensor:
        """Return the relative residual of the adjoint system for a right-hand side of ones."""
        if self._kept is None:
            raise ProblemError("There is no answer yet.")
        return torch.from_numpy(saddle.probe(*self._kept[:3]))
