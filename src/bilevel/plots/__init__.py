"""Figures of solutions, reaction maps, designs and fits."""

from bilevel.plots.figures import convergence, envelopes, formats
from bilevel.plots.fits import fit
from bilevel.plots.reactions import reaction

__all__ = ["convergence", "envelopes", "fit", "formats", "reaction"]
