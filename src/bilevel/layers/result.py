"""What a layer returns beside tensors: a status and a report for every instance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from bilevel.adjoints import GradientKind
from bilevel.problem.functions import Array
from bilevel.program import RawAnswer, Termination
from bilevel.status import Status
from bilevel.tables import table

#: The largest residual of the optimality conditions with which an answer is passed on.
ACCEPTED = 1e-8
NOT_FINITE = (
    "its data contain NaN or infinite numbers, or break the sign that a parameter declares (nonneg)"
)
#: So many instances are shown in a notebook; a batch may have thousands.
_SHOWN = 20
_VERDICTS = {
    Termination.INFEASIBLE: Status.INFEASIBLE,
    Termination.UNBOUNDED: Status.UNBOUNDED,
}


@dataclass(frozen=True, repr=False)
class Report:
    """What is known about each instance's answer and its derivative.

    Parameters
    ----------
    kind
        What the gradient of each instance is.
    residual
        By how much its optimality conditions fail, relative, shape ``(B,)``; NaN without answer.
    margin
        How far it is from a change of its active constraints, relative, shape ``(B,)``: the
        smallest of ``max(slack, multiplier)`` over its inequalities.
    notes
        A sentence for each instance about which there is more to say.
    probe
        Computes ``adjoint_residual``.
    """

    kind: tuple[GradientKind, ...]
    residual: Tensor
    margin: Tensor
    notes: dict[int, str] = field(default_factory=dict)
    probe: Callable[[], Tensor] | None = field(default=None, repr=False, compare=False)

    @cached_property
    def adjoint_residual(self) -> Tensor:
        """Relative residual of the linear system of gradients for a sum of all, shape ``(B,)``.

        It is computed when it is first asked for.
        """
        nothing = torch.full_like(self.residual, torch.nan)
        return (
            nothing if self.probe is None else self.probe().where(~self.residual.isnan(), nothing)
        )

    def __repr__(self) -> str:
        known = self.residual[self.residual.isfinite()]
        worst = f"{float(known.max()):.1e}" if len(known) else "unknown"
        kinds = _counted(kind.name for kind in self.kind)
        return f"Report({kinds}; largest residual {worst})"

    def _repr_html_(self) -> str:
        """Return a table for notebooks, one row for each instance."""
        return _table(self)

    def summary(self) -> str:
        """Return how many gradients are of which kind, and a line for each that is not exact.

        Examples
        --------
        >>> import torch
        >>> from bilevel.adjoints import GradientKind
        >>> from bilevel.layers import Report
        >>> report = Report(
        ...     (GradientKind.CLASSICAL,), torch.tensor([1e-15]), torch.tensor([0.5])
        ... )
        >>> print(report.summary())
        1 of 1 gradients are derivatives; largest residual 1.0e-15, smallest margin 5.0e-01
        """
        exact = sum(kind.is_exact for kind in self.kind)
        known = self.residual[self.residual.isfinite()]
        margin = self.margin[~self.margin.isnan()]
        lines = [
            f"{exact} of {len(self.kind)} gradients are derivatives; largest residual "
            f"{float(known.max()) if len(known) else np.nan:.1e}, smallest margin "
            f"{float(margin.min()) if len(margin) else np.nan:.1e}"
        ]
        for i, kind in enumerate(self.kind):
            if not kind.is_exact or i in self.notes:
                note = f" ({self.notes[i]})" if i in self.notes else ""
                lines.append(f"  instance {i}: {kind.value}{note}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Record:
    """What a solver found out about each instance of a batch.

    Parameters
    ----------
    status
        One per instance.
    residual
        By how much its optimality conditions fail, relative, shape ``(B,)``.
    notes
        What else is known, by instance.
    """

    status: tuple[Status, ...]
    residual: Array
    notes: dict[int, str]


@dataclass(frozen=True, repr=False)
class Result:
    """A layer's values with a status and a report for every instance.

    Parameters
    ----------
    values
        The tensors that the layer returns, in the order of its variables.
    status
        One per instance.
    report
        What is known about answers and gradients.
    """

    values: tuple[Tensor, ...]
    status: tuple[Status, ...]
    report: Report

    def __repr__(self) -> str:
        shapes = ", ".join(str(tuple(value.shape)) for value in self.values)
        status = _counted(one.name for one in self.status)
        return f"Result(values of shapes {shapes}; {status}; {self.report!r})"

    def _repr_html_(self) -> str:
        """Return a table for notebooks, one row for each instance with its status."""
        return _table(self.report, self.status)


def verdict(P: Array, raw: RawAnswer | None, route: str) -> tuple[Status, str]:
    """Return the status of an instance without an answer, and a note."""
    lowest = float(np.linalg.eigvalsh(P)[0]) if len(P) else 0.0
    if lowest < -1e-9 * abs(P).max(initial=0.0):
        return Status.FAILED, f"its quadratic form is not convex, smallest eigenvalue {lowest:.3g}"
    if raw is None:
        return Status.FAILED, f"backend {route!r} does not take it, or failed"
    status = _VERDICTS.get(raw.termination, Status.FAILED)
    return status, "" if status is not Status.FAILED else f"{route} ended with {raw.raw_status!r}"


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in Counter(names).items()) or "no instance"


def _table(report: Report, status: Sequence[Status] = ()) -> str:
    """Return one row for each instance: status where it is known, kind, residual, margin, note."""
    head = ["instance", "status", "kind", "residual", "margin", "note"]
    total = len(report.kind)
    rows = []
    for i in range(min(total, _SHOWN)):
        stated = status[i].name if status else None
        kind = report.kind[i].name
        numbers = (float(report.residual[i]), float(report.margin[i]))
        rows.append([i, stated, kind, *numbers, report.notes.get(i)])
    if not status:
        head.remove("status")
        rows = [[row[0], *row[2:]] for row in rows]
    caption = f"{report!r}, the first {_SHOWN} of {total}" if total > _SHOWN else repr(report)
    return table(rows, head, caption)
