"""One single-level program in, one raw answer out: a file per vendor."""

from bilevel.backends.backend import AbstractBackend
from bilevel.backends.registry import Purpose, available, get, names, routes, serving

__all__ = ["AbstractBackend", "Purpose", "available", "get", "names", "routes", "serving"]
