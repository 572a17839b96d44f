"""`python -m benchmarks.hypergradient_memory 1000000 20000`: one large hypergradient, as JSON.

A process of its own: data, inner solution and imports are there before, and what its highest
memory grows by is the hypergradient's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch

import bilevel as bl
from benchmarks.environment import ROOT
from benchmarks.hypergradient_data import Matrix, Regression, Shape
from benchmarks.hypergradient_methods import Subject, quiet
from benchmarks.layer_compile import highest
from bilevel.adjoints import Implicit

#: The smallest regression: what is imported or made at a first call is there before.
_FIRST = Shape(300, 200)


def in_own_process(d: int, rows: int, limit: float) -> dict[str, float]:
    """Differentiate a regression of ``d`` weights in a new process; return its figures.

    Raises
    ------
    TimeoutExpired
        After ``limit`` seconds.
    """
    command = [sys.executable, "-m", "benchmarks.hypergradient_memory", str(d), str(rows)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"},  # freed memory is given back
        capture_output=True,
        text=True,
        timeout=limit,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measured(shape: Shape) -> dict[str, Any]:
    """Return seconds, memory, error and residual of a hypergradient with default settings."""
    subject, adjoint = Subject(Regression.draw(shape)), Implicit()
    _ = subject.A, subject.V, subject.w, subject.problem
    x = subject.x.clone().requires_grad_()
    before = highest(restart=True)
    began = time.perf_counter()
    subject.outer(x, adjoint.attach(subject.problem, x, subject.w)).backward()
    seconds = time.perf_counter() - began
    grown = (highest() - before) * 1e6 / (8 * shape.d)
    one, found = subject.regression, x.grad
    assert found is not None
    return {
        "seconds": seconds,
        "vectors": grown,
        "residual": _residual(subject, adjoint),
        "error": one.error(found.numpy()),
        "reference_bound": one.bound,
        "inner_seconds": one.seconds,
        "inner_residual": one.residual,
        "data_vectors": sum(map(_bytes, (one.A, one.V))) / (8 * shape.d),
    }


def _residual(subject: Subject, adjoint: Implicit) -> float:
    """Return the relative residual of the adjoint's linear system in closed form.

    The gradient of a linear term in the inner loss is the solution of that system.
    """
    tilt = torch.zeros_like(subject.w).requires_grad_()
    problem = bl.SmoothProblem(subject.outer, lambda x, w: subject.inner(x, w) + tilt @ w)
    subject.outer(subject.x, adjoint.attach(problem, subject.x, subject.w)).backward()
    one, q = subject.regression, tilt.grad
    assert q is not None
    rest = np.linalg.norm(one.product(q.numpy()) + one.slope)
    return float(rest / np.linalg.norm(one.slope))


def _bytes(matrix: Matrix) -> int:
    """Return what a matrix takes; what is kept for its transposed comes on top of it."""
    if isinstance(matrix, np.ndarray):
        return matrix.nbytes
    return matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes


if __name__ == "__main__":
    torch.set_num_threads(1)
    with quiet():
        measured(_FIRST)
        print(json.dumps(measured(Shape(int(sys.argv[1]), int(sys.argv[2])))))
