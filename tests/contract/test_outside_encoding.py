"""An encoding written outside the package, from the page "Architecture" alone."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

import bilevel as bl
from bilevel.reformulate.encodings import AbstractEncoding, Product


@dataclass(frozen=True)
class Sides(AbstractEncoding):
    """A binary for each pair, and an indicator for each of its sides."""

    def pair(self, builder, multiplier, slack, name, bounds):
        switch = builder.column(
            f"side[{name}]",
            0.0,
            1.0,
            recipe=lambda v: float(v[multiplier] > v[slack]),
            integer=True,
        )
        self.implication(builder, switch, 0, multiplier, name)
        self.implication(builder, switch, 1, slack, name)

    def implication(self, builder, binary, active, target, name):
        builder.indicator(binary, active, target, f"zero[{name}]")


@pytest.mark.backend("scip")
@pytest.mark.parametrize("reformulation", [bl.KKT, bl.StrongDuality])
@pytest.mark.parametrize("name", ["T1", "T2", "T4", "T8"])
def test_it_solves_what_an_inside_one_solves(name, reformulation):
    problem = bl.instances.get(name).problem
    solution = bl.solve(problem, bl.SingleLevel(reformulation(Sides())))
    expected = bl.solve(problem, bl.SingleLevel(reformulation(bl.Indicator())))
    assert solution.status is expected.status
    assert solution.leader_value == pytest.approx(expected.leader_value, abs=1e-6)
    assert solution.certificate.accepted
    assert "Sides()" in solution.summary()


def test_an_encoding_must_write_pairs_and_implications():
    class Half(AbstractEncoding):
        def pair(self, builder, multiplier, slack, name, bounds):
            pass

    with pytest.raises(TypeError, match="implication"):
        Half()


def test_what_is_said_on_the_class_is_heard():
    assert Sides().proved
    assert Sides.linearizes
    assert not Product.linearizes
