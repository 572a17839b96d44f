"""Old names that still work for a release, under a ``DeprecationWarning``."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

_Target = TypeVar("_Target", bound=Callable[..., Any])
_Class = TypeVar("_Class", bound=type)


def renamed_keywords(**old_to_new: str) -> Callable[[_Target], _Target]:
    """Return a decorator for a function whose keywords were renamed.

    Parameters
    ----------
    old_to_new
        The new name of each old one.

    Returns
    -------
    function
        The decorated one takes an old keyword for the new one and warns; both at once are a
        ``TypeError``.

    Examples
    --------
    >>> import warnings
    >>> from bilevel.deprecation import renamed_keywords
    >>> @renamed_keywords(limit="max_steps")
    ... def descend(max_steps=10):
    ...     return max_steps
    >>> with warnings.catch_warnings(record=True) as seen:
    ...     warnings.simplefilter("always")
    ...     print(descend(limit=3), seen[0].message)
    3 descend(limit=...) is now called max_steps; the old name goes with the next release.
    """

    def decorate(function: _Target) -> _Target:
        name = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def renamed(*args: Any, **kwargs: Any) -> Any:
            for old in old_to_new.keys() & kwargs.keys():
                new = old_to_new[old]
                if new in kwargs:
                    raise TypeError(
                        f"{name} got both {new}= and {old}=, its old name: leave {old}= out."
                    )
                _warn(f"{name}({old}=...)", new)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return renamed  # type: ignore[return-value]

    return decorate


def renamed_fields(**old_to_new: str) -> Callable[[_Class], _Class]:
    """Return a decorator for a class of records whose fields were renamed.

    It stands above ``dataclass``. Old keywords and old attributes work and warn.

    Parameters
    ----------
    old_to_new
        The new name of each old one.

    Examples
    --------
    >>> import warnings
    >>> from dataclasses import dataclass
    >>> from bilevel.deprecation import renamed_fields
    >>> @renamed_fields(limit="max_steps")
    ... @dataclass(frozen=True)
    ... class Search:
    ...     max_steps: int = 10
    >>> with warnings.catch_warnings(record=True) as seen:
    ...     warnings.simplefilter("always")
    ...     print(Search(limit=3), Search().limit, len(seen))
    Search(max_steps=3) 10 2
    """

    def decorate(cls: _Class) -> _Class:
        cls.__init__ = renamed_keywords(**old_to_new)(cls.__init__)
        for old, new in old_to_new.items():
            setattr(cls, old, property(_reader(cls.__name__, old, new)))
        return cls

    return decorate


def renamed_attribute(module: str, name: str, old_to_new: Mapping[str, str]) -> Any:
    """Return what an old name in a module is called now; a module's ``__getattr__`` calls this.

    Parameters
    ----------
    module
        Its ``__name__``.
    name
        What was asked for.
    old_to_new
        The new name of each old one.

    Raises
    ------
    AttributeError
        If the module has had no such name.

    Examples
    --------
    >>> from bilevel.deprecation import renamed_attribute
    >>> try:
    ...     renamed_attribute(
    ...         "bilevel.deprecation", "nothing", {"old": "renamed_fields"}
    ...     )
    ... except AttributeError as error:
    ...     print(error)
    module 'bilevel.deprecation' has no attribute 'nothing'
    """
    if name not in old_to_new:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    # One frame more: the reader stands behind the module's __getattr__.
    _warn(f"{module}.{name}", old_to_new[name], stacklevel=4)
    return getattr(sys.modules[module], old_to_new[name])


class Renamed:
    """An old name of a member or field, in the body of an enumeration or class.

    Parameters
    ----------
    new
        What it is called now.

    Notes
    -----
    Unlike ``renamed_fields`` it leaves the constructor alone.

    Examples
    --------
    >>> import warnings
    >>> from enum import Enum
    >>> from bilevel.deprecation import Renamed
    >>> class Colour(Enum):
    ...     GREEN = 1
    ...     LIME = Renamed("GREEN")
    >>> with warnings.catch_warnings(record=True) as seen:
    ...     warnings.simplefilter("always")
    ...     print(Colour.LIME, len(Colour), len(seen))
    Colour.GREEN 1 1
    """

    def __init__(self, new: str) -> None:
        self._new = new
        self._old = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._old = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None and not issubclass(owner, Enum):
            return self
        _warn(f"{owner.__name__}.{self._old}", self._new)
        return getattr(owner if instance is None else instance, self._new)


def _reader(owner: str, old: str, new: str) -> Callable[[Any], Any]:
    def read(record: Any) -> Any:
        _warn(f"{owner}.{old}", new)
        return getattr(record, new)

    read.__doc__ = f"Deprecated name of ``{new}``."
    return read


def _warn(what: str, new: str, stacklevel: int = 3) -> None:
    """Warn the caller of the function that calls this."""
    warnings.warn(
        f"{what} is now called {new}; the old name goes with the next release.",
        DeprecationWarning,
        stacklevel=stacklevel,
    )
