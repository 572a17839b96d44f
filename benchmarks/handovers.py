"""How often one solve and one layer call hand over: `python -m benchmarks.handovers [--pairs]`.

Counted are calls of functions inside bilevel, comprehensions and lambdas left out: distinct classes
of which an instance is made, distinct files entered, and changes of file between one call and the
next. A small model is built and solved after another one, so that nothing is imported on the way.

Half of 61 classes, 51 files and 474 changes was aimed at and not reached. What was tried on changes
of file, each measured here: no calls for absent products (497 to 401), one warm-started sweep in
the certificate (379), the optimistic value in the same sweep (341), sizes of matrices read locally
and the automatic choice asked once (321). Scaling and testing claims brought 30 back. The tree has
60 of them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import cvxpy as cp
import torch

import bilevel as bl
from bilevel.layers import FollowerLayer

_HOME = str(Path(bl.__file__).parent)


@dataclass
class Trace:
    """The calls of one piece of work.

    Parameters
    ----------
    files
        The file of each call, in order.
    classes
        Classes of which an instance was made.
    """

    files: list[str] = field(default_factory=list)
    classes: set[type] = field(default_factory=set)

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Note a call; see ``sys.setprofile``."""
        if event != "call":
            return
        code = frame.f_code
        if code.co_name == "__init__" and code.co_argcount:
            made = type(frame.f_locals[code.co_varnames[0]])
            if made.__module__.startswith("bilevel"):
                self.classes.add(made)
        if code.co_filename.startswith(_HOME) and not code.co_name.startswith("<"):
            self.files.append(code.co_filename[len(_HOME) + 1 :])

    @property
    def pairs(self) -> Counter[tuple[str, str]]:
        """How often one file was left for another."""
        steps = zip(self.files, self.files[1:], strict=False)
        return Counter((a, b) for a, b in steps if a != b)

    def summary(self) -> str:
        """Return the three counts."""
        return (
            f"{len(self.classes)} classes made, {len(set(self.files))} files entered, "
            f"{self.pairs.total()} changes of file in {len(self.files)} calls"
        )


def traced(work: Callable[[], object]) -> Trace:
    """Return the calls of a piece of work that was done once before."""
    work()
    trace = Trace()
    sys.setprofile(trace)
    try:
        work()
    finally:
        sys.setprofile(None)
    return trace


def solve_small() -> None:
    """Build and solve a linear problem of two variables."""
    x, y = cp.Variable(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(y), [y >= 1 - x, y >= 0], variables=[y])
    bl.solve(bl.Problem(cp.Minimize(x + y), [x >= 0, x <= 1], followers=[follower]))


def layer_call() -> Callable[[], object]:
    """Return a forward pass of a layer that was made before."""
    x, y = cp.Parameter(name="x"), cp.Variable(name="y")
    follower = bl.Follower(cp.Minimize(cp.square(y - x)), [y >= 0], variables=[y])
    layer = FollowerLayer(follower, parameters=[x], variables=[y])
    batch = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    return lambda: layer(batch)


def main() -> None:
    """Print the counts, and with ``--pairs`` between which files."""
    for name, trace in (
        ("bl.solve", traced(solve_small)),
        ("FollowerLayer.forward", traced(layer_call())),
    ):
        print(f"{name}: {trace.summary()}")
        if "--pairs" in sys.argv[1:]:
            for (left, entered), count in trace.pairs.most_common(40):
                print(f"{count:5d}  {left} -> {entered}")


if __name__ == "__main__":
    main()
