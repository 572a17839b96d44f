"""A reformulation and a backend make a solver."""

from __future__ import annotations

from dataclasses import dataclass, field

from bilevel.backends import AbstractBackend
from bilevel.problem.standard import StandardForm
from bilevel.reformulate.kkt import KKT
from bilevel.reformulate.reformulation import AbstractReformulation
from bilevel.solvers.run import UNDECIDED, Run
from bilevel.solvers.solver import AbstractSolver, Outcome, Request
from bilevel.solvers.starts import feasible_start, initial_point


@dataclass(frozen=True)
class SingleLevel(AbstractSolver):
    """Solve one single-level program that a reformulation makes of the bilevel problem.

    Parameters
    ----------
    reformulation
        ``KKT(encoding)``, ``StrongDuality(encoding)`` or, for pessimistic problems,
        ``InnerDual(encoding)``.
    backend
        The name of a backend, such as ``"scip"``, ``"highs"`` or ``"gurobi"``, or a backend of
        one's own: an object of a class under ``bilevel.backends.AbstractBackend``. It must take
        what the reformulation writes; the answer is judged in the same way whoever gives it.

    Notes
    -----
    The backend's point is not reported as it is: the followers are solved exactly at its leader
    decision, so the point is bilevel feasible to solver precision. ``OPTIMAL`` is claimed only if
    the leader's value there meets the backend's proved bound.

    Examples
    --------
    >>> import bilevel as bl
    >>> solver = bl.SingleLevel(bl.KKT(bl.BigM()), backend="highs")
    >>> solution = bl.solve(bl.instances.get("T1").problem, solver)
    >>> print(solution.status.name)
    OPTIMAL
    """

    reformulation: AbstractReformulation = field(default_factory=KKT)
    backend: str | AbstractBackend = "scip"

    def accepts(self, form: StandardForm) -> tuple[str, ...]:
        """See the abstract method."""
        return self.reformulation.accepts(form)

    def run(self, form: StandardForm, request: Request) -> Outcome:
        """See the abstract method."""
        run = Run(form, self.reformulation, self.backend, request)
        raw = run.trusted_answer()
        first = run.first
        if raw.v is None and first is None and raw.termination in UNDECIDED:
            # The backend found nothing in time; the followers can still be asked to respond.
            guess = initial_point(form)
            first = None if guess is None else feasible_start(form, guess)
        return run.outcome(raw, first)
