"""The rule of a bilevel layer: every instance is solved, and its derivative's system kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bilevel.adjoints import GradientKind
from bilevel.adjoints.bilevel.adjoint import BilevelDerivative, BilevelPrepared
from bilevel.adjoints.function import AbstractRule
from bilevel.errors import BatchFailed, BilevelError, UnsupportedDerivative
from bilevel.layers.bilevel_model import Model
from bilevel.layers.options import OnFailure
from bilevel.layers.result import Record
from bilevel.problem.functions import Array
from bilevel.problem.scaling import Scaling
from bilevel.response.best_response import best_response
from bilevel.solvers.compiled import certified
from bilevel.solvers.solver import AbstractSolver, Request
from bilevel.status import Status


def _without_point(status: Status) -> Status:
    """Return a status that claims no point."""
    return Status.FAILED if status.has_point else status


@dataclass(frozen=True)
class Ways:
    """How instances are solved and what happens to those without an answer.

    Parameters
    ----------
    solver
        A solver of the library, or ``None``.
    time_limit
        Seconds for each instance, or ``None``.
    on_failure
        ``"raise"``, ``"nan"`` or ``"zero"``.
    prepared
        How answers are differentiated.
    """

    solver: AbstractSolver | None
    time_limit: float | None
    on_failure: OnFailure
    prepared: BilevelPrepared


class Equilibrium(AbstractRule):
    """Solves every instance, and keeps the system that gives its derivative."""

    order = 1
    what = "a bilevel problem's answer"

    def __init__(
        self, model: Model, ways: Ways, start: Sequence[Array | None] | None = None
    ) -> None:
        self._model = model
        self._ways = ways
        self._start = start
        self.roots: list[BilevelDerivative | None] = []
        self.record = Record((), np.zeros(0), {})

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See the abstract method."""
        theta = inputs[0].numpy(force=True)
        model = self._model
        ways = self._ways
        status = []
        notes = {}
        for i, row in enumerate(theta):
            start = None if self._start is None else self._start[i]
            root, one, note = self.answer_one(row, start)
            self.roots.append(root)
            status.append(one if root is not None else _without_point(one))
            if note:
                notes[i] = note
        residual = np.array([np.nan if root is None else root.residual for root in self.roots])
        self.record = Record(tuple(status), residual, notes)
        if ways.on_failure == "raise" and None in self.roots:
            raise BatchFailed("the layer", tuple(status), notes)
        if ways.prepared.demands_exact:
            self._demand_exact()
        fill = 0.0 if ways.on_failure == "zero" else np.nan
        w = np.full((len(theta), model.n), fill)
        lam = np.full((len(theta), model.m), fill)
        for i, root in enumerate(self.roots):
            if root is not None:
                w[i] = root.w
                lam[i] = np.concatenate([np.empty(0), *root.lam])
        return tuple(torch.from_numpy(part).to(inputs[0].device) for part in (w, lam))

    def backward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        """See the abstract method."""
        if torch._C._are_functorch_transforms_active():
            raise UnsupportedDerivative(
                "torch.func cannot transform the derivative of a BilevelLayer; use "
                "tensor.backward(), torch.autograd.grad or torch.autograd.functional.jacobian."
            )
        sizes = [len(rows) for rows in self._model.conditions.rows]
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
        found = [np.nan if root is None else root.probe() for root in self.roots]
        return torch.tensor(found, dtype=torch.float64)

    def _demand_exact(self) -> None:
        kinds = self.kinds(False)
        flagged = [i for i, kind in enumerate(kinds) if not kind.is_exact and self.roots[i]]
        if flagged:
            raise UnsupportedDerivative(
                f"{len(flagged)} of {len(kinds)} instances have no derivative in the usual sense "
                f"(instance {flagged[0]}: {kinds[flagged[0]].value})."
            )

    def answer_one(
        self, theta: Array, start: Array | None
    ) -> tuple[BilevelDerivative | None, Status, str]:
        """Solve one instance and return its active conditions, the status and a note."""
        model = self._model
        try:
            form = model.problem.compile(model.given(theta))
            request = Request(time_limit=self._ways.time_limit, start=start, rtol=1e-8)
            solution, outcome = certified(model.problem, form, self._ways.solver, request)
            if not solution.status.has_point or outcome.w is None:
                return None, solution.status, solution.stats.note
            w = outcome.w
            scaling = Scaling.of(form)
            cones = [
                scaling.multipliers(
                    k,
                    np.concatenate(
                        [
                            np.zeros(len(f.rows)),
                            *best_response(scaling.form, k, scaling.inside(w)).cone_multipliers,
                        ]
                    ),
                )[len(f.rows) :]
                for k, f in enumerate(form.followers)
            ]
            root = self._ways.prepared.find(w, torch.from_numpy(theta), cones)
        except BilevelError as error:
            return None, Status.FAILED, str(error)
        return root, solution.status, "; ".join(root.notes)
