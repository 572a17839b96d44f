"""The library's methods that several cases compare; a new method is one line here."""

from __future__ import annotations

from typing import Any

import bilevel as bl

AUTO, SOS1 = "auto", "KKT SOS1 scip"

#: Methods that may say ``OPTIMAL``.
EXACT: dict[str, Any] = {
    AUTO: bl.Auto(),
    "Branching": bl.Branching(),
    SOS1: bl.SingleLevel(bl.KKT(bl.SOS1())),
    "Substitution": bl.Substitution(),
}
#: Methods that never do.
LOCAL: dict[str, Any] = {"Continuation": bl.Continuation()}
#: Other exact encodings, for the comparison of ``Auto`` with everything that accepts a problem.
ENCODINGS: dict[str, Any] = {
    "KKT Indicator scip": bl.SingleLevel(bl.KKT(bl.Indicator())),
    "KKT BigM highs": bl.SingleLevel(bl.KKT(bl.BigM()), "highs"),
    "StrongDuality SOS1 scip": bl.SingleLevel(bl.StrongDuality(bl.SOS1())),
    "StrongDuality BigM highs": bl.SingleLevel(bl.StrongDuality(bl.BigM()), "highs"),
}
