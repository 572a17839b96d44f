"""Optimization problems as PyTorch layers."""

from bilevel import needs_torch  # noqa: F401  first, so that it says what to install
from bilevel.errors import BatchFailed
from bilevel.layers.answer import Answer, Report
from bilevel.layers.bilevel import BilevelLayer
from bilevel.layers.follower import FollowerLayer
from bilevel.layers.gradcheck import GradientCheck, gradcheck
from bilevel.layers.inputs import tensors_of
from bilevel.layers.smooth import SmoothBilevelLayer

__all__ = [
    "Answer",
    "BatchFailed",
    "BilevelLayer",
    "FollowerLayer",
    "GradientCheck",
    "Report",
    "SmoothBilevelLayer",
    "gradcheck",
    "tensors_of",
]
