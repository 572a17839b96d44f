"""Optimization problems as PyTorch layers."""

from typing import Any

from bilevel import needs_torch  # noqa: F401  first, so that it says what to install
from bilevel.deprecation import renamed_attribute
from bilevel.errors import BatchFailed
from bilevel.layers.bilevel import BilevelLayer
from bilevel.layers.follower import FollowerLayer
from bilevel.layers.gradcheck import GradientCheck, gradcheck
from bilevel.layers.inputs import tensors_of
from bilevel.layers.result import Report, Result
from bilevel.layers.smooth import SmoothBilevelLayer

__all__ = [
    "BatchFailed",
    "BilevelLayer",
    "FollowerLayer",
    "GradientCheck",
    "Report",
    "Result",
    "SmoothBilevelLayer",
    "gradcheck",
    "tensors_of",
]


def __getattr__(name: str) -> Any:
    return renamed_attribute(__name__, name, {"Answer": "Result"})
