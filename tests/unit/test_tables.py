"""Tables for notebooks."""

from __future__ import annotations

import numpy as np

from bilevel.tables import table


def test_everything_is_escaped():
    found = table([("<b>x</b>", "a & b")], head=("<i>", '"'), caption="<script>")
    assert "<b>" not in found
    assert "<i>" not in found
    assert "<script>" not in found
    assert "a &amp; b" in found
    assert "&lt;b&gt;x&lt;/b&gt;" in found


def test_numbers_stand_to_the_right_and_nothing_is_an_empty_cell():
    found = table([("value", np.float64(1.23456789)), ("bound", None), ("accepted", True)])
    assert '<td style="text-align:right">1.23457</td>' in found
    assert '<td style="text-align:left"></td>' in found
    assert '<td style="text-align:left">True</td>' in found


def test_a_row_has_a_heading_where_columns_have_none():
    assert table([("value", 1)]).count("<th") == 1
    assert table([("value", 1)], head=("what", "number")).count("<th") == 2
