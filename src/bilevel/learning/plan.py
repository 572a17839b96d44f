"""What one call of ``fit`` asks for, checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from bilevel.errors import ProblemError
from bilevel.learning.checkpoint import Checkpoint
from bilevel.learning.history import CURVES


@dataclass(frozen=True)
class Plan:
    """The arguments of ``fit``, by their names there.

    Raises
    ------
    ProblemError
        If one of them is malformed.
    """

    model: torch.nn.Module
    loss: Callable[..., Any]
    data: Any
    validation: Any
    optimizer: Any
    scheduler: Any
    scheduler_interval: str
    epochs: int
    batch_size: int
    metrics: Mapping[str, Callable[..., Any]]
    monitor: str
    maximize: bool
    patience: int | None
    max_grad_norm: float | None
    checkpoint: Checkpoint | None
    resume: bool
    seed: int
    log: str | Path | None
    progress: bool | Sequence[str]

    def __post_init__(self) -> None:
        counts = {"epochs": self.epochs, "batch_size": self.batch_size, "patience": self.patience}
        for name, count in counts.items():
            if name == "patience" and count is None:
                continue
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ProblemError(f"fit({name}={count!r}): it must be a positive integer.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ProblemError(f"fit(seed={self.seed!r}): it must be an integer, at least 0.")
        norm = self.max_grad_norm
        if norm is not None and not (norm > 0 and math.isfinite(norm)):
            raise ProblemError(f"fit(max_grad_norm={norm}): it must be positive and finite.")
        if self.scheduler_interval not in ("epoch", "step"):
            raise ProblemError(
                f"fit(scheduler_interval={self.scheduler_interval!r}): it is 'epoch' or 'step'."
            )
        self._check_callables()
        self._check_curves()
        if not any(p.requires_grad for p in self.model.parameters()):
            raise ProblemError("The model has no parameter that requires a gradient.")

    def _check_callables(self) -> None:
        if not isinstance(self.model, torch.nn.Module):
            raise ProblemError(
                f"The model is a {type(self.model).__name__}; give a torch.nn.Module."
            )
        for name, function in {"the loss": self.loss, **self.metrics}.items():
            if not callable(function):
                raise ProblemError(
                    f"fit: {name} is a {type(function).__name__}; give a function of the model and "
                    f"of a batch."
                )

    def _check_curves(self) -> None:
        taken = [name for name in self.metrics if name in (*CURVES, "epoch", "steps")]
        if taken:
            raise ProblemError(
                f"Metrics named {taken} would hide curves of that name; rename them."
            )
        known = ["loss", *(["validation"] if self.validation is not None else []), *self.metrics]
        if self.monitor not in known:
            raise ProblemError(f"fit(monitor={self.monitor!r}): the curves here are {known}.")

    def make_optimizer(self) -> Optimizer:
        """Return the optimizer of the model's parameters.

        Raises
        ------
        ProblemError
            If it is none, or holds tensors that are not the model's.
        """
        given = self.optimizer
        trained = [p for p in self.model.parameters() if p.requires_grad]
        found = given if isinstance(given, Optimizer) else given(trained)
        if not isinstance(found, Optimizer):
            raise ProblemError(
                f"fit: the optimizer is a {type(found).__name__}; give a torch optimizer, or a "
                f"function that takes the parameters and returns one."
            )
        mine = {id(p) for p in self.model.parameters()}
        if any(id(p) not in mine for group in found.param_groups for p in group["params"]):
            raise ProblemError(
                "The optimizer holds a tensor that is no parameter of the model, so that no "
                "checkpoint would hold it; make it a torch.nn.Parameter of the model."
            )
        return found

    def make_scheduler(self, optimizer: Optimizer) -> Any:
        """Return the scheduler of the learning rate, or ``None``."""
        given = self.scheduler
        if given is None:
            return None
        found = given if isinstance(given, LRScheduler) else given(optimizer)
        if not isinstance(found, LRScheduler):
            raise ProblemError(
                f"fit: the scheduler is a {type(found).__name__}; give one of "
                f"torch.optim.lr_scheduler, or a function that takes the optimizer."
            )
        if found.optimizer is not optimizer:
            raise ProblemError("fit: the scheduler belongs to another optimizer.")
        if self.scheduler_interval == "step" and isinstance(found, ReduceLROnPlateau):
            raise ProblemError("ReduceLROnPlateau looks at epochs: scheduler_interval='epoch'.")
        return found

    def settings(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return what decides the course of training, by name, for comparing two runs."""
        found: dict[str, Any] = {
            "seed": self.seed,
            "metrics": sorted(self.metrics),
            "monitor": f"{'largest' if self.maximize else 'smallest'} {self.monitor}",
            "best weights are kept": self.patience is not None,
            "max_grad_norm": self.max_grad_norm,
            "optimizer": type(optimizer).__name__,
        }
        for i, group in enumerate(optimizer.param_groups):
            for name, value in group.items():
                if name not in ("params", "initial_lr"):
                    # What the optimizer began with, whatever a scheduler has made of it since.
                    value = group.get("initial_lr", value) if name == "lr" else value
                    found[f"optimizer group {i}, {name}"] = _plain(value)
            found[f"optimizer group {i}, number of parameters"] = len(group["params"])
        for name, tensor in self.model.state_dict().items():
            found[f"model, {name}"] = _described(tensor)
        for name, parameter in self.model.named_parameters():
            found[f"model, {name}"] = f"{_described(parameter)}, trained: {parameter.requires_grad}"
        return found

    def scheduler_settings(self, scheduler: Any) -> dict[str, Any]:
        """Return the same of the scheduler; what one given as an object began with is unknown."""
        if scheduler is None:
            return {"scheduler": None}
        is_new = scheduler is not self.scheduler
        begins = scheduler.state_dict() if is_new else {}
        return {
            "scheduler": type(scheduler).__name__,
            "scheduler_interval": self.scheduler_interval,
            **{f"scheduler, {k}": v for k, v in begins.items() if not k.startswith("_")},
        }


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, torch.Tensor) else value


def _described(tensor: Any) -> str:
    if not isinstance(tensor, torch.Tensor):
        return type(tensor).__name__
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
