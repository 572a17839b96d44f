"""One row per solver, encoding and backend: what it accepts and what may be expected of it.

The contract tests are the product of these rows with ``bilevel.instances``. A new method is tested
by a row here; no contract test names a method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest

import bilevel as bl
from bilevel import backends
from bilevel.program import Feature
from bilevel.structure import Stance, Structure

OPTIMISTIC = frozenset({Stance.OPTIMISTIC})
PESSIMISTIC = frozenset({Stance.PESSIMISTIC})


@dataclass(frozen=True)
class SolverRow:
    """One solver configuration.

    ``refuses`` are flags that make it refuse every problem that has one. ``may_refuse`` says why it
    may refuse others, for a reason that lies in the data. ``proves`` tells whether ``OPTIMAL`` is
    demanded where the optimum is known; the others may stop at ``FEASIBLE`` with the same point.
    ``struggles`` are flags with which the backend may meet the time limit before it has a proof.
    ``local`` methods converge, prove nothing and never claim ``OPTIMAL``.
    """

    name: str
    build: Callable[[], Any]
    stances: frozenset[Stance]
    backends: tuple[str, ...]
    exact: bool = True
    proves: bool = True
    local: bool = False
    tolerance: float = 1e-6
    refuses: Structure = Structure.PLAIN
    struggles: Structure = Structure.PLAIN
    may_refuse: str = ""
    notes: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether all its backends are; tests that loop over rows themselves ask this."""
        return set(self.backends) <= set(backends.available())

    def must_refuse(self, problem: bl.Problem) -> bool:
        """Whether stance or structure make a refusal certain."""
        return problem.stance not in self.stances or bool(self.refuses & problem.structure)


@dataclass(frozen=True)
class EncodingRow:
    """One way to write complementarity and products with a binary.

    ``needs`` is what a backend must offer for it, ``proved`` whether it loses nothing.
    """

    name: str
    build: Callable[[], Any]
    needs: Feature
    proved: bool = True
    tolerance: float = 1e-6
    may_refuse: str = ""
    notes: str = ""


@dataclass(frozen=True)
class BackendRow:
    """One vendor: what it takes, which limits it knows and what it returns.

    ``option`` is a harmless option of the vendor, ``bad_option`` one that it does not know;
    ``any_scale`` tells whether data between 1e-5 and 1e5 in one program must be solved, ``decides``
    whether infeasible and unbounded programs are recognized.
    """

    name: str
    features: Feature
    has_duals: bool
    option: dict[str, Any]
    bad_option: dict[str, Any]
    tolerance: float = 1e-7
    has_callback: bool = False
    any_scale: bool = True
    has_vendor: bool = True
    decides: bool = True
    notes: str = ""


@dataclass(frozen=True)
class LayerRow:
    """One program as a layer.

    ``order`` is how often it can be differentiated (``None``: as often as one likes), ``maps``
    whether ``torch.func`` can map over it, ``tolerance`` how near CVXPY's own answer comes.
    ``bitwise`` tells whether an instance's bits are the same in every batch.
    """

    name: str
    build: Callable[[], Any]
    order: int | None = None
    maps: bool = True
    tolerance: float = 1e-8
    bitwise: bool = True
    notes: str = ""


SOLVERS = (
    SolverRow(
        "auto",
        bl.Auto,
        OPTIMISTIC | PESSIMISTIC,
        ("scip",),
        may_refuse="the pessimistic problem has no exact method (see worst case)",
        notes="must accept every optimistic problem that compiles",
    ),
    SolverRow(
        "branching",
        bl.Branching,
        OPTIMISTIC | PESSIMISTIC,
        ("highs", "daqp"),
        may_refuse="a relaxation is neither linear nor convex quadratic",
        notes="no bound on multipliers, no SCIP",
    ),
    SolverRow(
        "kkt sos1 scip",
        lambda: bl.SingleLevel(bl.KKT(bl.SOS1())),
        OPTIMISTIC,
        ("scip",),
        notes="exact whatever the size of multipliers",
    ),
    SolverRow(
        "kkt indicator scip",
        lambda: bl.SingleLevel(bl.KKT(bl.Indicator())),
        OPTIMISTIC,
        ("scip",),
        struggles=Structure.LEADER_NONCONVEX,
        notes="SCIP 10 does not leave the root of T16, whose columns have no bounds",
    ),
    *(
        SolverRow(
            f"kkt {encoding.__name__.lower()} gurobi",
            lambda encoding=encoding: bl.SingleLevel(bl.KKT(encoding()), backend="gurobi"),
            OPTIMISTIC,
            ("gurobi",),
            notes="skipped without gurobipy; the licence inside it takes the tests' sizes",
        )
        for encoding in (bl.SOS1, bl.Indicator)
    ),
    SolverRow(
        "kkt bigm scip",
        lambda: bl.SingleLevel(bl.KKT(bl.BigM())),
        OPTIMISTIC,
        ("scip",),
        may_refuse="no bound on a multiplier or slack can be derived",
    ),
    SolverRow(
        "kkt bigm highs",
        lambda: bl.SingleLevel(bl.KKT(bl.BigM()), backend="highs"),
        OPTIMISTIC,
        ("highs",),
        refuses=Structure.LEADER_NONLINEAR_ROWS | Structure.CURVED_BY_LEADER,
        may_refuse="no bound on a multiplier or slack can be derived, or a product is left",
    ),
    SolverRow(
        "kkt given bigm scip",
        lambda: bl.SingleLevel(bl.KKT(bl.BigM(multiplier=1e3, slack=1e3))),
        OPTIMISTIC,
        ("scip",),
        exact=False,
        proves=False,
        notes="large enough for all instances, and nobody can know: the status is capped",
    ),
    SolverRow(
        "kkt product scip",
        lambda: bl.SingleLevel(bl.KKT(bl.Product())),
        OPTIMISTIC,
        ("scip",),
        proves=False,
        tolerance=1e-4,
        notes="a feasibility tolerance of t allows an error of sqrt(t) in a quadratic follower",
    ),
    *(
        SolverRow(
            f"strong duality {encoding.__name__.lower()} scip",
            lambda encoding=encoding: bl.SingleLevel(bl.StrongDuality(encoding())),
            OPTIMISTIC,
            ("scip",),
            proves=False,
            tolerance=1e-4,
            refuses=Structure.CURVED_BY_LEADER,
            may_refuse=(
                "no bound on a multiplier or a factor can be derived" if encoding is bl.BigM else ""
            ),
            notes="the gap row has the same tolerance as a product",
        )
        for encoding in (bl.SOS1, bl.Indicator, bl.BigM, bl.Product)
    ),
    *(
        SolverRow(
            f"outer approximation {backend}",
            lambda backend=backend: bl.OuterApproximation(backend),
            OPTIMISTIC,
            (backend,),
            refuses=Structure.LINKING_CONTINUOUS | Structure.NASH | Structure.CURVED_BY_LEADER,
            may_refuse=(
                "a linking integer has no bounds, the leader is curved where no integer is, "
                "or HiGHS gets a product whose factor has no bound"
            ),
        )
        for backend in ("scip", "highs")
    ),
    SolverRow(
        "continuation",
        bl.Continuation,
        OPTIMISTIC,
        ("ipopt",),
        exact=False,
        proves=False,
        local=True,
        refuses=Structure.LEADER_INTEGER,
        notes="from eight starts it finds the optimum of every instance, also of T2 and T3",
    ),
    SolverRow(
        "substitution",
        bl.Substitution,
        OPTIMISTIC | PESSIMISTIC,
        ("highs", "daqp"),
        refuses=(
            Structure.NASH
            | Structure.LEADER_INTEGER
            | Structure.LINKING_INTEGER
            | Structure.CURVED_BY_LEADER
        ),
        may_refuse=(
            "more than two leader columns enter the followers, a product is left in a row, a "
            "pessimistic leader uses prices, or the worst responses are not piecewise affine"
        ),
    ),
    SolverRow(
        "worst case",
        bl.WorstCase,
        PESSIMISTIC,
        ("scip",),
        tolerance=1e-5,
        refuses=Structure.NASH,
        may_refuse="the follower is not linear, or the leader is not linear in its variables",
    ),
)

ENCODINGS = (
    EncodingRow("sos1", bl.SOS1, Feature.SOS1),
    EncodingRow("indicator", bl.Indicator, Feature.INDICATOR | Feature.INTEGER),
    EncodingRow(
        "bigm", bl.BigM, Feature.INTEGER, may_refuse="a bound can be derived for bounded ones only"
    ),
    EncodingRow(
        "given bigm",
        lambda: bl.BigM(multiplier=1e3, slack=1e3),
        Feature.INTEGER,
        proved=False,
        notes="1000 exceeds what small integer data can produce in the tests that use it",
    ),
    EncodingRow("product", bl.Product, Feature.PRODUCT_ROWS, tolerance=1e-4),
)

BACKENDS = (
    BackendRow(
        "highs",
        Feature.INTEGER,
        has_duals=True,
        option={"presolve": "off"},
        bad_option={"no_such_option": 1},
        has_callback=True,
        notes="linear; multipliers for continuous programs only",
    ),
    BackendRow(
        "scip",
        ~(Feature.EXPONENTIAL_CONES | Feature.SEMIDEFINITE_CONES),
        has_duals=False,
        option={"presolving/maxrounds": 0},
        bad_option={"no/such/option": 1},
        tolerance=1e-6,
        has_callback=True,
    ),
    BackendRow(
        "tree",
        Feature.INTEGER | Feature.SOS1 | Feature.CONVEX_QUADRATIC | Feature.INTEGER_QUADRATIC,
        has_duals=False,
        option={"candidates": 3},
        bad_option={"no_such_option": 1},
        has_callback=True,
        has_vendor=False,
        notes="our own branch and bound over LP and QP relaxations",
    ),
    BackendRow(
        "clarabel",
        Feature.CONVEX_QUADRATIC
        | Feature.CONES
        | Feature.EXPONENTIAL_CONES
        | Feature.SEMIDEFINITE_CONES,
        has_duals=True,
        option={"max_iter": 100},
        bad_option={"no_such_option": 1},
    ),
    BackendRow(
        "daqp",
        Feature.CONVEX_QUADRATIC,
        has_duals=True,
        option={"iter_limit": 500},
        bad_option={"no_such_option": 1},
        any_scale=False,
        notes="convex QP by an active set; no clock",
    ),
    BackendRow(
        "proxsuite",
        Feature.CONVEX_QUADRATIC,
        has_duals=True,
        option={"max_iter": 5000},
        bad_option={"no_such_option": 1},
        tolerance=1e-6,
        any_scale=False,
        decides=False,
        notes="convex QP by a proximal method; gives up where there is no answer",
    ),
    BackendRow(
        "moreau",
        Feature.CONVEX_QUADRATIC | Feature.CONES,
        has_duals=True,
        option={"max_iter": 500},
        bad_option={"no_such_option": 1},
        tolerance=1e-6,
        any_scale=False,
    ),
    BackendRow(
        "ipopt",
        Feature.CONVEX_QUADRATIC | Feature.CONES,
        has_duals=True,
        option={"max_iter": 500},
        bad_option={"no_such_option": 1},
        tolerance=1e-6,
        any_scale=False,
        notes="smooth programs, here convex ones; verdicts of infeasibility are local",
    ),
    BackendRow(
        "gurobi",
        Feature.INTEGER
        | Feature.SOS1
        | Feature.INDICATOR
        | Feature.CONVEX_QUADRATIC
        | Feature.NONCONVEX_QUADRATIC
        | Feature.INTEGER_QUADRATIC
        | Feature.PRODUCT_ROWS
        | Feature.CONES,
        has_duals=True,
        option={"Presolve": 0},
        bad_option={"no_such_option": 1},
        tolerance=1e-6,
        has_callback=True,
        notes="skipped without gurobipy; the licence inside it takes the tests' sizes",
    ),
)


def _program(name: str, *arguments: Any) -> Callable[[], Any]:
    """Return a builder of a layer; torch is imported when it is called."""
    return lambda: getattr(import_module("tests.layer_problems"), name)(*arguments)


# With a gap of 1e-11 an interior point comes as near as its square root where a cone is curved.
_CURVED: dict[str, Any] = {"tolerance": 3e-6, "bitwise": False}

LAYERS = (
    LayerRow("qp all data", _program("qp_all_data")),
    LayerRow("qp factor", _program("qp_factor")),
    LayerRow(
        "qp products", _program("qp_products"), notes="auxiliary columns: the form is singular"
    ),
    LayerRow("qp symmetric variable", _program("qp_symmetric_variable")),
    LayerRow("lp vertex", _program("lp_vertex")),
    LayerRow("qp sparse", _program("qp_sparse"), maps=False),
    LayerRow("follower", _program("follower")),
    LayerRow("maximizing follower", _program("follower", True)),
    LayerRow("socp", _program("socp"), **_CURVED),
    LayerRow("socp quadratic", _program("socp_quadratic"), **_CURVED),
    LayerRow("psd 4", _program("psd", 4, True), order=1, **_CURVED),
    LayerRow("psd 5", _program("psd", 5, False), order=1, **_CURVED),
    LayerRow("softmax", _program("softmax"), order=1, **_CURVED),
    LayerRow("logistic", _program("logistic"), order=1, **_CURVED),
)


def rows(table: tuple[Any, ...]) -> list[Any]:
    """Return a table as pytest parameters, each marked with the backends it needs."""
    params = []
    for row in table:
        names = row.backends if isinstance(row, SolverRow) else ()
        names = (row.name,) if isinstance(row, BackendRow) else names
        marks = [pytest.mark.backend(*names)] if names else []
        params.append(pytest.param(row, id=row.name.replace(" ", "-"), marks=marks))
    return params
