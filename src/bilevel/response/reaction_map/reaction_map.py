"""The record of a reaction map: regions with affine responses, kinks and set-valued places."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from bilevel.deprecation import Renamed
from bilevel.errors import ProblemError
from bilevel.problem.functions import Array
from bilevel.problem.standard import LEADER, StandardForm
from bilevel.response.reaction_map.parameters import parameter_columns, response_columns
from bilevel.response.reaction_map.parametric import Parametric, Partition
from bilevel.response.response import optimistic_completion, worst_completion
from bilevel.structure import Stance
from bilevel.tables import table

# The share of the domain that rounding may leave uncovered.
_COMPLETE = 1e-6
_WIDE = 1e5
_INSIDE = 1e-9
_NEAR = 1e-8


@dataclass(frozen=True)
class Region:
    r"""Parameters ``{t : A t <= b}`` where the followers respond with ``y = K t + k``.

    Parameters
    ----------
    A, b
        The closed region, shapes ``(q, d)`` and ``(q,)``; a kink has pairs of opposite rows.
    corners
        Its corners, shape ``(v, d)``; two, which may be infinite, for an interval.
    dimension
        Its dimension: that of the parameters for a region, less for what lies between regions.
    K, k
        The response, shapes ``(n, d)`` and ``(n,)``; ``None`` where it is not unique.
    K_dual, k_dual
        The multipliers of the followers' rows, shapes ``(m, d)`` and ``(m,)``; ``None`` where they
        are not unique.
    partition
        Rows tight at every best response, and rows whose multiplier may be positive.

    Examples
    --------
    >>> import bilevel as bl
    >>> region = bl.reaction(bl.instances.get("T16").problem).regions[0]
    >>> print(region.K.tolist(), region.k.tolist())
    [[-0.5]] [5.0]
    """

    A: Array
    b: Array
    corners: Array
    dimension: int
    K: Array | None
    k: Array | None
    K_dual: Array | None
    k_dual: Array | None
    partition: Partition = field(repr=False)

    @property
    def is_unique(self) -> bool:
        """Whether there is one best response only."""
        return self.K is not None

    def contains(self, theta: Array) -> bool:
        """Return whether parameters lie in the closed region."""
        scale = np.maximum(1.0, abs(self.b))
        return bool((self.A @ theta - self.b <= _NEAR * scale).all())


@dataclass(frozen=True)
class ReactionMap:
    """How followers respond to every decision in a domain; ``reaction(problem)`` makes it.

    Parameters
    ----------
    parameters
        Names of the leader's columns that the followers see.
    responses
        Names of the followers' columns, in the order of ``K``.
    regions
        The regions, which cover the domain.
    boundary
        What lies between them: points, and in the plane segments, with the responses there.
    domain
        Corners of the domain, shape ``(v, d)``; two, which may be infinite, for an interval.
    uncovered
        Share of the domain where rounding kept a region from being found; one or more if what
        happens between regions is not known everywhere.
    form
        The compiled problem.
    program
        The followers as one parametric program.

    Notes
    -----
    Regions thinner than 1e-7 of the domain are not seen, so a map of a domain wider than 1e5 is
    never called complete.

    Examples
    --------
    >>> import bilevel as bl
    >>> reaction = bl.reaction(bl.instances.get("T2").problem)
    >>> print(
    ...     len(reaction),
    ...     [kink.corners.ravel().tolist() for kink in reaction.kinks],
    ... )
    3 [[-1.0], [1.0]]
    >>> print(reaction([0.25]))
    [0.25]
    """

    parameters: tuple[str, ...]
    responses: tuple[str, ...]
    regions: tuple[Region, ...]
    boundary: tuple[Region, ...]
    domain: Array
    uncovered: float
    form: StandardForm = field(repr=False)
    program: Parametric = field(repr=False)

    answers = Renamed("responses")

    def __repr__(self) -> str:
        return (
            f"ReactionMap({', '.join(self.responses)} of {', '.join(self.parameters)}, "
            f"{len(self)} regions, {'complete' if self.is_complete else 'INCOMPLETE'})"
        )

    def __len__(self) -> int:
        return len(self.regions)

    @property
    def is_complete(self) -> bool:
        """Whether the regions cover the domain and all that lies between them is known."""
        span = self.domain.max(axis=0) - self.domain.min(axis=0) if len(self.domain) else 0.0
        # In a domain this wide a region of ordinary size is thinner than what is seen.
        is_wide = np.any(np.isfinite(span) & (span > _WIDE))
        return bool(self.uncovered <= _COMPLETE and not is_wide)

    @property
    def set_valued(self) -> tuple[Region, ...]:
        """Regions, segments and points where the followers have several best responses."""
        return tuple(part for part in (*self.regions, *self.boundary) if not part.is_unique)

    @cached_property
    def kinks(self) -> tuple[Region, ...]:
        """Points, in the plane segments, where the response changes its slope or jumps."""
        d = len(self.parameters)
        walls = [part for part in self.boundary if part.dimension == d - 1]
        return tuple(sorted(filter(self._bends, walls), key=lambda part: part.corners[0].tolist()))

    def _bends(self, wall: Region) -> bool:
        middle = wall.corners.mean(axis=0)
        touching = [region for region in self.regions if region.contains(middle)]
        if len(touching) < 2:
            return False
        if any(not part.is_unique for part in (wall, *touching)):
            return True
        pieces = [np.column_stack([np.asarray(p.K), np.asarray(p.k)]) for p in touching]
        return any(abs(other - pieces[0]).max(initial=0.0) > 1e-7 for other in pieces[1:])

    def __call__(self, theta: Any) -> Array:
        """Return a best response at parameters of shape ``(d,)``, shape ``(n,)``.

        Where there are several, it is one of them; ``ranges`` tells all.
        """
        theta, parts = self._locate(theta)
        for part in parts:
            if part.K is not None and part.k is not None:
                return part.K @ theta + part.k
        found = self.program.solve(theta)
        if found is None:
            raise ProblemError(f"The followers have no best response at {theta.tolist()}.")
        return found[0][self._own]

    def ranges(self, theta: Any) -> tuple[Array, Array]:
        """Return the least and the largest value of every entry of the best responses.

        Parameters
        ----------
        theta
            Parameters, shape ``(d,)``.

        Returns
        -------
        tuple
            Two arrays of shape ``(n,)``; infinite where best responses are unbounded.
        """
        theta, parts = self._locate(theta)
        part = min(parts, key=lambda region: region.dimension)
        if part.K is not None and part.k is not None:
            value = part.K @ theta + part.k
            return value, value
        eye = np.eye(len(theta))
        tolerance = _INSIDE * np.maximum(1.0, abs(theta))
        face = self.program.pairs(part.partition)
        face = face.also(eye, theta + tolerance).also(-eye, tolerance - theta)
        ends = [face.extent(np.eye(face.n)[len(theta) + i]) for i in np.flatnonzero(self._own)]
        low, high = np.array([(np.nan, np.nan) if end is None else end for end in ends]).T
        return low, high

    def leader_value(self, theta: Any, stance: str | Stance = Stance.OPTIMISTIC) -> float:
        """Return the leader's objective with the response substituted, its reduced objective.

        Parameters
        ----------
        theta
            Parameters, shape ``(d,)``; the leader's other variables are chosen best for them.
        stance
            Whether the followers take the best or the worst of several responses.

        Returns
        -------
        float
            In the leader's own sense; NaN where a leader's constraint fails, or the value is not
            known.
        """
        theta, parts = self._locate(theta)
        form = self.form
        columns = parameter_columns(self.form)
        w = np.zeros(form.n)
        w[columns] = theta
        part = min(parts, key=lambda region: region.dimension)
        if part.is_unique and (form.columns.owner == LEADER).sum() == len(columns):
            w[response_columns(form)[self._own]] = self(theta)
            holds = form.rows.violation(w).max(initial=0.0) <= _NEAR
            holds = holds and all(cone.violation(w) <= _NEAR for cone in form.cones)
            return form.objective.sign * form.objective.evaluate(w) if holds else np.nan
        found = optimistic_completion(form, w)
        if found is not None and Stance(stance) is Stance.PESSIMISTIC and not part.is_unique:
            found = worst_completion(form, found)
        return np.nan if found is None else form.objective.sign * form.objective.evaluate(found)

    @property
    def _own(self) -> Array:
        return ~self.form.columns.auxiliary[response_columns(self.form)]

    def _locate(self, theta: Any) -> tuple[Array, list[Region]]:
        point = np.atleast_1d(np.asarray(theta, float))
        if point.shape != (len(self.parameters),) or not np.isfinite(point).all():
            raise ProblemError(
                f"A reaction map over {', '.join(self.parameters) or 'no parameter'} needs "
                f"{len(self.parameters)} finite numbers; it got an array of shape {point.shape}."
            )
        parts = [part for part in (*self.regions, *self.boundary) if part.contains(point)]
        if not parts:
            raise ProblemError(
                f"{dict(zip(self.parameters, point.tolist(), strict=True))} lies outside the "
                f"domain: the leader may not decide so, or the followers have no best response."
            )
        return point, parts

    def _repr_html_(self) -> str:
        """Return the regions with their responses as a table for a notebook."""
        caption = (
            f"Reaction to {', '.join(self.parameters) or 'no parameter'}: {len(self)} regions, "
            f"{len(self.kinks)} kinks, {len(self.set_valued)} set-valued places, coverage "
            f"{'complete' if self.is_complete else 'INCOMPLETE'}"
        )
        return table(self.rows(), head=("where", "response"), caption=caption)

    def summary(self) -> str:
        """Return the regions with their responses as text."""
        lines = [
            f"parameters         {', '.join(self.parameters) or 'none'}",
            f"regions            {len(self)}, kinks {len(self.kinks)}, set-valued places "
            f"{len(self.set_valued)}",
            f"coverage           {'complete' if self.is_complete else 'INCOMPLETE'}",
        ]
        lines += [f"  {where}: {response}" for where, response in self.rows()]
        return "\n".join(lines)

    def rows(self) -> tuple[tuple[str, str], ...]:
        """Return each region, and each set-valued place between regions, with the response there.

        Returns
        -------
        tuple
            Pairs of texts, from the least parameters on, such as ``"0 <= x <= 2"`` and
            ``"y = 1 - 0.5 x"``.
        """
        return tuple((self._where(part), self._formula(part)) for part in self._shown())

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and strings, ready for JSON but for infinite corners.

        Returns
        -------
        dict
            The names ``parameters`` and ``responses``, ``complete``, ``domain``, the ``kinks``, and
            the ``regions``: ``where`` in words, ``corners``, ``A`` and ``b`` of the region, and
            ``K`` and ``k`` of the response, ``null`` where it is not unique.
        """
        return {
            "parameters": list(self.parameters),
            "responses": list(self.responses),
            "complete": self.is_complete,
            "domain": self.domain.tolist(),
            "kinks": [part.corners.tolist() for part in self.kinks],
            "regions": [
                {
                    "where": self._where(part),
                    "response": self._formula(part),
                    "dimension": part.dimension,
                    "corners": part.corners.tolist(),
                    "A": part.A.tolist(),
                    "b": part.b.tolist(),
                    "unique": part.is_unique,
                    "K": None if part.K is None else part.K.tolist(),
                    "k": None if part.k is None else part.k.tolist(),
                }
                for part in self._shown()
            ],
        }

    def _shown(self) -> list[Region]:
        shown = sorted(self.regions, key=lambda region: region.corners[0].tolist())
        return shown + [part for part in self.boundary if not part.is_unique]

    def _formula(self, part: Region) -> str:
        if part.K is None or part.k is None:
            return "several best responses"
        terms = []
        for name, slope, constant in zip(self.responses, part.K, part.k, strict=True):
            text = f"{constant:.6g}" if constant or not slope.any() else ""
            for parameter, factor in zip(self.parameters, slope, strict=True):
                if factor:
                    text += f"{' + ' if text else ''}{factor:.6g} {parameter}"
            terms.append(f"{name} = {text}".replace("+ -", "- "))
        return ", ".join(terms)

    def _where(self, part: Region) -> str:
        low = part.corners.min(axis=0)
        high = part.corners.max(axis=0)
        if len(part.corners) > 2:
            corners = ", ".join(f"({x:.6g}, {y:.6g})" for x, y in part.corners)
            return f"({', '.join(self.parameters)}) in the polygon {corners}"
        if len(part.corners) == 2 and len(low) == 2:
            first, last = part.corners.tolist()
            return f"({', '.join(self.parameters)}) from {tuple(first)} to {tuple(last)}"
        return ", ".join(
            f"{name} = {a:.6g}" if a == b else f"{a:.6g} <= {name} <= {b:.6g}"
            for name, a, b in zip(self.parameters, low, high, strict=True)
        )
