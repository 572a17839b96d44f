"""The cells of the parameter space on which followers respond in one way, found without gaps.

On a cell the optimal partition is the same everywhere; cells are convex,
disjoint and finitely many. Those of full dimension are found by asking at a point that none covers
yet, until nothing is left; all others lie on their boundaries and are found there in the same way,
one dimension lower.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from bilevel.problem.functions import Array
from bilevel.program import Termination
from bilevel.response.reaction_map import polygons
from bilevel.response.reaction_map.domain import THIN, Domain, Line, selector
from bilevel.response.reaction_map.parametric import Parametric, Partition

_CLOSE = 1e-6
# Loose first: a point on the boundary of a cell is known up to rounding and may seem to lie inside.
_TOLERANCES = (1e-5, 1e-6, 1e-7, 1e-8)
_NUDGES = (1e-9, 1e-8, 1e-7)
_TRIES = 12


@dataclass(frozen=True)
class Cell:
    """Parameters with one optimal partition.

    Parameters
    ----------
    partition
        The partition.
    corners
        Corners of its closure within the domain, in units of the domain's size, shape ``(v, d)``;
        two, which may be infinite, for an interval.
    dimension
        Its own dimension.
    """

    partition: Partition
    corners: Array
    dimension: int


@dataclass
class Explorer:
    """Finds the cells of a parametric program over a domain; used once.

    Parameters
    ----------
    program
        The followers.
    domain
        Where.
    stop
        Asked before every search; ``True`` ends it.
    inner_only
        Whether cells of full dimension are enough.
    found
        Cells by the key of their partition.
    missed
        Share of the domain where no cell was found; one or more where a boundary was not settled.
    """

    program: Parametric
    domain: Domain
    stop: Callable[[], bool]
    inner_only: bool = False
    found: dict[bytes, Cell] = field(default_factory=dict)
    missed: float = 0.0

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self._ends: list[Array] = []

    def run(self) -> tuple[tuple[Cell, ...], float]:
        """Return all cells, those of full dimension first, and ``missed``."""
        corners = self.domain.corners
        if self.domain.dimension == 0:
            self._point(corners[0])
        elif self.domain.dimension == 1:
            self._line(Line.between(corners[0], corners[1]))
        elif self.domain.dimension == 2:
            self._plane(corners)
        if not self.inner_only:
            self._points()
        return tuple(sorted(self.found.values(), key=lambda cell: -cell.dimension)), self.missed

    def _plane(self, corners: Array) -> None:
        total = polygons.area(corners)
        left = [corners]
        while left:
            left.sort(key=polygons.area)
            piece = left.pop()
            cell = None
            if polygons.width(piece) > THIN and not self.stop():
                cell = self._polygon_within(piece)
            if cell is None:
                self.missed += polygons.area(piece) / total
                continue
            A, b = polygons.halfplanes(cell.corners)
            left = [rest for part in (*left, piece) for rest in polygons.subtract(part, A, b)]
        for cell in [] if self.inner_only else list(self.found.values()):
            for here, after in zip(cell.corners, np.roll(cell.corners, -1, axis=0), strict=True):
                if np.hypot(*(after - here)) > THIN:
                    self._line(Line.between(here, after))

    def _polygon_within(self, piece: Array) -> Cell | None:
        """Return a new cell of full dimension around some point of an uncovered piece."""
        for attempt in range(_TRIES):
            point = self._rng.dirichlet(np.full(len(piece), 4.0 / (1 + attempt))) @ piece
            partition = self._settle(point)
            if partition is None or partition.key in self.found:
                continue
            pairs = self.domain.restrict(self.program.pairs(partition))
            image = pairs.shadow(selector(pairs.n, self.domain.size))
            if image is None or polygons.width(image[0]) <= THIN:
                continue
            A, b = polygons.halfplanes(image[0])
            if (A @ point - b).max() <= _CLOSE:
                return self._keep(partition, image[0], 2)
        return None

    def _line(self, line: Line) -> None:
        """Cover a line by cells and note where they end."""
        gaps = [(line.low, line.high)]
        ends = {line.low, line.high}
        while gaps:
            low, high = gaps.pop()
            if not high - low > THIN:  # two infinite ends differ by no number
                continue
            reach = None if self.stop() else self._interval_within(line, low, high)
            if reach is None:
                self.missed += 1.0
                continue
            gaps += [(low, reach[0]), (reach[1], high)]
            ends |= {max(low, reach[0]), min(high, reach[1])}
        self._ends += [line.at(s) for s in sorted(ends) if np.isfinite(s)]

    def _points(self) -> None:
        """Settle the points where other cells end; after all those, whose partition may hold on."""
        settled: list[Array] = []
        for point in self._ends:
            if all(abs(point - other).max() > THIN for other in settled):
                settled.append(point)
                self._point(point)

    def _interval_within(self, line: Line, low: float, high: float) -> tuple[float, float] | None:
        """Return which part of a line the cell around some point of a gap covers."""
        for cell in self.found.values():  # an edge of two polygons is met twice
            first, last = line.reach(cell.corners, _CLOSE) if cell.dimension == 1 else (1.0, 0.0)
            if last - first > THIN and first <= 0.5 * (low + high) <= last:
                return first, last
        for attempt in range(_TRIES):
            share = 0.5 if not attempt else float(self._rng.uniform(0.05, 0.95))
            s = line.between_ends(low, high, share)
            partition = self._settle(line.at(s))
            cell = None
            if partition is not None:
                cell = self.found.get(partition.key) or self._on_line(partition, line)
            if cell is None:
                continue
            first, last = line.reach(cell.corners, _CLOSE)
            if last - first > THIN and first - _CLOSE <= s <= last + _CLOSE:
                return first, last
        return None

    def _on_line(self, partition: Partition, line: Line) -> Cell | None:
        """Record the cell of a new partition if it is an interval of the line."""
        pairs = self.domain.restrict(self.program.pairs(partition))
        reach = pairs.extent(line.direction / self.domain.size)
        if reach is None or reach[1] - reach[0] <= THIN:
            return None
        if len(line.origin) == 2:
            normal = np.array([line.direction[1], -line.direction[0]])
            across = pairs.extent(normal / self.domain.size)
            middle = float(normal @ line.origin)
            if across is None or max(across[1] - middle, middle - across[0]) > _CLOSE:
                return None
        shift = float(line.direction @ line.origin)
        corners = np.array([line.at(end - shift) for end in reach])
        return self._keep(partition, corners, 1)

    def _point(self, point: Array) -> None:
        """Settle the partition at a point where other cells end."""
        partition = None if self.stop() else self._settle(point)
        if partition is None:
            self.missed += 1.0
        elif partition.key not in self.found:
            self._keep(partition, point[None], 0)

    def _settle(self, point: Array) -> Partition | None:
        """Return the partition at a point, after checking that its cell is there."""
        size = self.domain.size
        eye = np.eye(len(self.domain.size))
        for tolerance in _TOLERANCES:
            partition = self._ask(point, tolerance)
            if partition is None:
                continue
            box = self.program.pairs(partition)
            theta = point * size
            box = box.also(eye, theta + _CLOSE * size).also(-eye, _CLOSE * size - theta)
            if box.minimise(np.zeros(box.n))[0] is Termination.OPTIMAL:
                return partition
        return None

    def _ask(self, point: Array, tolerance: float) -> Partition | None:
        """Return the partition at a point, or next to one that rounding put outside the domain."""
        size = self.domain.size
        for step in (0.0, *_NUDGES):
            theta = (point + step * (self.domain.middle - point)) * size
            partition = self.program.partition(theta, tolerance, size)
            if partition is not None:
                return partition
        return None

    def _keep(self, partition: Partition, corners: Array, dimension: int) -> Cell:
        cell = Cell(partition, corners, dimension)
        self.found[partition.key] = cell
        return cell
