"""Which functions of a smooth problem lack the third derivatives that a layer's gradient needs."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from bilevel.errors import BilevelWarning
from bilevel.problem.smooth import Instances, nodes_behind

#: Operations of autograd's graphs that are linear or quadratic in pieces, as users know them.
_PIECEWISE = {
    "Abs": "abs",
    "Clamp": "clamp",
    "ClampMin": "clamp",
    "ClampMax": "clamp",
    "Elu": "elu or selu",
    "Hardshrink": "hardshrink",
    "Hardsigmoid": "hardsigmoid",
    "Hardswish": "hardswish",
    "Hardtanh": "hardtanh or relu6",
    "HuberLoss": "huber_loss",
    "L1Loss": "l1_loss",
    "LeakyRelu": "leaky_relu",
    "Max": "max",
    "Maximum": "maximum",
    "MaxPool2DWithIndices": "max_pool2d",
    "Min": "min",
    "Minimum": "minimum",
    "Prelu": "prelu",
    "Relu": "relu",
    "SmoothL1Loss": "smooth_l1_loss",
    "Softshrink": "softshrink",
    "Threshold": "threshold",
}


def piecewise(instances: Instances, x: Tensor, y: Tensor) -> dict[str, tuple[str, ...]]:
    """Return the piecewise operations in each of the follower's functions that has some.

    A layer's gradient holds third derivatives of the follower's functions, and autograd returns
    zero for those of such operations without a word.

    Parameters
    ----------
    instances
        The functions.
    x, y
        Where they are evaluated, one row for each instance.

    Examples
    --------
    >>> import bilevel as bl, torch
    >>> from bilevel.layers.kinks import piecewise
    >>> from bilevel.problem.smooth import Instances
    >>> from bilevel.problem.trees import Tree
    >>> problem = bl.SmoothProblem(lambda x, y: x, lambda x, y: (y - x).relu() ** 2)
    >>> one = torch.ones(())
    >>> functions = Instances(problem, Tree(one, "x"), Tree(one, "y"))
    >>> print(piecewise(functions, one.reshape(1, 1), one.reshape(1, 1)))
    {'f': ('relu',)}
    """
    x = x.detach()
    y = y.detach().requires_grad_()
    found = {}
    with torch.enable_grad():
        for name in ("f", "h", "g"):
            if getattr(instances.problem, name) is not None:
                names = _operations(instances.vector(name, x, y))
                if names:
                    found[name] = tuple(sorted(names))
    return found


def warn_of_kinks(instances: Instances, x: Tensor, y: Tensor) -> None:
    """Warn of a follower whose third derivatives autograd does not see.

    Parameters
    ----------
    instances, x, y
        As in ``piecewise``.

    Warns
    -----
    BilevelWarning
        For each function with a piecewise operation.
    """
    for name, operations in piecewise(instances, x, y).items():
        warnings.warn(
            f"{name} of the SmoothBilevelLayer uses {', '.join(operations)}: the layer's gradient "
            f"needs third derivatives of {name}, and of these operations autograd has none but "
            f"zero, at their kinks too. Use smooth ones, such as softplus, tanh or silu.",
            BilevelWarning,
            stacklevel=4,
        )


def _operations(tensor: Tensor) -> set[str]:
    names = {type(node).__name__.partition("Backward")[0] for node in nodes_behind(tensor)}
    return {_PIECEWISE[name] for name in names & _PIECEWISE.keys()}
