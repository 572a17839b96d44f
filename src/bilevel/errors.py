"""The library's exceptions and warnings: one tree, so that one ``except`` catches all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bilevel.smooth_solution import SmoothSolution
    from bilevel.solution import Solution
    from bilevel.status import Status


class BilevelError(Exception):
    """Base class of every exception this library raises on purpose.

    Examples
    --------
    >>> import bilevel as bl
    >>> try:
    ...     bl.Problem(None, [], followers=[])
    ... except bl.BilevelError as error:
    ...     print(type(error).__name__)
    ProblemError
    """


class ProblemError(BilevelError, ValueError):
    """The problem, a parameter value or a point is malformed; the message names the culprit.

    Examples
    --------
    >>> import cvxpy as cp, bilevel as bl
    >>> y = cp.Variable(name="y")
    >>> try:
    ...     bl.Follower(cp.Minimize(y), [y >= 0], variables=[])
    ... except bl.ProblemError as error:
    ...     print("variables" in str(error))
    True
    """


class UnknownVariable(ProblemError, KeyError):
    """A solution has no value of what is asked for; the message names it.

    Examples
    --------
    >>> import bilevel as bl
    >>> try:
    ...     bl.solve(bl.instances.get("T16").problem)["z"]
    ... except bl.ProblemError as error:
    ...     print(error)
    z has no value in this solution (known: x, y).
    """

    def __str__(self) -> str:
        # A KeyError shows its message in quotation marks.
        return ValueError.__str__(self)


class UnsupportedProblem(BilevelError):
    """The chosen method is not valid for this problem; the message says why and what is.

    Parameters
    ----------
    reasons
        One sentence per obstacle.

    Examples
    --------
    >>> from bilevel.errors import UnsupportedProblem
    >>> UnsupportedProblem(["The follower is integer."]).reasons
    ('The follower is integer.',)
    """

    def __init__(self, reasons: Iterable[str] | str) -> None:
        self.reasons = (reasons,) if isinstance(reasons, str) else tuple(reasons)
        super().__init__(" ".join(self.reasons))


class UnsupportedDerivative(BilevelError):
    """A derivative of this order does not exist or is not implemented; no number is returned.

    Examples
    --------
    >>> from bilevel.errors import UnsupportedDerivative
    >>> issubclass(UnsupportedDerivative, Exception)
    True
    """


class BackendNotFound(BilevelError, ImportError):
    """A backend's package is not installed; the message carries the install line.

    Examples
    --------
    >>> from bilevel.errors import BackendNotFound
    >>> issubclass(BackendNotFound, ImportError)
    True
    """


class BackendError(BilevelError, RuntimeError):
    """A vendor's library failed; the foreign exception is chained.

    Examples
    --------
    >>> from bilevel.errors import BackendError
    >>> issubclass(BackendError, RuntimeError)
    True
    """


class SolveFailed(BilevelError, RuntimeError):
    """There is no usable point; ``solution`` tells what is known all the same.

    Parameters
    ----------
    solution
        The solution without a point.

    Examples
    --------
    >>> import cvxpy as cp, bilevel as bl
    >>> x, y = cp.Variable(name="x"), cp.Variable(name="y")
    >>> follower = bl.Follower(cp.Minimize(y), [y >= x], variables=[y])
    >>> problem = bl.Problem(
    ...     cp.Minimize(x), [x >= 0, y <= -1], followers=[follower]
    ... )
    >>> try:
    ...     bl.solve(problem)
    ... except bl.SolveFailed as error:
    ...     print(error.solution.status.name)
    INFEASIBLE
    """

    def __init__(self, solution: Solution | SmoothSolution) -> None:
        self.solution = solution
        detail = f" {solution.stats.note}" if solution.stats.note else ""
        super().__init__(f"{solution.status.name}: {solution.status.value}{detail}")


class BatchFailed(BilevelError, RuntimeError):
    """Some instances of a batch have no answer; raised after the whole batch was solved.

    Parameters
    ----------
    who
        The layer.
    status
        One per instance.
    notes
        What else is known, by instance.

    Attributes
    ----------
    instances
        Indices of those without an answer.

    Examples
    --------
    >>> from bilevel.errors import BatchFailed
    >>> from bilevel.status import Status
    >>> BatchFailed("the layer", (Status.OPTIMAL, Status.INFEASIBLE), {}).instances
    (1,)
    """

    def __init__(self, who: str, status: tuple[Status, ...], notes: dict[int, str]) -> None:
        self.status = status
        self.notes = dict(notes)
        self.instances = tuple(i for i, one in enumerate(status) if not one.has_point)
        reasons = [
            f"instance {i}: {status[i].name}{f' ({notes[i]})' if i in notes else ''}"
            for i in self.instances[:5]
        ]
        more = "; ..." if len(self.instances) > 5 else ""
        super().__init__(
            f"{len(self.instances)} of {len(status)} instances of {who} have no answer: "
            f"{'; '.join(reasons)}{more}. With on_failure='nan' or 'zero' the others are kept."
        )


class CheckpointError(BilevelError, RuntimeError):
    """A checkpoint is damaged or of another training run; the message names file and remedy.

    Examples
    --------
    >>> from bilevel.errors import CheckpointError
    >>> issubclass(CheckpointError, RuntimeError)
    True
    """


class BilevelWarning(UserWarning):
    """Base class of the library's warnings.

    Examples
    --------
    >>> from bilevel.errors import BilevelWarning
    >>> issubclass(BilevelWarning, UserWarning)
    True
    """
