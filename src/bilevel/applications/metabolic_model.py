"""A cell's metabolism as arrays, and the few linear programs that are asked about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from scipy.optimize import linprog

from bilevel.errors import BackendError, BackendNotFound, ProblemError

if TYPE_CHECKING:
    from bilevel.problem.functions import Array

# Production at maximal growth changes by hundreds of units per unit of growth.
_TIGHT = {"primal_feasibility_tolerance": 1e-9, "dual_feasibility_tolerance": 1e-9}
_PACKAGED = "textbook"
_READERS = {
    ".json": "load_json_model",
    ".mat": "load_matlab_model",
    ".yml": "load_yaml_model",
    ".yaml": "load_yaml_model",
}


@dataclass(frozen=True, eq=False)
class MetabolicModel:
    r"""Fluxes that a cell may choose: ``S v == 0``, ``lower <= v <= upper``.

    Parameters
    ----------
    reactions, metabolites
        Their ids, in the order of the columns and rows of ``S``.
    S
        Stoichiometric matrix, shape (metabolites, reactions).
    lower, upper
        Flux bounds, mmol/gDW/h; infinite where there is none.
    has_gene
        Which reactions are associated with a gene: those a geneticist can remove.
    biomass
        Id of the reaction whose flux is the growth rate, 1/h; ``None`` if the data do not say.
    formulas
        Chemical formulas of metabolites, by id, where known.

    Examples
    --------
    The network of two routes from A to X, one of which also makes P:

    >>> import numpy as np
    >>> from bilevel.applications.metabolic_model import MetabolicModel, optimum
    >>> S = np.array([[1, -1, -1, 0, 0], [0, 1, 1, -1, 0], [0, 0, 1, 0, -1]])
    >>> cell = MetabolicModel(
    ...     ("EX_A", "r1", "r2", "growth", "EX_P"),
    ...     ("A", "X", "P"),
    ...     S,
    ...     np.zeros(5),
    ...     np.full(5, 10.0),
    ...     np.array([False, True, True, False, False]),
    ...     "growth",
    ... )
    >>> print(optimum(cell.S, cell.lower, cell.upper, np.eye(5)[3])[0])
    10.0
    """

    reactions: tuple[str, ...]
    metabolites: tuple[str, ...]
    S: Any
    lower: Array
    upper: Array
    has_gene: Array
    biomass: str | None = None
    formulas: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        n = len(self.reactions)
        m = len(self.metabolites)
        S = sp.csr_array(self.S, dtype=float)
        bounds = [np.array(bound, dtype=float) for bound in (self.lower, self.upper)]
        has_gene = np.array(self.has_gene, dtype=bool)
        if S.shape != (m, n) or any(a.shape != (n,) for a in (*bounds, has_gene)):
            raise ProblemError(
                f"A metabolic model of {m} metabolites and {n} reactions needs S of shape "
                f"({m}, {n}), and lower, upper and has_gene of shape ({n},)."
            )
        if len(set(self.reactions)) < n or len(set(self.metabolites)) < m:
            raise ProblemError("Two reactions, or two metabolites, have the same id.")
        if not np.isfinite(S.data).all() or np.isnan(bounds).any():
            raise ProblemError("The metabolic model contains NaN, or an infinite coefficient.")
        for j in np.flatnonzero(bounds[0] > bounds[1]):
            raise ProblemError(
                f"Reaction {self.reactions[j]!r} has a lower bound of {bounds[0][j]:g}, above its "
                f"upper bound of {bounds[1][j]:g}."
            )
        for name, value in zip(
            ("S", "lower", "upper", "has_gene"), (S, *bounds, has_gene), strict=True
        ):
            object.__setattr__(self, name, value)

    def index(self, reaction: str) -> int:
        """Return the column of a reaction.

        Raises
        ------
        ProblemError
            If there is no reaction of that id; the message names the nearest ones.
        """
        try:
            return self.reactions.index(reaction)
        except ValueError:
            near = difflib.get_close_matches(str(reaction), self.reactions, 3, 0.5)
            hint = f"; did you mean {', '.join(near)}?" if near else "."
            raise ProblemError(f"The metabolic model has no reaction {reaction!r}{hint}") from None

    def exchange(self, name: str) -> tuple[int, float]:
        """Return the column that exports a metabolite, and the sign of the exporting flux.

        Parameters
        ----------
        name
            Id of a reaction, or of a metabolite that one reaction exchanges with the surroundings.
            A reaction that is no exchange has sign 1.
        """
        if name in self.metabolites and name not in self.reactions:
            row = self.S[[self.metabolites.index(name)]].tocoo()
            alone = np.diff(self.S.tocsc().indptr) == 1
            found = row.col[alone[row.col]]
            if len(found) != 1:
                raise ProblemError(
                    f"Metabolite {name!r} is exchanged with the surroundings by "
                    f"{len(found)} reactions {[self.reactions[j] for j in found]}; name the "
                    f"reaction that you mean."
                )
            column = int(found[0])
        else:
            column = self.index(name)
        coefficients = self.S[:, [column]].data
        return column, (-float(np.sign(coefficients[0])) if len(coefficients) == 1 else 1.0)

    def in_medium(self, uptake: Mapping[str, float] | None, anaerobic: bool) -> MetabolicModel:
        """Return the same cell in other surroundings.

        Parameters
        ----------
        uptake
            Largest uptake, mmol/gDW/h, by exchange reaction or metabolite; 0 closes an exchange.
            Exchanges that are not named keep the model's bounds.
        anaerobic
            Whether the uptake of oxygen is closed.
        """
        uptake = dict(uptake or {})
        if anaerobic:
            uptake[self._oxygen()] = 0.0
        lower = self.lower.copy()
        upper = self.upper.copy()
        for name, bound in uptake.items():
            column, sign = self.exchange(name)
            if self.S[:, [column]].nnz != 1:
                raise ProblemError(
                    f"Reaction {name!r} in the medium does not exchange one metabolite with the "
                    f"surroundings; a medium consists of exchange reactions."
                )
            if not bound >= 0:
                raise ProblemError(
                    f"The uptake of {name!r} must be a nonnegative number in mmol/gDW/h, not "
                    f"{bound!r}."
                )
            # A forced export (positive lower bound) gives way, as the uptake is now allowed.
            if sign > 0:
                lower[column] = 0.0 - float(bound)
            else:
                upper[column] = float(bound)
        return replace(self, lower=lower, upper=upper)

    def without(self, knockouts: Iterable[str]) -> MetabolicModel:
        """Return the cell after the removal of reactions: their fluxes are 0."""
        lower = self.lower.copy()
        upper = self.upper.copy()
        listed = [knockouts] if isinstance(knockouts, str) else list(knockouts)
        removed = [self.index(reaction) for reaction in listed]
        lower[removed] = upper[removed] = 0.0
        return replace(self, lower=lower, upper=upper)

    def _oxygen(self) -> str:
        formulas = self.formulas or {}
        outside = self.S[:, np.diff(self.S.tocsc().indptr) == 1].tocoo().row
        for row in outside:
            name = self.metabolites[row]
            if formulas.get(name) == "O2" or name == "o2_e":
                return name
        raise ProblemError(
            "The metabolic model has no exchange of oxygen (formula O2, or id 'o2_e'), so "
            "anaerobic=True cannot be set; close it by medium={<its exchange reaction>: 0}."
        )


def optimum(
    S: Any, lower: Array, upper: Array, c: Array, maximize: bool = True
) -> tuple[float | None, Array | None]:
    """Return the best value of ``c @ v`` over ``S v == 0, lower <= v <= upper``, and a best ``v``.

    Returns
    -------
    tuple
        ``(None, None)`` if there is no such ``v``; an infinite value and ``None`` if there is no
        best one.
    """
    sign = -1.0 if maximize else 1.0
    answer = linprog(
        sign * c,
        A_eq=S,
        b_eq=np.zeros(S.shape[0]),
        bounds=np.column_stack([lower, upper]),
        options=_TIGHT,
    )
    if answer.status == 2:
        return None, None
    if answer.status == 3:
        return -sign * np.inf, None
    if answer.status != 0:
        raise BackendError(f"HiGHS could not solve a linear program of the cell: {answer.message}")
    return sign * answer.fun, answer.x


def load_model(model: Any = None) -> MetabolicModel:
    """Return a metabolic model from a cobra model, a file, or the name of a packaged one.

    Parameters
    ----------
    model
        ``None`` for the *E. coli* core model that comes with cobra; the name of another packaged
        one (``"iJO1366"``, ``"salmonella"``); the path of an SBML, JSON, YAML or MATLAB file; a
        ``cobra.Model``; or a ``MetabolicModel``, which is returned as it is.

    Raises
    ------
    BackendNotFound
        If cobra is needed and not installed.
    ProblemError
        If there is no such file or packaged model, or it cannot be read.

    Notes
    -----
    Nothing is fetched from a network. Constraints that were added to a ``cobra.Model`` by hand,
    beyond flux bounds, are not taken over.
    """
    if isinstance(model, MetabolicModel):
        return model
    try:
        import cobra
    except ImportError as error:
        raise BackendNotFound(
            "Metabolic models are read by the package cobra, which is not installed: "
            'pip install "bilevel[metabolic]" (or pip install cobra).'
        ) from error
    found = model if isinstance(model, cobra.Model) else _read(cobra, model)
    reactions = list(found.reactions)
    row = {metabolite.id: i for i, metabolite in enumerate(found.metabolites)}
    entries = [(row[m.id], j, c) for j, r in enumerate(reactions) for m, c in r.metabolites.items()]
    rows, columns, data = zip(*entries, strict=True) if entries else ((), (), ())
    weights = {r.id: w for r in reactions if (w := r.objective_coefficient) != 0}
    grows = found.objective_direction == "max" and [w > 0 for w in weights.values()] == [True]
    return MetabolicModel(
        tuple(r.id for r in reactions),
        tuple(row),
        sp.csr_array((np.array(data, dtype=float), (rows, columns)), (len(row), len(reactions))),
        np.array([r.lower_bound for r in reactions]),
        np.array([r.upper_bound for r in reactions]),
        np.array([bool(r.genes) for r in reactions]),
        next(iter(weights)) if grows else None,
        {m.id: m.formula for m in found.metabolites if m.formula},
    )


def _read(cobra: Any, model: Any) -> Any:
    if not (model is None or isinstance(model, str | Path)):
        raise ProblemError(
            f"model must be a cobra.Model, a path, the name of a packaged model or None, not "
            f"{type(model).__name__}."
        )
    path = Path(model if model is not None else _PACKAGED)
    try:
        if path.is_file():
            reader = _READERS.get(path.suffix, "read_sbml_model")
            return getattr(cobra.io, reader)(str(path))
        from cobra.io.web.cobrapy_repository import Cobrapy

        return cobra.io.load_model(path.name, repositories=[Cobrapy()])
    except Exception as error:
        raise ProblemError(
            f"There is no metabolic model {str(path)!r} that can be read: it must be a file "
            f"(.xml, .xml.gz, .json, .yml, .mat) or come with cobra ('textbook', 'iJO1366')."
        ) from error
