"""The automatic choice of a method, with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bilevel import backends
from bilevel.errors import UnsupportedProblem
from bilevel.problem.problem import Problem
from bilevel.problem.standard import StandardForm
from bilevel.reformulate.encodings import BigM
from bilevel.reformulate.inner_dual import InnerDual
from bilevel.reformulate.kkt import KKT
from bilevel.reformulate.reformulation import refuse_cones
from bilevel.reformulate.strong_duality import StrongDuality
from bilevel.reformulate.worst_response import WorstResponse
from bilevel.solvers.branching import Branching
from bilevel.solvers.continuation import Continuation
from bilevel.solvers.single_level import SingleLevel
from bilevel.solvers.solver import AbstractSolver, Outcome, Request
from bilevel.solvers.substitution import Substitution
from bilevel.solvers.worst_case import WorstCase
from bilevel.structure import Stance, Structure

# Strain design (about 100 pairs, benchmarks/cases/strain_design.py) is solved much faster by strong
# duality; on random problems with few pairs (benchmarks/cases/claims.py) it proves fewer optima.
_MANY_PAIRS = 40


@dataclass(frozen=True)
class Choice:
    """What ``Auto`` would use, and why.

    Parameters
    ----------
    solver
        The solver.
    reason
        One or two sentences.

    Examples
    --------
    >>> import bilevel as bl
    >>> choice = bl.Auto().choose(bl.instances.get("T16").problem)
    >>> print(type(choice.solver).__name__)
    Branching
    """

    solver: AbstractSolver
    reason: str


@dataclass(frozen=True)
class Auto(AbstractSolver):
    """Choose the method by the problem's structure; ``choose`` tells which without solving.

    The tree it follows:

    1. only binary leader columns enter linear followers with more than 40 inequalities:
       ``StrongDuality(SOS1())``, because one row replaces all complementarity conditions;
    2. a follower has cones: ``Continuation``, which is local;
    3. the relaxation is linear or convex quadratic: ``Branching``, which needs neither bounds on
       multipliers nor SCIP;
    4. otherwise ``KKT(SOS1())`` on SCIP; where SCIP is missing, ``KKT(BigM())`` on HiGHS with
       derived bounds.

    Pessimistic problems are solved by ``WorstCase``, its parts chosen in the same way. Where the
    method chosen ends without a proof, and no limit stopped it, ``others`` have their turn.

    Examples
    --------
    >>> import bilevel as bl
    >>> choice = bl.Auto().choose(bl.instances.get("T14").problem)
    >>> "branching" in choice.reason
    True
    """

    def choose(self, problem: Problem | StandardForm) -> Choice:
        """Return a solver that accepts the problem and would be used, and why.

        Raises
        ------
        UnsupportedProblem
            If no method accepts the problem; the message lists every obstacle.
        """
        form = problem.compile() if isinstance(problem, Problem) else problem
        if form.integer_followers:
            raise UnsupportedProblem(form.integer_followers)
        if form.stance is Stance.OPTIMISTIC:
            return self._optimistic(form)
        if not _is_for_duality(form) and not (branching := Branching()).accepts(form):
            return Choice(
                branching,
                "pessimistic problem: the optimistic value bounds it, then the worst response is "
                "written exactly; both by branching on complementarity",
            )
        inner = self._optimistic(replace(form, stance=Stance.OPTIMISTIC))
        if conic := refuse_cones(form):
            raise UnsupportedProblem(conic)
        optimistic = inner.solver if isinstance(inner.solver, SingleLevel) else SingleLevel(KKT())
        worst = WorstResponse()
        continuous = Structure.LINKING_CONTINUOUS in form.structure
        exact = worst if continuous and not worst.accepts(form) else InnerDual()
        solver = WorstCase(optimistic, SingleLevel(exact))
        if reasons := solver.accepts(form):
            raise UnsupportedProblem(reasons)
        return Choice(
            solver,
            f"pessimistic problem: the optimistic value bounds it ({inner.reason}), then the "
            f"worst response is written exactly",
        )

    def others(self, form: StandardForm, tried: AbstractSolver) -> Iterator[AbstractSolver]:
        """Yield other exact methods that accept a problem, for where the chosen one proved nothing.

        Parameters
        ----------
        form
            The problem.
        tried
            What was chosen; after a local method there is no other.
        """
        if isinstance(tried, Continuation) or form.integer_followers:
            return
        candidates: list[AbstractSolver] = [Substitution()]
        if form.stance is Stance.OPTIMISTIC:
            candidates.append(Branching())
            if "scip" in backends.available():
                candidates += [SingleLevel(KKT()), SingleLevel(StrongDuality())]
        for solver in candidates:
            if solver != tried and not solver.accepts(form):
                yield solver

    def accepts(self, form: StandardForm) -> tuple[str, ...]:
        """See the abstract method."""
        try:
            self.choose(form)
        except UnsupportedProblem as error:
            return error.reasons
        return ()

    def run(self, form: StandardForm, request: Request) -> Outcome:
        """See the abstract method."""
        return self.choose(form).solver.run(form, request)

    def _optimistic(self, form: StandardForm) -> Choice:
        if Structure.FOLLOWER_CONIC in form.structure:
            return _local(form)
        has_scip = "scip" in backends.available()
        if has_scip and _is_for_duality(form):
            return Choice(
                SingleLevel(StrongDuality()),
                f"only binary leader variables enter the linear followers, so one strong-duality "
                f"row with exact products replaces {_pairs(form)} complementarity conditions",
            )
        branching = Branching()
        if not branching.accepts(form):
            return Choice(
                branching,
                "convex followers and convex relaxations: branching on complementarity is exact "
                "and needs no bound on multipliers",
            )
        if not has_scip:
            _demand_bounds(form)
            return Choice(
                SingleLevel(KKT(BigM()), "highs"),
                "pyscipopt is not installed (pip install pyscipopt), so complementarity is written "
                "with derived bounds for HiGHS",
            )
        return Choice(
            SingleLevel(KKT()),
            "convex followers, but relaxations that only a global solver takes: complementarity by "
            "SOS1 sets is exact and needs no bound on multipliers",
        )


def _pairs(form: StandardForm) -> int:
    return sum(int((~follower.rows.equality).sum()) for follower in form.followers)


def _is_for_duality(form: StandardForm) -> bool:
    """Return whether one strong-duality row with exact products replaces many pairs."""
    structure = form.structure
    binary_only = (
        Structure.LINKING_INTEGER in structure
        and Structure.LINKING_CONTINUOUS not in structure
        and Structure.FOLLOWER_QUADRATIC not in structure
        and Structure.NASH not in structure
    )
    optimistic = replace(form, stance=Stance.OPTIMISTIC)
    return (
        _pairs(form) > _MANY_PAIRS
        and binary_only
        and _all_binary(form)
        and not StrongDuality().accepts(optimistic)
    )


def _demand_bounds(form: StandardForm) -> None:
    """Raise if bounds that HiGHS needs cannot be derived; an M is never invented."""
    try:
        for k in range(len(form.followers)):
            BigM().bounds(form, k)
    except UnsupportedProblem as error:
        raise UnsupportedProblem(
            (*error.reasons, "Without SCIP no method does without bounds: pip install pyscipopt.")
        ) from error


def _local(form: StandardForm) -> Choice:
    solver = Continuation()
    if reasons := solver.accepts(form):
        raise UnsupportedProblem(reasons)
    if "ipopt" not in backends.available():
        raise UnsupportedProblem(
            "Followers with cones are solved by Continuation only, which needs IPOPT: pip install "
            "'bilevel[casadi]'."
        )
    return Choice(
        solver,
        "a follower has cones, for which no exact method is known here: the answer is a local one",
    )


def _all_binary(form: StandardForm) -> bool:
    linking = form.linking_mask & ~form.follower_mask
    columns = form.columns
    return bool((columns.lower[linking] >= 0).all() and (columns.upper[linking] <= 1).all())
