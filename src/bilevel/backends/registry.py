"""Which backends there are; a vendor's package is imported when it is first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from bilevel.backends.backend import AbstractBackend
from bilevel.errors import BackendNotFound, ProblemError


@dataclass(frozen=True)
class _Entry:
    package: str
    install: str
    module: str
    backend: str


_ENTRIES = {
    "highs": _Entry("highspy", "highspy", "bilevel.backends.highs", "HiGHS"),
    "scip": _Entry("pyscipopt", "pyscipopt", "bilevel.backends.scip", "SCIP"),
    "clarabel": _Entry("clarabel", "clarabel", "bilevel.backends.clarabel", "Clarabel"),
    "tree": _Entry("highspy", "highspy", "bilevel.backends.tree", "Tree"),
    "daqp": _Entry("daqp", "daqp", "bilevel.backends.daqp", "DAQP"),
    "proxsuite": _Entry("proxsuite", "proxsuite", "bilevel.backends.proxsuite", "ProxQP"),
    "moreau": _Entry("moreau", "moreau", "bilevel.backends.moreau", "Moreau"),
    "ipopt": _Entry("casadi", "casadi", "bilevel.backends.ipopt", "IPOPT"),
}


def names() -> tuple[str, ...]:
    """Return the names of all backends this library knows."""
    return tuple(_ENTRIES)


def available() -> tuple[str, ...]:
    """Return the names of the backends whose package is installed.

    Examples
    --------
    >>> from bilevel.backends import available
    >>> "highs" in available()
    True
    """
    return tuple(name for name, entry in _ENTRIES.items() if _installed(entry.package))


def get(name: str) -> AbstractBackend:
    """Return a backend by name.

    Raises
    ------
    ProblemError
        If there is no backend of that name.
    BackendNotFound
        If its package is not installed.
    """
    entry = _ENTRIES.get(name)
    if entry is None:
        raise ProblemError(f"There is no backend {name!r}; the known ones are {list(_ENTRIES)}.")
    if not _installed(entry.package):
        raise BackendNotFound(
            f"Backend {name!r} needs the package {entry.package}, which is not installed: "
            f"pip install {entry.install}. Installed backends: {list(available())}."
        )
    return getattr(import_module(entry.module), entry.backend)()


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False
