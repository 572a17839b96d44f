"""An objective that is a mean over samples, so that a solver may look at some of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bilevel.errors import ProblemError
from bilevel.problem.trees import leaves, mapped


@dataclass(frozen=True, eq=False)
class SampleMean:
    r"""An objective that is a mean over samples.

    .. code-block:: text

        F(x, y, *z) = 1/n sum over i of  l(x, y, *z, sample i)

    It stands in a ``SmoothProblem`` as any function does: called, it takes all the data. A solver
    for minibatches takes some of the samples.

    Parameters
    ----------
    loss
        Function of ``(x, y, *z, *samples)`` that returns the **mean** of the samples it is given;
        a term without samples, such as a penalty on ``y``, is added to it.
    data
        A tensor, or a dict, list or tuple of tensors, with samples along the first axis. A tuple's
        parts become arguments of their own, everything else one argument.

    Raises
    ------
    ProblemError
        If the data are no tensors, are empty or differ in length.

    Notes
    -----
    Where ``x`` or ``y`` has an entry for each sample, let ``torch.arange(n)`` be part of the data:
    a batch then contains the places of its samples.

    Examples
    --------
    >>> import bilevel as bl, torch
    >>> A, b = torch.eye(4), torch.tensor([1.0, 2.0, 3.0, 6.0])
    >>> f = bl.SampleMean(
    ...     lambda x, y, A, b: ((A @ y - b) ** 2).mean() + x * y.sum(), (A, b)
    ... )
    >>> x, y = torch.tensor(0.0), torch.zeros(4)
    >>> print(len(f), f(x, y).item(), f.over(torch.tensor([0, 1]))(x, y).item())
    4 12.5 2.5
    """

    loss: Callable[..., Tensor]
    data: Any = field(repr=False)

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise ProblemError(
                f"loss of a SampleMean must be a function of (x, y, *z, *samples), not "
                f"an object of type {type(self.loss).__name__}."
            )
        found = leaves(self.data)
        for leaf in found:
            if not isinstance(leaf, Tensor) or not leaf.ndim:
                raise ProblemError(
                    f"The data of a SampleMean must be tensors with samples along their first "
                    f"axis, not {type(leaf).__name__}; torch.as_tensor makes one of an array."
                )
        lengths = sorted({len(leaf) for leaf in found})
        if len(lengths) != 1 or not lengths[0]:
            raise ProblemError(
                f"The data of a SampleMean must have equally many samples, at least one, along "
                f"the first axis of every tensor; found {lengths or 'no tensor'}."
            )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(leaves(self.data)[0])

    def __call__(self, x: Any, y: Any, *z: Any) -> Tensor:
        """Return the mean over all samples."""
        samples = self.data if isinstance(self.data, tuple) else (self.data,)
        return self.loss(x, y, *z, *samples)

    def over(self, index: Tensor) -> SampleMean:
        """Return the mean over some of the samples.

        Parameters
        ----------
        index
            Their places, integers.
        """
        return SampleMean(self.loss, mapped(lambda leaf: leaf[index.to(leaf.device)], self.data))
