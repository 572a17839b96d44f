"""`python -m benchmarks.layer_compile bilevel 400`: seconds and memory of making a layer, as JSON.

A process of its own: imports are done before, and its highest memory is this layer's.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.environment import ROOT

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def in_own_process(library: str, n: int, limit: float) -> dict[str, float]:
    """Make a layer of ``n`` variables in a new process; return ``seconds`` and ``megabytes``.

    Raises
    ------
    TimeoutExpired
        After ``limit`` seconds.
    """
    command = [sys.executable, "-m", "benchmarks.layer_compile", library, str(n)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def highest(restart: bool = False) -> float:
    """Return the highest memory so far, in MB; ``restart`` makes it what is in use now."""
    if not _STATUS.exists():
        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6
    # ru_maxrss would begin with the highest memory of the process that started this one.
    if restart:
        _RESET.write_text("5", encoding="ascii")
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(found) * 1024 / 1e6


def _main(library: str, n: int) -> None:
    from benchmarks import layer_peers

    make = {"bilevel": layer_peers.make_bilevel, "cvxpylayers": layer_peers.make_cvxpylayers}
    make[library](5)  # lazy imports
    before = highest(restart=True)
    began = time.perf_counter()
    layer = make[library](n)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "megabytes": highest() - before}))
    del layer


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
