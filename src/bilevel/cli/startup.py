"""A quick start: what a command needs is imported without what it may never use."""

from __future__ import annotations

import gc
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

# CVXPY imports every solver it finds, only to list those that are installed, and scipy.optimize as
# one of them.
_SOLVERS = ("clarabel", "daqp", "highspy", "osqp", "pyscipopt", "scs")


def begin() -> None:
    """Put off the collection of garbage: what is imported stays, and looking it over takes time."""
    gc.disable()


def load() -> None:
    """Import what every command needs, and take up the collection of garbage after ``begin``."""
    import_cvxpy()
    import bilevel.instances
    import bilevel.solvers  # noqa: F401

    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def import_cvxpy() -> None:
    """Import CVXPY at about half its usual cost; what it left out is imported when it is used.

    While CVXPY is imported, empty modules stand in the place of the solvers' packages that are
    installed, of ``scipy.optimize`` and of ``scipy.stats``; they are taken away afterwards.
    So whoever imports one of these later gets the real one, and ``cvxpy.installed_solvers()``
    looks for the real ones. Does nothing if CVXPY has been imported.

    Notes
    -----
    Only for a process that belongs to the command line: another thread that imports one of these
    modules at the same moment would get the empty one.
    """
    if "cvxpy" in sys.modules:
        return
    names = [name for name in _SOLVERS if name not in sys.modules and find_spec(name) is not None]
    names += [name for name in ("scipy.optimize", "scipy.stats") if name not in sys.modules]
    places = {name: ModuleType(name) for name in names}
    if "scipy.stats" in places:
        places["scipy.stats"].__dict__["entropy"] = _entropy  # all that CVXPY takes from there
    sys.modules.update(places)
    try:
        import cvxpy  # noqa: F401
    finally:
        for name, place in places.items():
            if sys.modules.get(name) is place:
                del sys.modules[name]


def _entropy(*arguments: Any, **keywords: Any) -> Any:
    from scipy.stats import entropy

    return entropy(*arguments, **keywords)
