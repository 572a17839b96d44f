"""Whether a claim about a random problem is true, given what the oracle knows."""

from __future__ import annotations

from benchmarks.oracle import Truth

#: Relative to ``max(1, |value|)``.
TOLERANCE = 1e-5

_CLAIMS_NOTHING = ("NOT_FOUND", "FAILED")
_WITH_POINT = ("OPTIMAL", "FEASIBLE", "STATIONARY", "NOT_ATTAINED")


def judge(
    truth: Truth,
    sign: float,
    status: str,
    value: float | None,
    bound: float | None,
    accepted: bool | None = True,
) -> tuple[str, str]:
    """Return ``(outcome, why)`` of a claim.

    Parameters
    ----------
    truth
        What the oracle found.
    sign
        -1 if the leader maximizes.
    status, value, bound
        The claim, in the leader's own sense.
    accepted
        Whether the point passed its certificate.
    """
    if wrong := _wrong(truth, sign, status, value, bound, accepted):
        return "wrong", wrong
    if status == "FAILED":
        return "failed", ""
    if status in truth.claims:
        return "solved", ""
    return "unproved", ""


def _wrong(
    truth: Truth,
    sign: float,
    status: str,
    value: float | None,
    bound: float | None,
    accepted: bool | None,
) -> str:
    found = f"the truth is {'/'.join(sorted(truth.claims))} {_number(truth.value)}"
    if status == "OPTIMAL" and not accepted:
        return f"OPTIMAL without an accepted certificate; {found}"
    if truth.value is None:
        if status in _WITH_POINT and "UNBOUNDED" not in truth.claims:
            return f"a point ({status}) where none exists; {found}"
        if bound is not None and "UNBOUNDED" in truth.claims:
            return f"a bound {bound:.9g} on an unbounded problem"
        # A local point says nothing about how far the problem goes down elsewhere.
        if status not in (*_CLAIMS_NOTHING, "FEASIBLE", "STATIONARY", *truth.claims):
            return f"{status}, but {found}"
        return ""
    tolerance = TOLERANCE * max(1.0, abs(truth.value))
    if bound is not None and sign * (bound - truth.value) > tolerance:
        return f"bound {bound:.9g} is not valid; {found}"
    if status in _CLAIMS_NOTHING:
        return ""
    if value is None or status not in _WITH_POINT:
        return f"{status}, but {found}"
    if status == "OPTIMAL" and abs(value - truth.value) > tolerance:
        return f"OPTIMAL with value {value:.9g}; {found}"
    if status == "NOT_ATTAINED":
        return f"NOT_ATTAINED, but {found}"
    if sign * (value - truth.value) < -tolerance:
        return f"a point that is better ({value:.9g}) than possible; {found}"
    return ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"
