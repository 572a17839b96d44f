"""CVXPY variables and parameters as plain columns: attributes become columns, bounds or rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from bilevel.errors import ProblemError, UnsupportedProblem
from bilevel.problem.functions import Array
from bilevel.problem.names import NamedVariable

_REFUSED = ("complex", "imag", "hermitian", "PSD", "NSD")


@dataclass(frozen=True)
class Leaf:
    """One CVXPY variable and the plain columns that stand for it.

    Parameters
    ----------
    variable
        The user's variable.
    plain
        Our own variable without attributes; its entries are the columns.
    expression
        The user's variable written in ``plain``.
    basis
        Matrix ``E`` with ``vec(variable) = E @ plain`` where an attribute such as ``symmetric``
        reduces the number of columns; ``None`` for the identity.
    first
        Index of its first column.
    """

    variable: cp.Variable
    plain: cp.Variable
    expression: Any
    basis: sp.csr_array | None
    first: int

    @property
    def columns(self) -> Array:
        """Indices of its columns."""
        return np.arange(self.first, self.first + self.plain.size)

    def read(self, w: Array) -> Any:
        """Return the variable's value, in its own shape, from the columns ``w``."""
        part = w[self.columns]
        vector = part if self.basis is None else self.basis @ part
        value = np.reshape(vector, self.variable.shape, order="F")
        return value if self.variable.shape else np.asarray(float(value))

    def write(self, value: Any, w: Array) -> None:
        """Put a value of the variable into the columns ``w``."""
        vector = as_array(value).reshape(-1, order="F")
        if self.basis is None:
            w[self.columns] = vector
            return
        part = np.asarray((self.basis.T @ vector) / self.basis.sum(axis=0)).ravel()
        if not np.allclose(self.basis @ part, vector, atol=1e-9):
            raise ProblemError(
                f"The value given for {label(self.variable)} does not have the structure that "
                f"the variable declares (symmetric, diagonal or sparse)."
            )
        w[self.columns] = part

    @property
    def names(self) -> tuple[str, ...]:
        """One readable name per column."""
        name = label(self.variable)
        if isinstance(self.variable, NamedVariable):
            return self.variable.entries
        if not self.variable.shape:
            return (name,)
        size = self.variable.size
        shape = self.variable.shape
        entries = (
            np.arange(size)
            if self.basis is None
            else np.asarray(self.basis.T.tocsr().indices)[self.basis.T.tocsr().indptr[:-1]]
        )
        indices = np.unravel_index(entries, shape, order="F")
        return tuple(f"{name}[{','.join(map(str, index))}]" for index in zip(*indices, strict=True))

    @property
    def integer(self) -> Array:
        """Which columns are declared integer or boolean."""
        mask = self._places("boolean_idx") | self._places("integer_idx")
        return mask.ravel(order="F") if self.basis is None else np.full(self.plain.size, mask.any())

    @property
    def bounds(self) -> tuple[Array, Array]:
        """Entrywise lower and upper bounds that attributes declare, in the variable's vector."""
        shape = self.variable.shape
        attributes = self.variable.attributes
        lower = np.full(shape, -np.inf)
        upper = np.full(shape, np.inf)
        if attributes.get("bounds") is not None:
            for target, bound, take in zip(
                (lower, upper), attributes["bounds"], (np.maximum, np.minimum), strict=True
            ):
                if isinstance(bound, cp.Expression) and bound.parameters():
                    raise UnsupportedProblem(
                        f"A bound of variable {label(self.variable)} contains the parameter "
                        f"{label(bound.parameters()[0])}; it would keep its first value. Write the "
                        f"bound as a constraint instead."
                    )
                value = bound.value if isinstance(bound, cp.Expression) else bound
                if value is None or np.isnan(np.asarray(value, float)).any():
                    raise ProblemError(f"A bound of {label(self.variable)} is not a number.")
                target[...] = take(target, value)
        if attributes.get("nonneg") or attributes.get("pos"):
            lower = np.maximum(lower, 0.0)
        if attributes.get("nonpos") or attributes.get("neg"):
            upper = np.minimum(upper, 0.0)
        if attributes.get("boolean"):
            boolean = self._places("boolean_idx")
            lower = np.where(boolean, np.maximum(lower, 0.0), lower)
            upper = np.where(boolean, np.minimum(upper, 1.0), upper)
        return lower.ravel(order="F"), upper.ravel(order="F")

    def _places(self, which: str) -> Array:
        mask = np.zeros(self.variable.shape, bool)
        index = getattr(self.variable, which)
        if not self.variable.shape:
            mask[()] = len(index) > 0
        elif isinstance(index, tuple):
            mask[index] = True
        else:
            for place in index:
                mask[tuple(place)] = True
        return mask


def label(leaf: Any) -> str:
    """Return the name of a variable or parameter."""
    return leaf.name()


def as_array(value: Any) -> Array:
    """Return a value as a dense array of floats."""
    return np.asarray(value.toarray() if sp.issparse(value) else value, float)


def make_leaf(variable: cp.Variable, first: int, semidefinite: bool = False) -> Leaf:
    """Return the plain columns of a variable, numbered from ``first``.

    With ``semidefinite`` the attributes PSD and NSD are taken too; the caller writes the cone.
    """
    attributes = variable.attributes
    for name in _REFUSED[: -2 if semidefinite else None]:
        if attributes.get(name):
            raise UnsupportedProblem(
                f"Variable {label(variable)} is declared {name}=True, which is not supported. "
                f"Write it with real entries; a follower may have symmetric=True and the "
                f"constraint {label(variable)} >> 0."
            )
    basis = _basis(variable)
    if basis is None:
        plain = cp.Variable(variable.shape, name=label(variable))
        return Leaf(variable, plain, plain, None, first)
    plain = cp.Variable(basis.shape[1], name=label(variable))
    expression = cp.reshape(basis @ plain, variable.shape, order="F")
    return Leaf(variable, plain, expression, basis, first)


def _basis(variable: cp.Variable) -> sp.csr_array | None:
    shape = variable.shape
    attributes = variable.attributes
    flat = np.arange(variable.size).reshape(shape, order="F")
    if any(attributes.get(name) for name in ("symmetric", "PSD", "NSD")):
        row, column = np.triu_indices(shape[0])
        pairs = np.concatenate([flat[row, column], flat[column, row]])
        index = np.tile(np.arange(len(row)), 2)
        keep = np.concatenate([np.ones(len(row), bool), row != column])
        pairs = pairs[keep]
        index = index[keep]
    elif attributes.get("diag"):
        pairs = np.diag(flat)
        index = np.arange(shape[0])
    elif attributes.get("sparsity"):
        pairs = flat[tuple(np.asarray(part) for part in variable.sparse_idx)]
        index = np.arange(len(pairs))
    else:
        return None
    entries = (np.ones(len(pairs)), (pairs, index))
    return sp.csr_array(sp.coo_array(entries, shape=(variable.size, int(index.max()) + 1)))


def parameter_value(parameter: cp.Parameter, given: Mapping[Any, Any]) -> Array:
    """Return the value a parameter has for this solve, checked for shape and finiteness."""
    value = given.get(parameter, parameter.value)
    name = label(parameter)
    if value is None:
        raise ProblemError(
            f"Parameter {name} has no value: set {name}.value or pass parameters={{{name}: ...}}."
        )
    try:
        array = as_array(value)
    except (TypeError, ValueError) as error:
        raise ProblemError(f"The value of parameter {name} is not numeric.") from error
    if array.shape != parameter.shape:
        raise ProblemError(
            f"Parameter {name} has shape {parameter.shape}, but the value given has shape "
            f"{array.shape}."
        )
    if not np.isfinite(array).all():
        raise ProblemError(f"The value of parameter {name} contains NaN or infinite entries.")
    if parameter.is_nonneg() and (array < 0).any():
        raise ProblemError(f"Parameter {name} is declared nonneg but has a negative value.")
    if parameter.is_nonpos() and (array > 0).any():
        raise ProblemError(f"Parameter {name} is declared nonpos but has a positive value.")
    return array
