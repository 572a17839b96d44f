"""Dicts, lists and tuples of tensors as flat vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optree
import torch
from torch import Tensor

from bilevel.errors import ProblemError

# optree's own annotations make every tree a type of its own.


def leaves(tree: Any) -> list[Any]:
    """Return the leaves of a tree, in order."""
    return list(optree.tree_leaves(tree))


def flatten(tree: Any) -> tuple[list[Any], Any]:
    """Return the leaves of a tree, and what ``unflatten`` needs beside them."""
    found, spec = optree.tree_flatten(tree)
    return list(found), spec


def unflatten(spec: Any, parts: Sequence[Any]) -> Any:
    """Return the tree with given leaves."""
    return optree.tree_unflatten(spec, parts)


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return a tree of the same structure with a function of each leaf."""
    return optree.tree_map(function, tree)


def detached(tree: Any) -> Any:
    """Return a tree whose tensors are detached."""
    return mapped(lambda leaf: leaf.detach(), tree)


class Tree:
    """The shapes of a tensor, or of a dict, list or tuple of tensors, as one flat vector.

    Parameters
    ----------
    like
        An example.
    name
        How messages call it.
    """

    def __init__(self, like: Any, name: str) -> None:
        given, self._spec = flatten(like)
        for leaf in given:
            if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
                raise ProblemError(
                    f"{name} must consist of tensors of floating-point numbers, not {_kind(leaf)}."
                )
        self._shapes = [leaf.shape for leaf in given]
        self._sizes = [leaf.numel() for leaf in given]
        self.size = sum(self._sizes)
        self._name = name
        if len({(leaf.dtype, leaf.device) for leaf in given}) > 1:
            raise ProblemError(f"The tensors of {name} differ in dtype or device.")
        self._empty = given[0].new_zeros(0) if given else torch.zeros(0)

    def flat(self, tree: Any, copy: bool = True) -> Tensor:
        """Return all numbers of a tree as one vector; without ``copy`` perhaps as a view."""
        given, spec = flatten(tree)
        if spec != self._spec or [leaf.shape for leaf in given] != self._shapes:
            raise ProblemError(f"{self._name} has another structure or other shapes than before.")
        if len(given) == 1 and not copy:
            return given[0].reshape(-1)
        return torch.cat([self._empty, *(leaf.reshape(-1) for leaf in given)])

    def tree(self, vector: Tensor) -> Any:
        """Return a vector, or the rows of a matrix, in the shapes of the example; views."""
        lead = vector.shape[:-1]
        if len(self._shapes) == 1:  # a split's derivative copies
            return unflatten(self._spec, [vector.reshape(lead + self._shapes[0])])
        parts = torch.split(vector, self._sizes, dim=-1)
        parts = [p.reshape(lead + s) for p, s in zip(parts, self._shapes, strict=True)]
        return unflatten(self._spec, parts)


def _kind(leaf: Any) -> str:
    """Return what a leaf is, without its numbers."""
    what = type(leaf).__name__
    return f"a {what} of {leaf.dtype}" if isinstance(leaf, Tensor) else f"objects of type {what}"
