"""The loop: steps, epochs and evaluation."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from bilevel.errors import BilevelWarning, ProblemError
from bilevel.learning.batches import Batches, call, moved, samples_of
from bilevel.learning.history import Epoch, FitStatus, History
from bilevel.learning.plan import Plan
from bilevel.learning.processes import Group, Interrupt, reseed
from bilevel.learning.reports import bar, logging
from bilevel.learning.state import TrainingState

# Names the random stream of an evaluation; those of the steps are numbered from 0.
_EVALUATION = 1 << 31


class NotFinite(Exception):
    """A loss, a gradient or a weight is NaN or infinite; never leaves this module."""


class Objective(torch.nn.Module):
    """The loss as a module, so that what it does with the model is up to it.

    Parameters
    ----------
    model
        Trained.
    loss
        A function of the model and of a batch.
    """

    def __init__(self, model: torch.nn.Module, loss: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, *batch: Any, **named: Any) -> Tensor:
        """Return the loss of a batch."""
        value = self.loss(self.model, *batch, **named)
        if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
            what = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ProblemError(f"The loss must be a real tensor with one number; it is {what}.")
        if self.training and not value.requires_grad:
            raise ProblemError("The loss depends on no parameter of the model that is trained.")
        return value.reshape(())


class Trainer:
    """One run.

    Parameters
    ----------
    plan
        What is asked for.
    group
        The processes that take part.
    interrupt
        Whether a person asked to stop.
    """

    def __init__(self, plan: Plan, group: Group, interrupt: Interrupt) -> None:
        self._plan = plan
        self._group = group
        self._interrupt = interrupt
        plan.model.to(group.device)
        has_validation = plan.validation is not None
        order = int(np.random.SeedSequence(plan.seed).generate_state(1)[0])
        self._data = Batches(plan.data, plan.batch_size, group, order, True, "training data")
        self._held_out = Batches(
            plan.validation if has_validation else plan.data,
            plan.batch_size,
            group,
            order,
            False,
            "validation data" if has_validation else "training data",
        )
        self._state = TrainingState(plan, group, self._data, self._held_out)
        self._names = {id(p): name for name, p in plan.model.named_parameters()}
        objective = Objective(plan.model, plan.loss)
        # A loss need not use every parameter in every batch.
        self._objective = (
            DistributedDataParallel(objective, find_unused_parameters=True)
            if group.size > 1
            else objective
        )

    def run(self) -> History:
        """Train until the plan is fulfilled, and return how it went."""
        state = self._state
        plan = self._plan
        first = self._group.rank == 0
        log = logging(plan.log if first else None, state.epochs)
        shown = bar(first and plan.progress, plan.epochs, self._data.steps, state.steps)
        status = state.ended()
        with log as write, shown as move:
            while status is None:
                try:
                    is_whole = self._epoch(move)
                except NotFinite as reason:
                    state.fail(str(reason))
                    is_whole = False
                if is_whole:
                    write(state.epochs[-1])
                stops = self._group.any(self._interrupt.asked)
                status = state.ended() or (FitStatus.INTERRUPTED if stops else None)
        state.optimizer.zero_grad()
        return self._history(status)

    def _epoch(self, move: Callable[[int, dict[str, float]], None]) -> bool:
        """Train one epoch, or what is left of it; return whether it came to its end."""
        state = self._state
        here = self._state.position
        number = len(state.epochs) + 1
        began = time.perf_counter()
        before = here.seconds
        last = state.epochs[-1].values() if state.epochs else {}
        seeded = partial(reseed, self._plan.seed, self._group.rank, number)
        state.open_epoch()
        self._objective.train()
        for batch in self._data.epoch(number, here.step, seeded):
            here.seconds = before + time.perf_counter() - began
            # Only here, where another batch follows: a resumed epoch has at least one step.
            if here.step and self._saves_and_stops():
                return False
            value = self._step(moved(batch, self._group.device), number)
            count = samples_of(batch)
            here.step = here.step + 1
            here.samples = here.samples + count
            here.total += value * count
            if state.scheduler and self._plan.scheduler_interval == "step":
                state.scheduler.step()
            move(number, {**last, "loss": value})
        if not here.samples:
            raise ProblemError("The training data are empty; give at least one sample.")
        rate = float(state.optimizer.param_groups[0]["lr"])
        validation, metrics = self._evaluate(number)
        if not all(bool(_is_finite(p)) for p in self._plan.model.parameters()):
            raise NotFinite(f"A weight is not finite after epoch {number}")
        seconds = before + time.perf_counter() - began
        mean = here.total / here.samples
        epoch = Epoch(number, state.steps, mean, validation, metrics, rate, seconds)
        state.close_epoch(epoch)
        return True

    def _saves_and_stops(self) -> bool:
        stops = self._group.any(self._interrupt.asked)
        if stops or self._state.is_due():
            self._state.save()
        return stops

    def _step(self, batch: Any, number: int) -> float:
        """Update the weights once, unless something is not finite; return the loss."""
        optimizer = self._state.optimizer
        where = f"in epoch {number}, step {self._state.position.step + 1}"

        def closure() -> float:
            optimizer.zero_grad()
            loss = call(self._objective, batch)
            value = self._group.mean(loss.item())
            if not math.isfinite(value):
                raise NotFinite(f"The loss is {value} {where}")
            loss.backward()
            self._check_gradients(where)
            return value

        return float(optimizer.step(closure))

    def _check_gradients(self, where: str) -> None:
        groups = self._state.optimizer.param_groups
        reached = [p for group in groups for p in group["params"] if p.grad is not None]
        if not reached:
            raise ProblemError("The loss depends on no parameter that the optimizer trains.")
        finite = torch.stack([_is_finite(p.grad) for p in reached])
        if not finite.all():
            name = self._names[id(reached[int(finite.int().argmin())])]
            raise NotFinite(f"The gradient of {name} is not finite {where}")
        if self._plan.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(reached, self._plan.max_grad_norm)

    def _evaluate(self, number: int) -> tuple[float | None, dict[str, float]]:
        """Return the validation loss and all metrics after an epoch."""
        model = self._plan.model
        functions = dict(self._plan.metrics)
        if self._plan.validation is not None:
            functions["validation"] = self._plan.loss
        if not functions:
            return None, {}
        self._objective.eval()
        samples = 0
        sums = dict.fromkeys(functions, 0.0)
        seeded = partial(reseed, self._plan.seed, self._group.rank, number, _EVALUATION)
        with torch.no_grad():
            for batch in self._held_out.epoch(number, 0, seeded):
                here = moved(batch, self._group.device)
                count = samples_of(batch)
                samples += count
                for name, function in functions.items():
                    sums[name] += float(call(function, here, model)) * count
        samples, *totals = self._group.total([samples, *sums.values()])
        if not samples:
            raise ProblemError("The validation data are empty; give at least one sample.")
        means = {name: total / samples for name, total in zip(functions, totals, strict=True)}
        validation = means.pop("validation", None)
        if validation is not None and not math.isfinite(validation):
            raise NotFinite(f"The validation loss is {validation} after epoch {number}")
        return validation, means

    def _history(self, status: FitStatus) -> History:
        state = self._state
        note = ""
        weights: int | None = None if state.position.step else len(state.epochs)
        if status is FitStatus.NOT_FINITE:
            weights = state.kept_epoch
            origin = f"of the end of epoch {weights}" if weights else "from before training"
            note = (
                f"{state.failure}. The model has the weights {origin} again. Try a smaller "
                f"learning rate or max_grad_norm; a checkpoint needs resume=False then."
            )
            warnings.warn(f"Training stopped: {note}", BilevelWarning, stacklevel=4)
        elif self._plan.patience is not None and status is not FitStatus.INTERRUPTED:
            state.go_back()
            weights = state.kept_epoch
        return History(status, tuple(state.epochs), self._plan.monitor, state.best, weights, note)


def _is_finite(tensor: Any) -> Tensor:
    """Return whether all entries are finite, still on the device."""
    values = tensor.coalesce().values() if tensor.is_sparse else tensor
    return values.detach().isfinite().all()
