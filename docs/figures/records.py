"""Figures of what the committed runs of benchmarks and experiments found."""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[2]


def minibatch() -> Figure:
    """Return the validation loss over the work, from the newest committed run."""
    sys.path.insert(0, str(ROOT))
    from benchmarks.cases.minibatch import curves
    from benchmarks.journal import read

    return curves(read(sorted((ROOT / "benchmarks" / "results").glob("*-minibatch.jsonl"))[-1]))


def bigrad_training() -> Figure:
    """Return the costs of two controllers during training, from the committed experiment."""
    sys.path.insert(0, str(ROOT))
    from benchmarks.journal import read
    from experiments.bigrad.optimal_control import curves

    return curves(read(ROOT / "experiments" / "bigrad" / "results-standard.jsonl"))


FIGURES = {"minibatch": minibatch, "bigrad-training": bigrad_training}
