"""Convex polygons in the plane: cutting, subtracting, measuring.

A polygon is an array of corners, shape ``(v, 2)``, counterclockwise; no corners are the empty set.
"""

from __future__ import annotations

import numpy as np

from bilevel.problem.functions import Array

_SHORT = 1e-12


def area(polygon: Array) -> float:
    """Return the area."""
    if len(polygon) < 3:
        return 0.0
    x, y = (polygon - polygon[0]).T
    return 0.5 * float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))


def width(polygon: Array) -> float:
    """Return the diameter of the largest disc that may fit, up to a factor of two."""
    steps = np.roll(polygon, -1, axis=0) - polygon
    around = float(np.sqrt((steps**2).sum(axis=1)).sum())
    return 4.0 * area(polygon) / around if around > 0 else 0.0


def halfplanes(polygon: Array) -> tuple[Array, Array]:
    """Return ``(A, b)`` with unit rows such that the polygon is ``A p <= b``, edge by edge."""
    steps = np.roll(polygon, -1, axis=0) - polygon
    length = np.sqrt((steps**2).sum(axis=1))
    keep = length > _SHORT
    normals = np.column_stack([steps[:, 1], -steps[:, 0]])[keep] / length[keep, None]
    return normals, (normals * polygon[keep]).sum(axis=1)


def cut(polygon: Array, normal: Array, offset: float) -> Array:
    """Return the part with ``normal'p <= offset``."""
    if not len(polygon):
        return polygon
    height = polygon @ normal - offset
    corners = []
    for i, j in zip(range(len(polygon)), np.roll(range(len(polygon)), -1), strict=True):
        if height[i] <= 0:
            corners.append(polygon[i])
        if height[i] * height[j] < 0:
            share = height[i] / (height[i] - height[j])
            corners.append(polygon[i] + share * (polygon[j] - polygon[i]))
    return np.array(corners).reshape(-1, 2)


def subtract(polygon: Array, A: Array, b: Array) -> list[Array]:
    """Return convex pieces that make up the polygon without ``A p <= b``."""
    pieces = []
    for normal, offset in zip(A, b, strict=True):
        outside = cut(polygon, -normal, -offset)
        if area(outside) > 0:
            pieces.append(outside)
        polygon = cut(polygon, normal, offset)
        if not len(polygon):
            break
    return pieces


def tidy(polygon: Array, tolerance: float) -> Array:
    """Drop corners that lie within ``tolerance`` of the line between their neighbours."""
    corners = list(polygon)
    i = 0
    while len(corners) > 2 and i < len(corners):
        before = corners[i - 1]
        here = corners[i]
        after = corners[(i + 1) % len(corners)]
        step = after - before
        length = float(np.hypot(*step))
        off = here - before
        distance = abs(step[0] * off[1] - step[1] * off[0]) / length if length > 0 else 0.0
        if distance <= tolerance:
            corners.pop(i)
            i = max(i - 1, 0)
        else:
            i += 1
    return np.array(corners).reshape(-1, 2)
