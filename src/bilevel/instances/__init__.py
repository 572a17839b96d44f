"""Textbook problems with known answers and their sources."""

from bilevel.instances.instance import Answer, Instance
from bilevel.instances.registry import all_instances, get, names

__all__ = ["Answer", "Instance", "all_instances", "get", "names"]
