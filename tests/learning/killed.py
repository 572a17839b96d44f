"""Trains in children that are killed at a random moment or at each touch of the disk.

A script, so that it may fork before torch has started a thread. Prints one line per run.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

# Training imports these when it begins; every child would, for two seconds each.
import optree  # noqa: F401
import safetensors.torch  # noqa: F401
import torch
import torch._dynamo
from tests.learning import tasks

from bilevel.learning import checkpoint as checkpoint_module


def child(work):
    """Start a child; return its number."""
    number = os.fork()
    if number == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            work()
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return number


def ended_well(number):
    """Wait for a child; return whether it was not killed. Anything but a kill is an error."""
    status = os.waitpid(number, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0, "training raised"
    return True


def trained(folder, result, **options):
    model, history = tasks.train(folder, **options)
    result.write_bytes(tasks.numbers(model) + repr(history.curve("validation")).encode())


def at_random(folder, seed, whole_seconds):
    """Kill after a random share of a run, until one child comes to the end; return how often."""
    rng, kills = random.Random(seed), 0
    result = folder / "result"
    while True:
        number = child(lambda: trained(folder / "run", result, pause=0.002))
        time.sleep(rng.uniform(0.1, 0.8) * whole_seconds * 1.2**kills)
        os.kill(number, signal.SIGKILL)  # a child that has ended is still there to be waited for
        if ended_well(number):
            return kills
        kills += 1


def at_each_touch(folder, stride, **options):
    """Kill at the first touch of the disk, then a stride later, ...; return how many there are."""
    touch = 1 - stride
    while True:
        touch += stride
        shutil.rmtree(folder / "run", ignore_errors=True)
        if ended_well(child(lambda: dies_at(touch, folder, **options))):  # noqa: B023
            return touch - 1
        assert ended_well(child(lambda: trained(folder / "run", folder / "result", **options)))
        check_equal(folder)


def dies_at(touch, folder, **options):
    """Train and die at a numbered touch of the disk, with half of the data written."""
    left = touch

    def touched(act):
        def wrapped(*arguments):
            nonlocal left
            left -= 1
            if left == 0:
                if act is write:
                    arguments[0].write_bytes(arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return act(*arguments)

        return wrapped

    write = checkpoint_module._write
    for name in ("_write", "_flush_folder", "_remove"):
        setattr(checkpoint_module, name, touched(getattr(checkpoint_module, name)))
    os.replace = touched(os.replace)
    trained(folder / "run", folder / "result", **options)


def check_equal(folder):
    assert (folder / "result").read_bytes() == (folder / "whole").read_bytes(), "other weights"


BRIEF = {"epochs": 1, "batch_size": 20}  # saved at the start, once within the epoch, at its end
OPTIONS = {"random": {}, "every": BRIEF, "some": BRIEF}
STRIDE = {"every": 1, "some": 5}


def main(kind, seeds):
    for seed in seeds:
        folder = Path(tempfile.mkdtemp(dir=os.environ["TRAINING_FOLDER"]))
        options = OPTIONS[kind]
        began = time.monotonic()
        assert ended_well(child(lambda: trained(None, folder / "whole", **options)))  # noqa: B023
        whole_seconds = time.monotonic() - began  # however busy the machine is
        if kind == "random":
            count = at_random(folder, seed, whole_seconds)
        else:
            count = at_each_touch(folder, STRIDE[kind], **options)
        check_equal(folder)
        print(kind, seed, count, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], [int(seed) for seed in sys.argv[2:]])
