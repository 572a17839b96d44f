"""The state of a run: all that decides what comes next, and what a checkpoint therefore holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from bilevel.errors import CheckpointError, ProblemError
from bilevel.learning.batches import Batches
from bilevel.learning.checkpoint import Store, Weights
from bilevel.learning.history import Epoch, FitStatus, best_epoch
from bilevel.learning.plan import Plan
from bilevel.learning.processes import Group


@dataclass
class Position:
    """How far an unfinished epoch has come: steps, sum of losses, samples, seconds."""

    step: int = 0
    total: float = 0.0
    samples: int = 0
    seconds: float = 0.0


class TrainingState:
    """Weights, optimizer, scheduler, position and record of one run.

    Parameters
    ----------
    plan
        What is asked for.
    group
        The first process writes checkpoints, all read them.
    data, held_out
        Their generators are part of the state.
    """

    def __init__(self, plan: Plan, group: Group, data: Batches, held_out: Batches) -> None:
        self._plan = plan
        self._group = group
        self.model = plan.model
        self.optimizer = plan.make_optimizer()
        self._generators = list({id(g): g for b in (data, held_out) for g in b.generators}.values())
        settings = plan.settings(self.optimizer) | {
            "training samples": data.samples,
            "validation samples": None if plan.validation is None else held_out.samples,
            "batch_size": data.batch_size,
            "steps per epoch": data.steps,
            "generators of data loaders": len(self._generators),
            "processes": group.size,
        }
        self.scheduler = plan.make_scheduler(self.optimizer)
        settings |= plan.scheduler_settings(self.scheduler)
        self._store = Store(plan.checkpoint, settings) if plan.checkpoint else None
        self.epochs: list[Epoch] = []
        self.position = Position()
        self.failure = ""
        self.kept_epoch, self._kept = 0, self._weights()
        self._drawn = self._random_states()
        self._begin()

    # --------------------------------------------------------------------------- where it is

    @property
    def best(self) -> int | None:
        """Number of the best epoch."""
        curve = tuple(epoch.values()[self._plan.monitor] for epoch in self.epochs)
        return best_epoch(curve, self._plan.maximize)

    @property
    def steps(self) -> int:
        """How many updates there were."""
        return (self.epochs[-1].steps if self.epochs else 0) + self.position.step

    def ended(self) -> FitStatus | None:
        """Return how the run ended, or ``None`` while there is more to do."""
        done = len(self.epochs)
        patience = self._plan.patience
        if self.failure:
            return FitStatus.NOT_FINITE
        if done >= self._plan.epochs:
            return FitStatus.COMPLETED
        is_stale = patience is not None and done - (self.best or 0) >= patience
        return FitStatus.STOPPED_EARLY if is_stale else None

    # --------------------------------------------------------------------------- what happens

    def open_epoch(self) -> None:
        """Note where generators are, from which the epoch's order is drawn again."""
        if not self.position.step:
            self._drawn = self._random_states()

    def close_epoch(self, epoch: Epoch) -> None:
        """Take up a finished epoch."""
        self.epochs.append(epoch)
        self.position = Position()
        if self.scheduler and self._plan.scheduler_interval == "epoch":
            watches = isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
            self.scheduler.step(*[epoch.values()[self._plan.monitor]] if watches else [])
        if self._plan.patience is None or self.best == epoch.number:
            self.kept_epoch, self._kept = epoch.number, self._weights()
        self._drawn = self._random_states()
        self.save()

    def fail(self, reason: str) -> None:
        """Go back to the weights that were kept, for good."""
        self.go_back()
        self.position = Position()
        self.failure = reason
        self.save()

    def go_back(self) -> None:
        """Give the model the weights that were kept."""
        self.model.load_state_dict(self._kept)

    # --------------------------------------------------------------------------- checkpoints

    def is_due(self) -> bool:
        """Return whether to save in the middle of an epoch."""
        return self._store is not None and self._store.is_due(self.steps)

    def save(self) -> None:
        """Write a checkpoint, if one is wanted and this is the first process."""
        if self._store is None or self._group.rank:
            return
        is_same = self.failure or (self.kept_epoch == len(self.epochs) and not self.position.step)
        state = {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "generators": self._drawn,
        }
        notes = {
            "steps": self.steps,
            "position": asdict(self.position),
            "kept": self.kept_epoch,
            "failure": self.failure,
            "epochs": [vars(epoch) | {"metrics": dict(epoch.metrics)} for epoch in self.epochs],
        }
        self._store.write(self._weights(), None if is_same else self._kept, state, notes)

    def _begin(self) -> None:
        """Take up what was saved, or save the beginning."""
        self._group.wait()  # the first process may still be writing, for a run that ended early
        saved = self._store.read() if self._store and self._plan.resume else None
        place = -1 if saved is None else saved[3]["steps"]
        # Nobody writes before all have read.
        if self._group.any(self._group.mean(place) != place):
            raise CheckpointError(
                f"The processes read different states from {self._plan.checkpoint}. All of them "
                f"must see the same folder."
            )
        if saved is None:
            if self._store and not self._group.rank:
                self._store.clear()
            self.save()
            return
        weights, kept, state, notes = saved
        self.model.load_state_dict(weights)
        self._kept = self._weights() if kept is None else kept
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler:
            self.scheduler.load_state_dict(state["scheduler"])
        self._drawn = state["generators"]
        for generator, drawn in zip(self._generators, self._drawn, strict=True):
            generator.set_state(drawn)
        self.position = Position(**notes["position"])
        self.epochs = [Epoch(**epoch) for epoch in notes["epochs"]]
        self.kept_epoch = notes["kept"]
        self.failure = notes["failure"]

    def _weights(self) -> Weights:
        """Return a copy of the model's parameters and buffers, each with memory of its own."""
        weights = self.model.state_dict()
        odd = [name for name, value in weights.items() if not isinstance(value, Tensor)]
        if odd:
            raise ProblemError(
                f"The model's state holds {odd}, which are no tensors, so that its weights cannot "
                f"be kept; leave get_extra_state out."
            )
        return {
            name: w.detach().clone(memory_format=torch.contiguous_format)
            for name, w in weights.items()
        }

    def _random_states(self) -> list[Any]:
        return [generator.get_state() for generator in self._generators]
