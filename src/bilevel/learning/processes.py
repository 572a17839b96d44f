"""One process or several under ``torchrun``; random streams; and a first Ctrl-C that saves."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Group:
    """The processes that train one model together.

    Parameters
    ----------
    rank
        This process's number.
    size
        How many there are.
    device
        Where this one computes.
    """

    rank: int
    size: int
    device: torch.device

    def total(self, values: Sequence[float]) -> list[float]:
        """Return the sum of each value over all processes, the same in every one."""
        if self.size == 1:
            return list(values)
        device = self.device if dist.get_backend() == "nccl" else "cpu"
        sums = torch.tensor(list(values), dtype=torch.float64, device=device)
        dist.all_reduce(sums)
        return sums.tolist()

    def mean(self, value: float) -> float:
        """Return the mean over all processes."""
        return self.total([value])[0] / self.size

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return self.total([float(flag)])[0] > 0

    def wait(self) -> None:
        """Return when every process has come here."""
        self.total([0.0])


def join(device: torch.device) -> Group:
    """Join the process group that the environment names, or the one that exists; else be alone.

    A group lasts as long as its processes: under torchrun no second one could be made.
    """
    named = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if not dist.is_available() or not (named or dist.is_initialized()):
        return Group(0, 1, device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Group(dist.get_rank(), dist.get_world_size(), device)


def reseed(seed: int, *stream: int) -> None:
    """Set the global generators of torch, NumPy and Python to a stream that numbers name.

    A stream of its own for every step makes a step's chance independent of what ran before it, so
    that a resumed run draws the same numbers.
    """
    words = [int(word) for word in np.random.SeedSequence([seed, *stream]).generate_state(4)]
    torch.manual_seed(words[0] << 32 | words[1])
    np.random.seed(words[2])
    random.seed(words[3])


@contextlib.contextmanager
def kept_generators(device: torch.device) -> Iterator[None]:
    """Give the caller back the global generators as they were."""
    numpy = np.random.get_state()
    python = random.getstate()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            np.random.set_state(numpy)
            random.setstate(python)


class Interrupt:
    """Whether a person asked to stop."""

    def __init__(self) -> None:
        self.asked = False


@contextlib.contextmanager
def first_interrupt() -> Iterator[Interrupt]:
    """Make the first Ctrl-C a request; the second one is a ``KeyboardInterrupt``."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt  # signals belong to the main thread
        return

    def note(number: int, frame: FrameType | None) -> None:
        if interrupt.asked:
            signal.default_int_handler(number, frame)
        interrupt.asked = True

    before: Any = signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
