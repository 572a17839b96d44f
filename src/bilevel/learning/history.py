"""Learning curves: what a training run has measured, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from bilevel.errors import ProblemError

#: Curves that every run may have; metrics have other names.
CURVES = ("loss", "validation", "learning_rate", "seconds")


class FitStatus(Enum):
    """How a training run ended.

    Examples
    --------
    >>> from bilevel.learning import FitStatus
    >>> FitStatus.STOPPED_EARLY.value
    'the watched curve no longer improved'
    """

    COMPLETED = "all epochs were trained"
    STOPPED_EARLY = "the watched curve no longer improved"
    INTERRUPTED = "interrupted by Ctrl-C; a checkpoint, if asked for, holds the state"
    NOT_FINITE = "something was not finite; the last good weights were restored"


@dataclass(frozen=True)
class Epoch:
    """What one epoch measured.

    Parameters
    ----------
    number
        Counted from 1.
    steps
        Updates of the weights since training began.
    loss
        Mean over the training data, each batch at the weights before its update.
    validation
        Mean loss over the validation data after the epoch; ``None`` without such data.
    metrics
        Means over the validation data, or over the training data without such, after the epoch.
    learning_rate
        Of the optimizer's first group, during the epoch (at its end, if it changes with each step).
    seconds
        Wall time, evaluation included.

    Examples
    --------
    >>> from bilevel.learning import Epoch
    >>> Epoch(1, 4, 0.5, None, {"error": 0.1}, 0.01, 2.0).values()["error"]
    0.1
    """

    number: int
    steps: int
    loss: float
    validation: float | None
    metrics: Mapping[str, float]
    learning_rate: float
    seconds: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", MappingProxyType(dict(self.metrics)))

    def values(self) -> dict[str, float]:
        """Return the epoch's point on every curve, by the curve's name."""
        validation = {} if self.validation is None else {"validation": self.validation}
        tail = {"learning_rate": self.learning_rate, "seconds": self.seconds}
        return {"loss": self.loss, **validation, **self.metrics, **tail}


@dataclass(frozen=True)
class History:
    """How a training run went.

    Parameters
    ----------
    status
        How it ended.
    epochs
        One record for each whole epoch, those before a resumption included.
    monitor
        The curve that was watched.
    best
        Number of the epoch with the best point on that curve; ``None`` if there is none.
    weights
        Number of the epoch after which the model had the weights it has now: 0 means as they were
        given, ``None`` that they stem from the middle of an epoch.
    note
        What else is to be said: which loss or gradient was not finite, and where.

    Examples
    --------
    >>> from bilevel.learning import Epoch, FitStatus, History
    >>> epochs = (
    ...     Epoch(1, 4, 2.0, None, {}, 0.1, 1.0),
    ...     Epoch(2, 8, 1.5, None, {}, 0.1, 1.0),
    ... )
    >>> history = History(FitStatus.COMPLETED, epochs, "loss", best=2, weights=2)
    >>> history.curve("loss")
    (2.0, 1.5)
    """

    status: FitStatus
    epochs: tuple[Epoch, ...]
    monitor: str
    best: int | None = None
    weights: int | None = None
    note: str = field(default="")

    def curve(self, name: str) -> tuple[float, ...]:
        """Return a learning curve, one number per epoch.

        Parameters
        ----------
        name
            ``"loss"``, ``"validation"``, ``"learning_rate"``, ``"seconds"`` or a metric's name.

        Raises
        ------
        ProblemError
            If no such curve was recorded.
        """
        known = list(self.epochs[0].values()) if self.epochs else []
        if name not in known:
            raise ProblemError(f"There is no curve {name!r}; recorded are {known}.")
        return tuple(epoch.values()[name] for epoch in self.epochs)

    def summary(self) -> str:
        """Return how training ended and where each curve began and ended, as text."""
        lines = [f"{'training':<19}{self.status.name}: {self.status.value}"]
        if self.note:
            lines.append(f"{'':<19}{self.note}")
        if not self.epochs:
            return "\n".join([*lines, f"{'epochs':<19}none was finished"])
        seconds = sum(self.curve("seconds"))
        last = self.epochs[-1]
        lines.append(f"{'epochs':<19}{last.number} ({last.steps} steps, {seconds:.1f} s)")
        for name in last.values():
            if name != "seconds":
                curve = self.curve(name)
                lines.append(f"{name:<19}{curve[0]:.6g} -> {curve[-1]:.6g}")
        if self.best is not None:
            value = self.curve(self.monitor)[self.best - 1]
            lines.append(f"{'best epoch':<19}{self.best} ({self.monitor} {value:.6g})")
        lines.append(f"{'weights':<19}{_origin(self.weights)}")
        return "\n".join(lines)


def best_epoch(curve: tuple[float, ...], maximize: bool) -> int | None:
    """Return the number of the first best epoch, or ``None`` where all are NaN."""
    sign = -1.0 if maximize else 1.0
    ranked = [(sign * value, i) for i, value in enumerate(curve, 1) if not math.isnan(value)]
    return min(ranked)[1] if ranked else None


def _origin(weights: int | None) -> str:
    if weights is None:
        return "of the middle of an epoch"
    return f"of the end of epoch {weights}" if weights else "as they were given"
