"""What a bilevel problem is made of: flags that methods ask before they accept it."""

from __future__ import annotations

from enum import Enum, Flag, auto

from bilevel.deprecation import Renamed


class Stance(Enum):
    """Which of several equally good follower responses the leader reckons with.

    Examples
    --------
    >>> from bilevel import Stance
    >>> Stance("pessimistic") is Stance.PESSIMISTIC
    True
    """

    OPTIMISTIC = "optimistic"
    PESSIMISTIC = "pessimistic"


class Structure(Flag):
    """Properties of a compiled problem; each flag that is set makes the problem harder.

    Examples
    --------
    >>> import bilevel as bl
    >>> structure = bl.instances.get("T16").problem.structure
    >>> bl.Structure.FOLLOWER_QUADRATIC in structure
    True
    """

    PLAIN = 0
    LEADER_QUADRATIC = auto()
    LEADER_NONCONVEX = auto()
    LEADER_NONLINEAR_ROWS = auto()
    LEADER_INTEGER = auto()
    FOLLOWER_QUADRATIC = auto()
    FOLLOWER_INTEGER = auto()
    COUPLED = auto()
    PRODUCTS = auto()
    LINKING_INTEGER = auto()
    LINKING_CONTINUOUS = auto()
    CURVED_BY_LEADER = auto()
    DUAL_VARIABLES = auto()
    VALUES = auto()
    SEVERAL_FOLLOWERS = auto()
    NASH = auto()
    FOLLOWER_CONIC = auto()
    PRICES = Renamed("DUAL_VARIABLES")

    def sentences(self) -> tuple[str, ...]:
        """Return one sentence per flag that is set, for people to read."""
        return tuple(_SENTENCES[flag] for flag in _SENTENCES if flag in self)


_SENTENCES = {
    Structure.LEADER_QUADRATIC: "The leader's objective is quadratic.",
    Structure.LEADER_NONCONVEX: (
        "The leader's objective is not jointly convex (products of variables)."
    ),
    Structure.LEADER_NONLINEAR_ROWS: "The leader has quadratic or second-order cone constraints.",
    Structure.LEADER_INTEGER: "Some leader variables are integer or boolean.",
    Structure.FOLLOWER_QUADRATIC: "A follower's objective is quadratic.",
    Structure.FOLLOWER_INTEGER: "A follower has integer or boolean variables.",
    Structure.COUPLED: "Leader constraints contain follower variables.",
    Structure.PRODUCTS: "A leader variable multiplies follower variables.",
    Structure.LINKING_INTEGER: "Integer or boolean variables of the leader enter a follower.",
    Structure.LINKING_CONTINUOUS: "Continuous variables of the leader enter a follower.",
    Structure.CURVED_BY_LEADER: "A leader variable scales a follower's quadratic term.",
    Structure.DUAL_VARIABLES: "Multipliers of a follower appear in the leader's problem.",
    Structure.VALUES: "A follower's optimal value appears in the leader's problem.",
    Structure.SEVERAL_FOLLOWERS: "There are several followers.",
    Structure.NASH: "Nash among followers: a follower's problem contains another's variables.",
    Structure.FOLLOWER_CONIC: (
        "A follower has second-order, exponential or semidefinite cones (norms, logarithms, "
        "exponentials, matrix inequalities)."
    ),
}
