"""Names that need an extra: what to install where it is missing."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, NoReturn

from bilevel.errors import BackendNotFound

#: The packages of each extra without which its names cannot be imported.
_PACKAGES = {"torch": ("torch", "optree", "numba")}


def require(extra: str, what: str) -> None:
    """Raise ``BackendNotFound`` with the install line where a package of an extra is missing.

    Parameters
    ----------
    extra
        Its name, such as ``"torch"``.
    what
        Who needs it, for the message.

    Raises
    ------
    BackendNotFound
        If one of its packages is not installed.
    """
    for package in _PACKAGES[extra]:
        try:
            is_there = find_spec(package) is not None
        except ImportError:
            is_there = False
        if not is_there:
            raise BackendNotFound(
                f"{what} needs the package {package}, which is not installed: "
                f"pip install 'bilevel[{extra}]'.",
                name=package,
            )


class Absent(type):
    """The type of what stands in for a name whose extra is not installed.

    The name can be asked for, listed and imported; whoever calls it or looks into it gets the
    reason it carries as ``BackendNotFound``.
    """

    reason: str

    def __call__(cls, *_: Any, **__: Any) -> NoReturn:
        """Raise ``BackendNotFound``."""
        raise BackendNotFound(cls.reason)

    def __getattr__(cls, name: str) -> NoReturn:
        # Inspection asks every object for names such as __wrapped__ and takes no for an answer.
        if name.startswith("__"):
            raise AttributeError(name)
        raise BackendNotFound(cls.reason)


def stand_in(name: str, reason: str) -> Any:
    """Return what stands in for a name whose extra is not installed.

    Parameters
    ----------
    name
        The name.
    reason
        What to install, raised as soon as the name is used.
    """
    return Absent(name, (), {"reason": reason, "__doc__": reason})
