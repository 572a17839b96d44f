"""The parameters a reaction map covers: an interval, a polygon, a segment or a point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bilevel.problem.functions import Array
from bilevel.response.reaction_map import polygons
from bilevel.response.reaction_map.polyhedra import Polyhedron

# What is thinner than this share of the domain counts as flat.
THIN = 1e-7


@dataclass(frozen=True)
class Domain:
    """A convex set of parameters.

    Parameters
    ----------
    corners
        Its corners in units of ``size``, shape ``(v, d)``; two, which may be infinite, for an
        interval or a segment.
    size
        Its extent in each coordinate, one where that is infinite or zero, shape ``(d,)``.
    dimension
        Its own dimension; ``-1`` if it is empty.
    """

    corners: Array
    size: Array
    dimension: int

    @classmethod
    def around(cls, corners: Array, dimension: int) -> Domain:
        """Return the domain with these corners (in the parameters' own units)."""
        span = corners.max(axis=0) - corners.min(axis=0)
        size = np.where(np.isfinite(span) & (span > THIN), span, 1.0)
        return cls(corners / size, size, dimension)

    @classmethod
    def of(cls, image: Polyhedron, d: int) -> Domain | None:
        """Return the image of a polyhedron in its first ``d`` coordinates.

        ``None`` stands for an unbounded image in the plane; an interval may be unbounded.
        """
        ends = [image.extent(np.eye(d)[i]) for i in range(d)]
        if any(end is None for end in ends) or (d == 0 and image.extent(np.empty(0)) is None):
            return cls(np.empty((0, d)), np.ones(d), -1)
        low, high = np.array([end for end in ends if end is not None], float).reshape(d, 2).T
        size = np.where(np.isfinite(high - low) & (high - low > THIN), high - low, 1.0)
        if d < 2:
            flat = bool((high - low <= THIN).all())
            corners = 0.5 * (low + high)[None] if flat else np.array([low, high])
            return cls(corners / size, size, int(not flat))
        if not np.isfinite([low, high]).all():
            return None
        found = image.shadow(selector(image.n, size))
        if found is None:
            return None
        corners = found[0]
        if len(corners) > 2 and polygons.width(corners) <= THIN:
            apart = ((corners[:, None] - corners[None]) ** 2).sum(axis=2)
            corners = corners[list(np.unravel_index(np.argmax(apart), apart.shape))]
        if len(corners) == 2 and abs(corners[0] - corners[1]).max() <= THIN:
            corners = corners.mean(axis=0, keepdims=True)
        return cls(corners, size, min(len(corners), 3) - 1)

    @property
    def middle(self) -> Array:
        """A point inside, in units of ``size``; one unit from the end of a ray."""
        low = self.corners.min(axis=0)
        high = self.corners.max(axis=0)
        if len(self.corners) > 2 or np.isfinite([low, high]).all():
            return self.corners.mean(axis=0)
        return np.where(np.isfinite(low), low + 1.0, np.where(np.isfinite(high), high - 1.0, 0.0))

    def restrict(self, pairs: Polyhedron) -> Polyhedron:
        """Return the part of a polyhedron over the domain; its first columns are parameters."""
        A, b = halfspaces(self.corners)
        # The cells of a domain without interior need not lie in it to the last digit.
        return pairs.also(
            A / self.size, b + (0.1 * THIN if self.dimension < len(self.size) else 0.0)
        )


def halfspaces(corners: Array) -> tuple[Array, Array]:
    """Return ``(A, b)`` with unit rows such that a convex set with these corners is ``A p <= b``.

    Two corners are an interval, whose ends may be infinite, or a segment; what has no interior has
    pairs of opposite rows.
    """
    count, d = corners.shape
    if count == 1:
        return np.vstack([np.eye(d), -np.eye(d)]), np.concatenate([corners[0], -corners[0]])
    if d == 1:
        low = float(corners.min())
        high = float(corners.max())
        A = np.array([[1.0], [-1.0]])
        b = np.array([high, -low])
        return A[np.isfinite(b)], b[np.isfinite(b)]
    if count == 2:
        line = Line.between(corners[0], corners[1])
        normal = np.array([line.direction[1], -line.direction[0]])
        A = np.array([normal, -normal, -line.direction, line.direction])
        return A, np.append((A[:3] * corners[0]).sum(axis=1), line.direction @ corners[1])
    return polygons.halfplanes(corners)


def selector(n: int, size: Array) -> Array:
    """Return the matrix that takes the first coordinates in units of ``size``."""
    return np.eye(len(size), n) / size[:, None]


@dataclass(frozen=True)
class Line:
    """Points ``origin + s direction`` for ``low <= s <= high``, in units of the domain's size.

    Parameters
    ----------
    origin, direction
        Shape ``(d,)``; the direction has unit length.
    low, high
        Ends, which may be infinite.
    """

    origin: Array
    direction: Array
    low: float
    high: float

    @classmethod
    def between(cls, start: Array, end: Array) -> Line:
        """Return the line from ``start`` to ``end``."""
        if len(start) == 1:
            return cls(np.zeros(1), np.ones(1), float(start[0]), float(end[0]))
        length = float(np.hypot(*(end - start)))
        return cls(start, (end - start) / length, 0.0, length)

    def at(self, s: float) -> Array:
        """Return the point at ``s``."""
        return self.origin + s * self.direction

    def place(self, points: Array) -> Array:
        """Return ``s`` of the points' feet, shape ``(v,)``."""
        return (points - self.origin) @ self.direction

    def distance(self, points: Array) -> float:
        """Return the largest distance of points from the line."""
        if len(self.origin) == 1:
            return 0.0
        normal = np.array([self.direction[1], -self.direction[0]])
        return float(abs((points - self.origin) @ normal).max(initial=0.0))

    def reach(self, corners: Array, tolerance: float) -> tuple[float, float]:
        """Return the part of the line within a cell, its ends within ``tolerance`` of it.

        Returns
        -------
        tuple
            First and last ``s``; last before first where they do not meet.
        """
        low = self.low
        high = self.high
        if len(corners) > 2:
            A, b = polygons.halfplanes(corners)
            for along, left in zip(A @ self.direction, b - A @ self.origin, strict=True):
                if abs(along) * max(high - low, 1.0) <= tolerance:
                    if left < -tolerance:
                        return high, low
                elif along > 0:
                    high = min(high, (left + tolerance) / along)
                else:
                    low = max(low, (left + tolerance) / along)
            return low, high
        if self.distance(corners) > tolerance:
            return high, low
        places = self.place(corners)
        return max(low, float(places.min())), min(high, float(places.max()))

    def between_ends(self, low: float, high: float, share: float) -> float:
        """Return a point of an interval, which may be unbounded, for a share between 0 and 1."""
        if np.isfinite([low, high]).all():
            return low + share * (high - low)
        step = share / (1.0 - share)
        if np.isfinite(low):
            return low + step * max(1.0, abs(low))
        if np.isfinite(high):
            return high - step * max(1.0, abs(high))
        return step - 1.0
