"""Bilevel problem to single-level program, and the way back."""

from typing import Any

from bilevel.deprecation import renamed_attribute
from bilevel.reformulate.encodings import SOS1, AbstractEncoding, BigM, Indicator, Product
from bilevel.reformulate.inner_dual import InnerDual
from bilevel.reformulate.kkt import KKT
from bilevel.reformulate.lift import lift
from bilevel.reformulate.reformulation import AbstractReformulation, Reformulated
from bilevel.reformulate.strong_duality import StrongDuality
from bilevel.reformulate.worst_response import WorstResponse

__all__ = [
    "KKT",
    "SOS1",
    "AbstractEncoding",
    "AbstractReformulation",
    "BigM",
    "Indicator",
    "InnerDual",
    "Product",
    "Reformulated",
    "StrongDuality",
    "WorstResponse",
    "lift",
]


def __getattr__(name: str) -> Any:
    return renamed_attribute(__name__, name, {"WorstAnswer": "WorstResponse"})
