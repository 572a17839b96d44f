"""What a solver claims about its answer."""

from enum import Enum


class Status(Enum):
    """What is claimed; the value of each member is the sentence to show a person.

    Notes
    -----
    Only an exact method whose bound meets a verified point may claim ``OPTIMAL``.
    Local methods and heuristics end at ``STATIONARY`` or ``FEASIBLE``.

    Examples
    --------
    >>> from bilevel import Status
    >>> Status.FEASIBLE.has_point, Status.FEASIBLE.is_proved
    (True, False)
    """

    OPTIMAL = "Proved optimal: the verified point meets the bound within the tolerance."
    STATIONARY = "A local method converged; nothing is claimed about other points."
    FEASIBLE = "The followers' response is verified, optimality is not proved."
    NOT_ATTAINED = (
        "The best value is known but no point attains it; the point returned comes close."
    )
    INFEASIBLE = (
        "No leader decision meets the leader's constraints together with the followers' responses."
    )
    UNBOUNDED = "The leader's objective is unbounded over the followers' responses."
    FOLLOWER_INFEASIBLE = "A follower has no feasible answer to any decision the leader may take."
    FOLLOWER_UNBOUNDED = "A follower's problem is unbounded for every decision the leader may take."
    NOT_FOUND = "A limit was met before any point with verified answers was found."
    FAILED = "The solver stopped for a numerical reason, or its answer did not pass verification."

    @property
    def has_point(self) -> bool:
        """Whether a solution with this status carries a usable point."""
        return self in _WITH_POINT

    @property
    def is_proved(self) -> bool:
        """Whether this status is a proved statement about the whole problem."""
        return self in _PROVED


_WITH_POINT = frozenset({Status.OPTIMAL, Status.STATIONARY, Status.FEASIBLE, Status.NOT_ATTAINED})
_PROVED = frozenset(
    {
        Status.OPTIMAL,
        Status.NOT_ATTAINED,
        Status.INFEASIBLE,
        Status.UNBOUNDED,
        Status.FOLLOWER_INFEASIBLE,
        Status.FOLLOWER_UNBOUNDED,
    }
)
