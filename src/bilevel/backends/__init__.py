"""One single-level program in, one raw answer out: a file per vendor."""

from bilevel.backends.backend import AbstractBackend
from bilevel.backends.registry import available, get, names

__all__ = ["AbstractBackend", "available", "get", "names"]
