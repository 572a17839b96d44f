"""Figures of solutions, reaction maps and designs."""

from bilevel.plots.figures import convergence, envelopes, formats
from bilevel.plots.reactions import reaction

__all__ = ["convergence", "envelopes", "formats", "reaction"]
