"""Checking a layer's gradient against finite differences of full re-solves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bilevel.adjoints import GradientKind
from bilevel.errors import ProblemError


@dataclass(frozen=True)
class GradientCheck:
    """How a layer's gradient compares with finite differences.

    Parameters
    ----------
    error
        Largest ``|difference - gradient| / max(1, largest |gradient|)`` over all entries compared.
    errors
        The same for each input.
    compared
        How many entries were compared for each input.
    kinds
        What the layer says of each instance's gradient.
    tolerance
        What ``passed`` demands.
    names
        The inputs' names, where the layer knows them.

    Examples
    --------
    >>> from bilevel.layers.gradcheck import GradientCheck
    >>> GradientCheck(1e-9, (1e-9,), (4,), (), 1e-6).passed
    True
    """

    error: float
    errors: tuple[float, ...]
    compared: tuple[int, ...]
    kinds: tuple[GradientKind, ...]
    tolerance: float
    names: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the largest error is within the tolerance."""
        return bool(self.error <= self.tolerance)

    def summary(self) -> str:
        """Return the verdict and the error of each input as text."""
        verdict = "passed" if self.passed else "FAILED"
        lines = [f"gradient           {verdict}: largest error {self.error:.1e}"]
        lines[0] += f" (tolerance {self.tolerance:g})"
        names = self.names or tuple(f"input {i}" for i in range(len(self.errors)))
        for name, error, count in zip(names, self.errors, self.compared, strict=True):
            lines.append(
                f"  {name:<17}{error:.1e}   ({count} {'entry' if count == 1 else 'entries'})"
            )
        for kind in dict.fromkeys(self.kinds):
            number = sum(one is kind for one in self.kinds)
            lines.append(f"  instances          {number} x {kind.name}: {kind.value}")
        return "\n".join(lines)


def gradcheck(
    layer: Any,
    inputs: Sequence[Tensor] | Tensor,
    *,
    step: float = 1e-5,
    tolerance: float = 1e-6,
    most: int = 200,
    seed: int = 0,
) -> GradientCheck:
    r"""Compare a layer's gradient with central differences of full re-solves.

        (g(theta + h e_i) - g(theta - h e_i)) / 2 h,   g a random sum of all outputs

    Parameters
    ----------
    layer
        A ``FollowerLayer``, a ``BilevelLayer``, or any module that returns a tuple of tensors.
    inputs
        The layer's tensors; they are taken in double precision.
    step
        ``h``, relative to ``max(1, |theta_i|)``.
    tolerance
        The largest error with which the check passes.
    most
        How many entries of each input are compared, drawn at random where there are more.
    seed
        For the random sum and the entries.

    Returns
    -------
    GradientCheck
        Errors, and what the layer itself says of its gradients.

    Raises
    ------
    ProblemError
        If an argument is malformed, or an instance has no answer.

    Notes
    -----
    Every perturbed problem is solved anew, so nothing is shared with the gradient but the solver.
    At a kink the central difference is the mean of the two sides, and the check fails although the
    layer returns what it says: look at ``kinds``. A bilevel answer may jump between the two points
    of a difference; a smaller ``step`` tells.

    Examples
    --------
    >>> import bilevel as bl, cvxpy as cp, torch
    >>> from bilevel.layers import FollowerLayer
    >>> y, p = cp.Variable(3), cp.Parameter(3)
    >>> problem = cp.Problem(
    ...     cp.Minimize(cp.sum_squares(y - p)), [cp.sum(y) == 1, y >= 0]
    ... )
    >>> check = bl.gradcheck(
    ...     FollowerLayer(problem, [p], [y]), torch.tensor([0.1, 0.9, -2.0])
    ... )
    >>> print(check.passed, check.compared)
    True (3,)
    """
    tensors = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    for name, value in (("step", step), ("tolerance", tolerance)):
        if not (isinstance(value, (int, float)) and value > 0):
            raise ProblemError(f"{name} must be a positive number, not {value!r}.")
    if not all(isinstance(tensor, Tensor) for tensor in tensors) or not tensors:
        raise ProblemError("inputs must be the layer's tensors, in their order.")
    tensors = tuple(t.detach().double().clone().requires_grad_() for t in tensors)
    rng = np.random.default_rng(seed)
    solve = getattr(layer, "solve", None)
    kinds: tuple[GradientKind, ...] = ()
    if solve is None:
        outputs = layer(*tensors)
    else:
        answer = solve(*tensors)
        outputs = answer.values
        kinds = answer.report.kind
    weights = [torch.from_numpy(rng.normal(size=tuple(o.shape))).to(o) for o in outputs]
    if not all(bool(o.isfinite().all()) for o in outputs):
        raise ProblemError("An instance has no answer, so its gradient cannot be checked.")
    slopes = torch.autograd.grad(_sum(outputs, weights), tensors, allow_unused=True)
    slopes = [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, slopes, strict=True)]
    scale = max(1.0, *(float(g.abs().max()) if g.numel() else 0.0 for g in slopes))
    errors = []
    counts = []
    for i, (tensor, slope) in enumerate(zip(tensors, slopes, strict=True)):
        entries = np.arange(tensor.numel())
        if len(entries) > most:
            entries = np.sort(rng.choice(entries, most, replace=False))
        worst = 0.0
        for entry in entries.tolist():
            found = _difference(layer, tensors, weights, i, entry, step)
            worst = max(worst, abs(found - float(slope.reshape(-1)[entry])))
        errors.append(worst / scale)
        counts.append(len(entries))
    names = tuple(getattr(layer, "input_names", ()))
    return GradientCheck(max(errors), tuple(errors), tuple(counts), kinds, tolerance, names)


def _sum(outputs: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    return torch.stack([(o * w).sum() for o, w in zip(outputs, weights, strict=True)]).sum()


def _difference(
    layer: Any,
    tensors: Sequence[Tensor],
    weights: Sequence[Tensor],
    which: int,
    entry: int,
    step: float,
) -> float:
    size = step * max(1.0, abs(float(tensors[which].detach().reshape(-1)[entry])))
    values = []
    for sign in (1.0, -1.0):
        moved = [t.detach().clone() for t in tensors]
        moved[which].reshape(-1)[entry] += sign * size
        with torch.no_grad():
            values.append(float(_sum(layer(*moved), weights)))
    return (values[0] - values[1]) / (2 * size)
