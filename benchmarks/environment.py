"""What a measurement was made with: versions, machine, commit, threads; no host is named."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_PACKAGES = (
    "bilevel",
    "cvxpy",
    "numpy",
    "scipy",
    "highspy",
    "pyscipopt",
    "clarabel",
    "daqp",
    "gurobipy",
    "cobra",
    "torch",
    "numba",
    "moreau",
    "proxsuite",
    "cvxpylayers",
    "diffcp",
    "scs",
)
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",
)


def with_threads(count: int) -> dict[str, str]:
    """Return the process environment that limits every library's threads."""
    return os.environ | dict.fromkeys(_THREAD_VARIABLES, str(count))


def pin(count: int, part: int = 1) -> None:
    """Bind this process to ``count`` cores, so that no method can use more; no-op off Linux.

    The first part of a run takes the last cores, the second those before them.
    """
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0), reverse=True)
        mine = cores[(part - 1) * count : part * count] or cores[:count]
        os.sched_setaffinity(0, mine)


@cache
def describe() -> dict[str, Any]:
    """Return versions, machine and commit, ready for JSON."""
    return {"versions": _versions(), "machine": _machine(), "commit": _commit()}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if "pyscipopt" in found:
        from pyscipopt import Model

        found["scip"] = ".".join(
            str(part)
            for part in (
                Model().getMajorVersion(),
                Model().getMinorVersion(),
                Model().getTechVersion(),
            )
        )
    return found


def _machine() -> str:
    parts = [_processor(), f"{os.cpu_count()} cores", f"{_memory():.0f} GiB", platform.system()]
    return ", ".join(part for part in parts if part and not part.startswith("0 GiB"))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return 0.0


def _commit() -> str:
    """The commit, with ``-dirty`` where tracked files were changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
