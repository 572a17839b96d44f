"""All textbook instances by name."""

from __future__ import annotations

from bilevel.errors import ProblemError
from bilevel.instances import applied, lifting, reactions, reformulations
from bilevel.instances.instance import Instance

_BY_NAME = {
    instance.name: instance
    for module in (reactions, reformulations, applied, lifting)
    for instance in module.INSTANCES
}


def names() -> tuple[str, ...]:
    """Return the names of all instances.

    Examples
    --------
    >>> import bilevel as bl
    >>> bl.instances.names()[:3]
    ('T1', 'T2', 'T2b')
    """
    return tuple(_BY_NAME)


def all_instances() -> tuple[Instance, ...]:
    """Return all instances.

    Examples
    --------
    >>> import bilevel as bl
    >>> [
    ...     instance.name
    ...     for instance in bl.instances.all_instances()
    ...     if not instance.solvable
    ... ]
    ['T5', 'T7', 'T7b']
    """
    return tuple(_BY_NAME.values())


def get(name: str) -> Instance:
    """Return an instance by name.

    Parameters
    ----------
    name
        One of ``names()``.

    Raises
    ------
    ProblemError
        If there is no instance of that name.

    Examples
    --------
    >>> import bilevel as bl
    >>> bl.instances.get("T16").optimistic.value
    10.125
    """
    if name not in _BY_NAME:
        raise ProblemError(f"There is no instance {name!r}; the known ones are {list(_BY_NAME)}.")
    return _BY_NAME[name]
