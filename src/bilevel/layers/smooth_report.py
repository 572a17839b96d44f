"""What is said of the answers of a smooth layer."""

from __future__ import annotations

from bilevel.adjoints.adjoint import GradientKind
from bilevel.problem.precision import attainable
from bilevel.solvers.smooth.follower_solution import INDEFINITE
from bilevel.solvers.smooth.kkt_point import KKTPoint
from bilevel.status import Status

#: The largest norm of the optimality conditions with which an answer is passed on.
ACCEPTED = 1e-6
#: An inequality whose slack and multiplier are both smaller is active without force.
_WEAK = 1e-7


def judge(found: KKTPoint) -> tuple[tuple[Status, ...], dict[int, str]]:
    """Return the status of each instance, and a note where there is more to say."""
    status = []
    notes = {}
    largest = attainable(ACCEPTED, found.u)
    has_rows = found.st.barrier_parameter is None and bool(found.st.sizes[3])
    kink = ", perhaps at a kink: inequalities='barrier' has none" if has_rows else ""
    rows = zip(
        found.residual.tolist(),
        found.follower_is_minimum.tolist(),
        found.is_minimum.tolist(),
        strict=True,
    )
    for i, (residual, is_answer, is_minimum) in enumerate(rows):
        status.append(Status.STATIONARY)
        if not residual <= largest:
            status[i] = Status.FAILED
            notes[i] = f"its optimality conditions fail by {residual:.1e}{kink}"
        elif not is_answer:
            status[i] = Status.FAILED
            notes[i] = INDEFINITE
        elif not is_minimum:
            notes[i] = "the leader's second derivative is not positive definite here"
    return tuple(status), notes


def kinds(found: KKTPoint) -> tuple[GradientKind, ...]:
    """Return what the gradient of each instance is."""
    named = []
    largest = attainable(ACCEPTED, found.u)
    weak = attainable(_WEAK, found.u)
    is_smoothed = found.st.barrier_parameter is not None and bool(
        found.st.sizes[3] + found.st.sizes[5]
    )
    rows = zip(
        *(
            part.tolist()
            for part in (found.residual, found.follower_is_minimum, found.is_singular, found.margin)
        ),
        strict=True,
    )
    for residual, is_answer, is_singular, margin in rows:
        if not residual <= largest or not is_answer:
            named.append(GradientKind.NONE)
        elif is_singular:
            named.append(GradientKind.SURROGATE)
        elif is_smoothed:
            named.append(GradientKind.SMOOTHED)
        else:
            named.append(GradientKind.ONE_SIDED if margin <= weak else GradientKind.CLASSICAL)
    return tuple(named)
