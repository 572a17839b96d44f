"""Rewriting a CVXPY tree: plain leaves in, products of variables out.

Every product of two variable expressions (also a square or a quadratic form) is replaced by a new
variable ``p`` and remembered as ``p = left * right``. What is left is an ordinary CVXPY problem,
linear in the products; after its compilation they are multiplied out again. Nothing is relaxed:
the substitution is exact whatever the signs, so convexity is judged afterwards, in the follower's
own columns only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.atoms.affine.binary_operators import MulExpression, multiply
from cvxpy.atoms.elementwise.power import Power
from cvxpy.atoms.quad_form import QuadForm
from cvxpy.atoms.quad_over_lin import quad_over_lin

from bilevel.problem.functions import Array


class Rewriter:
    """Clones expressions onto plain leaves and collects the products it takes out.

    Parameters
    ----------
    variables
        For each id of a user variable, the expression in our own plain variable.
    parameters
        For each id of a user parameter, our own plain parameter (or a constant, where a problem
        is compiled anew for every value).

    Attributes
    ----------
    products
        ``(p, left, right)``: a new variable and the two affine expressions it stands for, all
        vectors of one length; a later product may contain earlier ``p``.
    """

    def __init__(self, variables: Mapping[int, Any], parameters: Mapping[int, Any]) -> None:
        self._variables = variables
        self._parameters = parameters
        # The node is kept beside its clone: a freed node could lend its id() to another.
        self._memo: dict[int, tuple[Any, Any]] = {}
        self.products: list[tuple[cp.Variable, Any, Any]] = []

    def expression(self, node: Any) -> Any:
        """Return ``node`` over plain leaves, products taken out."""
        known = self._memo.get(id(node))
        if known is None:
            known = (node, self._clone(node))
            self._memo[id(node)] = known
        return known[1]

    def constraint(self, node: Any) -> Any:
        """Return a constraint over plain leaves; it keeps its id."""
        arguments = [self.expression(argument) for argument in node.args]
        unchanged = all(a is b for a, b in zip(arguments, node.args, strict=True))
        return node if unchanged else node.copy(arguments)

    def _clone(self, node: Any) -> Any:
        if isinstance(node, cp.Variable):
            return self._variables[node.id]
        if isinstance(node, cp.Parameter):
            return self._parameters[node.id]
        if not node.args:
            return node
        arguments = [self.expression(argument) for argument in node.args]
        # A product with a nonlinear factor stays CVXPY's: its rules know squares of convex terms.
        affine = all(argument.is_affine() for argument in arguments)
        constant = any(argument.is_constant() for argument in arguments)
        if affine and not constant and isinstance(node, (multiply, MulExpression)):
            return self._multiply(node, *arguments)
        if affine and not arguments[0].is_constant():
            square = self._square(node, arguments)
            if square is not None:
                return square
        if all(a is b for a, b in zip(arguments, node.args, strict=True)):
            return node
        return node.copy(arguments)

    def _multiply(self, node: Any, left: Any, right: Any) -> Any:
        if isinstance(node, multiply):
            return self._lift(left, right, node.shape)
        rows = left.shape[:-1] or (1,)
        inner = left.shape[-1]
        columns = right.shape[1:] or (1,)
        if left.ndim > 2 or right.ndim > 2:
            return node.copy([left, right])
        m = rows[0]
        n = columns[0]
        # Entry (i, j) of the product is the sum over l of left[i, l] * right[l, j].
        i, j, k = (part.ravel() for part in np.indices((m, n, inner)))
        p = self._lift(_entries(left, i + m * k), _entries(right, k + inner * j), (m * n * inner,))
        total = sp.csr_array((np.ones(len(i)), (i + m * j, np.arange(len(i)))))
        return cp.reshape(total @ p, node.shape, order="F")

    def _square(self, node: Any, arguments: list[Any]) -> Any | None:
        if isinstance(node, Power) and node.p.is_constant() and np.all(node.p.value == 2):
            return self._lift(arguments[0], arguments[0], node.shape)
        if isinstance(node, QuadForm):
            vector = _flat(arguments[0])
            return cp.sum(self._lift(vector, arguments[1] @ vector, vector.shape))
        if isinstance(node, quad_over_lin) and arguments[1].is_constant():
            if getattr(node, "axis", None) is not None:
                return None
            vector = _flat(arguments[0])
            return cp.sum(self._lift(vector, vector, vector.shape)) / arguments[1]
        return None

    def _lift(self, left: Any, right: Any, shape: tuple[int, ...]) -> Any:
        p = cp.Variable(shape, name="product")
        self.products.append((p, _flat(left), _flat(right)))
        return p


def _flat(expression: Any) -> Any:
    return expression if expression.ndim == 1 else cp.vec(expression, order="F")


def _entries(expression: Any, index: Array) -> Any:
    flat = _flat(expression)
    if flat.size == len(index) and np.array_equal(index, np.arange(flat.size)):
        return flat
    return flat[index]
