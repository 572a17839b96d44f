"""Which backends there are and what for; a vendor's package is imported when it is first asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib import import_module
from importlib.util import find_spec

from bilevel.backends.backend import AbstractBackend
from bilevel.errors import BackendNotFound, ProblemError


class Purpose(Enum):
    """What a continuous program is solved for; each purpose has its backends, in an order.

    The caller names the purpose and never a vendor. A backend's entry in this file says which
    purposes it serves and in which place; one that serves none is used where it is named.

    Examples
    --------
    >>> from bilevel import backends
    >>> backends.routes(backends.Purpose.CONIC)
    ('clarabel',)
    """

    FOLLOWER = "a follower's response: vertices and active rows exactly"
    CERTIFICATE = "a follower's response again, by another route than the one that found it"
    EXTREME = "the leader's best point among a follower's equally good responses"
    POINT = "a point of rows that may contain products, or a verdict that there is none"
    CONVEX = "relaxations, bounds and rays: linear or convex programs of any size"
    ACTIVE_SET = "an answer whose active rows and multipliers are used"
    CURVED = "a small quadratic program over a polyhedron"
    CONIC = "an answer with multipliers of its cones"


@dataclass(frozen=True)
class _Entry:
    """Where a backend is, how it is installed, and which purposes it serves.

    ``extra`` is the extra of this package that installs the vendor, ``None`` for what is always
    there. ``places`` says for each purpose where the backend stands: lower ones are asked first.
    """

    package: str
    module: str
    backend: str
    extra: str | None = None
    places: Mapping[Purpose, int] = field(default_factory=dict)

    @property
    def install(self) -> str:
        """What ``pip install`` is told."""
        return self.package if self.extra is None else f"'bilevel[{self.extra}]'"


_ENTRIES = {
    "highs": _Entry(
        "highspy",
        "bilevel.backends.highs",
        "HiGHS",
        places={
            Purpose.FOLLOWER: 1,
            Purpose.CERTIFICATE: 3,
            Purpose.EXTREME: 1,
            Purpose.POINT: 1,
            Purpose.CONVEX: 1,
            Purpose.ACTIVE_SET: 1,
        },
    ),
    "scip": _Entry(
        "pyscipopt",
        "bilevel.backends.scip",
        "SCIP",
        places={
            Purpose.FOLLOWER: 4,
            Purpose.CERTIFICATE: 4,
            Purpose.EXTREME: 4,
            Purpose.POINT: 3,
        },
    ),
    "clarabel": _Entry(
        "clarabel",
        "bilevel.backends.clarabel",
        "Clarabel",
        places={
            Purpose.FOLLOWER: 3,
            Purpose.CERTIFICATE: 1,
            Purpose.EXTREME: 2,
            Purpose.POINT: 2,
            Purpose.CONVEX: 2,
            Purpose.ACTIVE_SET: 3,
            Purpose.CURVED: 2,
            Purpose.CONIC: 1,
        },
    ),
    "tree": _Entry("highspy", "bilevel.backends.tree", "Tree"),
    "daqp": _Entry(
        "daqp",
        "bilevel.backends.daqp",
        "DAQP",
        places={
            Purpose.FOLLOWER: 2,
            Purpose.CERTIFICATE: 2,
            Purpose.EXTREME: 3,
            Purpose.ACTIVE_SET: 2,
            Purpose.CURVED: 1,
        },
    ),
    "proxsuite": _Entry("proxsuite", "bilevel.backends.proxsuite", "ProxQP", "proxsuite"),
    "moreau": _Entry("moreau", "bilevel.backends.moreau", "Moreau", "moreau"),
    "ipopt": _Entry("casadi", "bilevel.backends.ipopt", "IPOPT", "casadi"),
    # Serves no purpose: followers are not to wait for a licence, nor to take one away.
    "gurobi": _Entry("gurobipy", "bilevel.backends.gurobi", "Gurobi", "gurobi"),
}

# What a backend of one's own must state; the abstract class gives no default.
_STATED = ("name", "features", "gives_multipliers")


def _by_place(purpose: Purpose) -> tuple[str, ...]:
    served = [name for name, entry in _ENTRIES.items() if purpose in entry.places]
    return tuple(sorted(served, key=lambda name: _ENTRIES[name].places[purpose]))


_ORDER = {purpose: _by_place(purpose) for purpose in Purpose}


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


def routes(purpose: Purpose) -> tuple[str, ...]:
    """Return the names of the installed backends that serve a purpose, the preferred one first.

    Examples
    --------
    >>> from bilevel.backends import Purpose, routes
    >>> routes(Purpose.CONVEX)
    ('highs', 'clarabel')
    """
    return tuple(name for name in _ORDER[purpose] if _installed(_ENTRIES[name].package))


def serving(asked: Purpose | str | AbstractBackend) -> Iterator[AbstractBackend]:
    """Yield the installed backends that serve a purpose, in order, or the one that is named.

    A vendor's package is imported when the iteration reaches it.
    """
    if isinstance(asked, Purpose):
        for name in _ORDER[asked]:
            entry = _ENTRIES[name]
            if _installed(entry.package):
                yield _made(entry)
    else:
        yield get(asked)


def with_multipliers() -> tuple[str, ...]:
    """Return the names of the installed backends that give multipliers; imports all of them."""
    return tuple(name for name in available() if _made(_ENTRIES[name]).gives_multipliers)


def get(backend: str | AbstractBackend) -> AbstractBackend:
    """Return a backend by its name; one's own, an ``AbstractBackend``, is returned as it is.

    Raises
    ------
    ProblemError
        If there is no backend of that name, or one's own does not state what every backend must.
    BackendNotFound
        If its package is not installed.
    """
    if not isinstance(backend, str):
        return _own(backend)
    entry = _ENTRIES.get(backend)
    if entry is None:
        raise ProblemError(f"There is no backend {backend!r}; the known ones are {list(_ENTRIES)}.")
    if not _installed(entry.package):
        raise BackendNotFound(
            f"Backend {backend!r} needs the package {entry.package}, which is not installed: "
            f"pip install {entry.install}. Installed backends: {list(available())}."
        )
    return _made(entry)


def _made(entry: _Entry) -> AbstractBackend:
    return getattr(import_module(entry.module), entry.backend)()


def _own(backend: object) -> AbstractBackend:
    """Return a backend of one's own, or refuse it by what it lacks."""
    if not isinstance(backend, AbstractBackend):
        kind = backend.__name__ if isinstance(backend, type) else type(backend).__name__
        more = f" Give an object: {kind}()." if isinstance(backend, type) else ""
        raise ProblemError(
            f"backend must be a name, one of {list(_ENTRIES)}, or an object of a class under "
            f"bilevel.backends.AbstractBackend, not {kind}.{more}"
        )
    if lacking := [word for word in _STATED if not hasattr(backend, word)]:
        raise ProblemError(
            f"Backend {type(backend).__name__} does not state {', '.join(lacking)}: set "
            f"{'it' if len(lacking) == 1 else 'them'} on the class, as "
            f"bilevel.backends.AbstractBackend documents."
        )
    return backend


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False
