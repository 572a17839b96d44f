"""Best-bound search with dives over complementarity pairs and integers, without any big-M."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bilevel.backends.tree.compact import Compact
from bilevel.backends.tree.disjunctions import Change, Disjunctions
from bilevel.backends.tree.node import Node, Settings, gain
from bilevel.backends.tree.pseudocosts import score
from bilevel.backends.tree.session import AbstractSession, NodeAnswer
from bilevel.backends.tree.state import SearchState
from bilevel.problem.functions import Array
from bilevel.program import Limits, Program, Progress, RawAnswer, Termination

_STOPPED = (Termination.LIMIT, Termination.INTERRUPTED)
# Disjunctions are probed at the root again after so many times as many nodes.
_PROBE_AGAIN = 8
# Seconds a first answer is expected to cost; small problems are over before it pays.
_FIRST_ANSWER = 0.004
# Seconds between two reports, unless there is a better point.
_SILENCE = 0.1


class Reporter:
    """Calls ``progress`` at most every 0.1 s, or at once for a better point.

    Parameters
    ----------
    progress
        Called with ``Progress``; returning ``True`` stops the search.
    """

    def __init__(self, progress: Callable[[Progress], bool | None] | None) -> None:
        self._progress = progress
        self._last = -np.inf

    def __call__(
        self, state: SearchState, current: Node | None, seconds: float, at_once: bool
    ) -> bool:
        """Tell, if it is time, and return whether to stop."""
        if self._progress is None or (not at_once and seconds - self._last < _SILENCE):
            return False
        self._last = seconds
        value = state.value
        bound = state.bound(current)
        moment = Progress(
            seconds,
            value if np.isfinite(value) else None,
            bound if np.isfinite(bound) else None,
            state.count,
        )
        return bool(self._progress(moment))


class Search:
    """One run over one program.

    Parameters
    ----------
    program
        With linear rows.
    compact, session
        The program without slack columns, and where its relaxation is solved.
    points
        Opens a session that only asks for feasible points.
    limits
        Time, gap, callback.
    settings
        How to search.
    """

    def __init__(
        self,
        program: Program,
        compact: Compact,
        session: AbstractSession,
        points: Callable[[], AbstractSession],
        limits: Limits,
        settings: Settings,
    ) -> None:
        self._program = program
        self._compact = compact
        self._session = session
        self._points = points
        self._limits = limits
        self._settings = settings
        self._choices = Disjunctions(program, compact)
        self._state = SearchState.begin(program, compact, len(self._choices), limits.resume)
        self._began = time.perf_counter()
        self._current: Node | None = None  # being looked at
        self._improving = _FIRST_ANSWER
        self._tell = Reporter(limits.progress)
        self._is_stopped = self._is_unbounded = False

    def run(self, start: Array | None = None) -> RawAnswer:
        """Search until the gap is closed or a limit is met."""
        ended = Termination.OPTIMAL
        try:
            if start is not None:
                self._offer(start)
            if not self._state.created and (root := self._node((), None, -np.inf)) is not None:
                self._state.push(root)
            while self._state.heap and ended is Termination.OPTIMAL:
                node = self._state.pop()
                if node.bound >= self._cutoff():
                    self._state.close(node.bound)
                    self._state.heap.clear()
                    break
                self._dive(node)
                if self._is_unbounded:
                    ended = Termination.UNBOUNDED
                elif self._must_stop():
                    ended = Termination.INTERRUPTED if self._is_stopped else Termination.LIMIT
        except KeyboardInterrupt:
            ended = Termination.INTERRUPTED
            if self._current is not None:
                self._state.push(self._current)
        return self._answer(ended)

    def _dive(self, node: Node | None) -> None:
        """Branch on a node and go on with the better child until nothing is left of it."""
        while node is not None:
            self._state.count += 1
            self._current = node
            self._probe()
            children = sorted(self._branch(node))
            is_over = self._must_stop()
            for child in children[0 if is_over else 1 :]:
                self._state.push(child)
            self._current = node = None if is_over or not children else children[0]
            if not is_over:
                self._report()

    def _branch(self, node: Node) -> list[Node]:
        """Return the children worth looking at; fathom what can be fathomed."""
        if node.bound >= self._cutoff():
            self._state.close(node.bound)
            return []
        low, high = self._bounds(node.changes)
        entries = node.answer.entries
        found, distance = self._choices.violated(entries, low, high, node.answer.ray)
        if len(found) == 0:
            if entries is None:
                node, found, distance = self._unbounded(node, low, high)
            else:
                found, distance = self._leaf(node, low, high)
            if len(found) == 0:
                return []
        elif entries is not None:
            self._improve(entries)
        return self._choose(node, low, high, self._state.costs.order(found, distance))

    def _unbounded(self, node: Node, low: Array, high: Array) -> tuple[Node, Array, Array]:
        """Look for a point of an unbounded node, all pairs decided; return integers to branch on.

        A ray proves nothing while no integer point is known from which it starts.
        """
        nothing = np.empty(0, int), np.empty(0)
        point = self._points().solve(low, high)
        if point.entries is None:
            if point.termination is not Termination.INFEASIBLE:
                self._state.is_lost = True
                self._state.close(-np.inf)
            return node, *nothing
        found, distance = self._choices.violated(point.entries, low, high)
        self._is_unbounded = len(found) == 0
        answer = replace(node.answer, entries=point.entries)
        return replace(node, answer=answer), found, distance

    def _choose(self, node: Node, low: Array, high: Array, order: Array) -> list[Node]:
        """Try promising disjunctions and return the children of the best."""
        best: list[Node] = []
        rated = -1.0
        tried = 0
        for index in order.tolist():
            known = self._state.costs.known(index) >= self._settings.reliable
            if best and (known or tried >= self._settings.candidates):
                if tried >= self._settings.candidates:
                    break
                continue
            children = []
            sides = self._choices.sides(index, node.answer.entries, low, high)
            for side, change in enumerate(sides):
                child = self._node((*node.changes, change), node.answer.warm, node.bound)
                self._state.costs.learn(index, side, np.inf if child is None else gain(child, node))
                if child is not None:
                    children.append(child)
            if len(children) < 2:
                # One side is impossible: nothing can be better than to know that.
                return children
            tried += 1
            rating = score(*(gain(child, node) for child in children))
            if rating > rated:
                rated = rating
                best = children
            if known:
                break
        return best

    def _leaf(self, node: Node, low: Array, high: Array) -> tuple[Array, Array]:
        """Make an almost complementary point exactly so; return what must still be decided."""
        entries = node.answer.entries
        if entries is None:
            return np.empty(0, int), np.empty(0)
        changes = self._choices.pattern(entries, low, high)
        exact = self._solve((*node.changes, *changes), node.answer.warm, np.inf)
        if exact.entries is not None:
            self._take(exact.entries)
            if exact.value <= node.bound + self._gap(exact.value):
                self._state.close(node.bound)
                return np.empty(0, int), np.empty(0)
        found, distance = self._choices.remaining(entries, low, high)
        if len(found) == 0:
            # Everything is decided; what remains is rounding of integers, or the session's.
            self._state.is_lost |= exact.entries is None
            self._state.close(node.bound)
        return found, distance

    def _probe(self) -> None:
        """Settle for good what can only be decided in one way, now that a good point is known."""
        state = self._state
        wanted = max(state.probe_at, self._settings.probe)
        if state.count < wanted or not np.isfinite(state.value):
            return
        state.probe_at = _PROBE_AGAIN * state.count
        root = self._solve((), None, np.inf)
        if root.entries is None:
            return
        for index in self._choices.undecided(state.low, state.high):
            sides = self._choices.sides(index, root.entries, state.low, state.high)
            for side, (entry, least, most) in (sides, sides[::-1]):
                child = self._node((side,), root.warm, root.value)
                if child is not None and child.bound < self._cutoff():
                    continue
                state.close(np.inf if child is None else child.bound)
                state.low[entry] = max(state.low[entry], least)
                state.high[entry] = min(state.high[entry], most)
                break

    # -- feasible points

    def _improve(self, entries: Array) -> None:
        improve = self._limits.improve
        elapsed = time.perf_counter() - self._began
        if improve is None or self._improving > self._settings.effort * elapsed:
            return
        began = time.perf_counter()
        better = improve(self._compact.expand(entries))
        self._improving += time.perf_counter() - began
        if better is not None:
            self._offer(better)

    def _offer(self, v: Array) -> None:
        """Take a point of the program, made exact in the pattern it is nearest to."""
        entries = self._compact.collapse(v)
        low, high = self._bounds(())
        answer = self._solve(tuple(self._choices.pattern(entries, low, high)), None, np.inf)
        if answer.entries is not None:
            self._take(answer.entries)

    def _take(self, entries: Array) -> None:
        v = self._compact.expand(entries)
        value = self._program.objective.evaluate(v)
        if value < self._state.value:
            self._state.best = v
            self._state.value = value
            self._report(at_once=True)

    def _node(self, changes: tuple[Change, ...], warm: object, bound: float) -> Node | None:
        """Solve a subproblem; ``None`` if nothing in it is worth looking at."""
        answer = self._solve(changes, warm, self._cutoff())
        if answer.termination is Termination.INFEASIBLE:
            return None
        if answer.termination is Termination.LIMIT:
            self._state.close(self._cutoff())
            return None
        if answer.termination in (Termination.NUMERICAL, Termination.INFEASIBLE_OR_UNBOUNDED):
            self._state.is_lost = True
            self._state.close(bound)
            return None
        self._state.created += 1
        # A child cannot be better than its parent, whatever rounding says.
        return Node(max(answer.value, bound), self._state.created, changes, answer)

    def _solve(self, changes: tuple[Change, ...], warm: object, cutoff: float) -> NodeAnswer:
        low, high = self._bounds(changes)
        if np.any(low > high):
            return NodeAnswer(Termination.INFEASIBLE)
        return self._session.solve(low, high, warm, cutoff)

    def _bounds(self, changes: tuple[Change, ...]) -> tuple[Array, Array]:
        low = self._state.low.copy()
        high = self._state.high.copy()
        for entry, least, most in changes:
            if least > low[entry]:
                low[entry] = least
            if most < high[entry]:
                high[entry] = most
        return low, high

    def _gap(self, value: float) -> float:
        return self._limits.atol + self._limits.rtol * max(1.0, abs(value))

    def _cutoff(self) -> float:
        if not np.isfinite(self._state.value):
            return np.inf
        return self._state.value - 0.5 * self._gap(self._state.value)

    def _must_stop(self) -> bool:
        limit = np.inf if self._limits.time_limit is None else self._limits.time_limit
        late = time.perf_counter() - self._began > limit
        return late or self._is_stopped or self._is_unbounded

    def _report(self, at_once: bool = False) -> None:
        seconds = time.perf_counter() - self._began
        self._is_stopped |= self._tell(self._state, self._current, seconds, at_once)

    def _answer(self, ended: Termination) -> RawAnswer:
        bound = self._state.bound(self._current)
        v = self._state.best
        value = self._state.value
        if ended is Termination.UNBOUNDED:
            v = None
            bound = -np.inf
        elif ended is Termination.OPTIMAL and v is None:
            ended = Termination.NUMERICAL if self._state.is_lost else Termination.INFEASIBLE
        elif ended is Termination.OPTIMAL and bound < value - self._gap(value):
            ended = Termination.NUMERICAL  # subproblems without a verdict keep the bound down
        if ended is not Termination.INFEASIBLE and not np.isfinite(bound):
            bound = -np.inf
        seconds = self._state.seconds + time.perf_counter() - self._began
        words = f"{ended.value} after {self._state.count} nodes"
        resume = self._state.saved(self._program, seconds) if ended in _STOPPED else None
        return RawAnswer(ended, v, bound, None, self._state.count, seconds, words, resume=resume)
