"""Training: the library's one loop, with checkpoints from which it goes on to the last bit."""

from bilevel import needs_torch  # noqa: F401  first, so that it says what to install
from bilevel.errors import CheckpointError
from bilevel.learning.checkpoint import Checkpoint
from bilevel.learning.fit import fit
from bilevel.learning.history import Epoch, FitStatus, History

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Epoch",
    "FitStatus",
    "History",
    "fit",
]
