"""Optimization problems as PyTorch layers."""

from bilevel.layers.answer import Answer, BatchFailed, Report
from bilevel.layers.bilevel import BilevelLayer
from bilevel.layers.follower import FollowerLayer

__all__ = ["Answer", "BatchFailed", "BilevelLayer", "FollowerLayer", "Report"]
