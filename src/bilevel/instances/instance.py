"""What is known about a textbook problem: frozen records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from bilevel.problem.problem import Problem
from bilevel.status import Status
from bilevel.structure import Stance


@dataclass(frozen=True)
class Answer:
    """The known answer to a problem under one stance.

    Parameters
    ----------
    status
        What a complete method must claim.
    value
        The leader's optimal value in its own sense, for ``NOT_ATTAINED`` the value that is
        approached; ``None`` where there is none.
    point
        By name, what has the same value at every optimum: variables of both levels, and the
        multipliers and follower values that the leader uses. Vectors are tuples.
    unique
        Whether there is one optimum, so that ``point`` holds all of it.

    Examples
    --------
    >>> from bilevel import Status
    >>> from bilevel.instances import Answer
    >>> Answer(Status.OPTIMAL, 4.0, {"x": 2.0, "y": 1.0}).point["y"]
    1.0
    """

    status: Status
    value: float | None
    point: Mapping[str, float | tuple[float, ...]] = field(default_factory=dict)
    unique: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "point", MappingProxyType(dict(self.point)))


@dataclass(frozen=True)
class Instance:
    """A textbook problem with its known answers.

    Parameters
    ----------
    name
        Short name, such as ``"T4"``; a letter marks a variant of the same example.
    title
        What it shows.
    source
        Text and section.
    build
        Makes a fresh problem.
    optimistic, pessimistic
        The answer under each stance; ``None`` where none is known or the stance has no meaning.
    notes
        What is ours in it, where its source errs, and what a wrong method answers.
    solvable
        Whether the present methods can be expected to accept it; they must refuse the others.

    Examples
    --------
    >>> import bilevel as bl
    >>> instance = bl.instances.get("T2")
    >>> instance.title, instance.optimistic.value
    ('Nonconvexity that emerges', 4.0)
    """

    name: str
    title: str
    source: str
    build: Callable[[], Problem] = field(repr=False)
    optimistic: Answer
    pessimistic: Answer | None
    notes: str = ""
    solvable: bool = True

    @classmethod
    def agreed(cls, answer: Answer, **fields: Any) -> Instance:
        """Return an instance with the same answer under both stances.

        Parameters
        ----------
        answer
            The answer.
        fields
            All other fields.

        Examples
        --------
        >>> import bilevel as bl
        >>> instance = bl.instances.get("T1")
        >>> instance.optimistic is instance.pessimistic
        True
        """
        return cls(optimistic=answer, pessimistic=answer, **fields)

    @property
    def problem(self) -> Problem:
        """A fresh, optimistic problem on every access, because CVXPY's variables hold values.

        Examples
        --------
        >>> import bilevel as bl
        >>> instance = bl.instances.get("T1")
        >>> instance.problem is instance.problem
        False
        """
        return self.build()

    def answer(self, stance: str | Stance) -> Answer | None:
        """Return the known answer under a stance.

        Parameters
        ----------
        stance
            ``"optimistic"`` or ``"pessimistic"``.

        Examples
        --------
        >>> import bilevel as bl
        >>> bl.instances.get("T4").answer("pessimistic").status.name
        'NOT_ATTAINED'
        """
        return self.optimistic if Stance(stance) is Stance.OPTIMISTIC else self.pessimistic
