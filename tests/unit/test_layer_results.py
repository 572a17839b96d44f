"""What a layer's results look like, and names that they had before."""

import cvxpy as cp
import pytest
import torch

import bilevel as bl
from bilevel import layers
from bilevel.adjoints import GradientKind
from bilevel.layers import FollowerLayer, Report, Result, SmoothBilevelLayer


def positive_part(*position, **options):
    y, p = cp.Variable(name="y"), cp.Parameter(name="p")
    problem = cp.Problem(cp.Minimize(cp.square(y - p)), [y >= 0, y <= 4])
    return FollowerLayer(problem, [p], [y], *position, **options)


def test_a_result_is_one_line_of_text_and_a_table_in_a_notebook():
    found = positive_part(on_failure="nan").solve(torch.tensor([-1.0, 0.0, 2.0, torch.nan]))
    assert "\n" not in repr(found)
    assert repr(found).startswith("Result(values of shapes (4,); 3 OPTIMAL, 1 FAILED; Report(")
    assert "2 CLASSICAL, 1 ONE_SIDED, 1 NONE; largest residual" in repr(found.report)
    page = found._repr_html_()
    assert page.count("<tr>") == 5
    for word in ("OPTIMAL", "FAILED", "ONE_SIDED", "weakly active: c0[0]", "residual", "margin"):
        assert word in page
    assert "OPTIMAL" not in found.report._repr_html_()  # a report does not know the status
    assert found.report._repr_html_().count("<tr>") == 5


def test_a_large_batch_is_shown_in_part():
    count = 50
    numbers = torch.zeros(count)
    report = Report((GradientKind.CLASSICAL,) * count, numbers, numbers)
    page = report._repr_html_()
    assert page.count("<tr>") == 21
    assert "the first 20 of 50" in page
    empty = Report((), torch.zeros(0), torch.zeros(0))
    assert repr(empty) == "Report(no instance; largest residual unknown)"


def test_old_names_work_under_a_warning():
    with pytest.warns(DeprecationWarning, match="now called Result"):
        assert layers.Answer is Result
    with pytest.raises(AttributeError, match="nothing"):
        _ = layers.nothing
    at = torch.tensor(9.0)
    for layer in (positive_part(), positive_part(backend="clarabel")):
        assert float(layer(at)[0]) == pytest.approx(4.0)
    for arguments, keywords in ((("clarabel",), {}), ((), {"solver": "clarabel"})):
        with pytest.warns(DeprecationWarning, match="backend='clarabel'") as seen:
            layer = positive_part(*arguments, **keywords)
        assert seen[0].filename == __file__
        assert float(layer(at)[0]) == pytest.approx(4.0)
    with pytest.warns(DeprecationWarning, match="now called barrier_parameter") as seen:
        SmoothBilevelLayer(
            lambda x, y: x**2,
            lambda x, y: (y - x) ** 2,
            start=(torch.zeros(()), torch.zeros(())),
            inequalities="barrier",
            t=1e4,
        )
    assert seen[0].filename == __file__


def test_a_backend_is_named_once_and_a_solver_is_none():
    with pytest.raises(bl.ProblemError, match="old spelling of backend"):
        positive_part(solver="clarabel", backend="highs")
    with pytest.raises(bl.ProblemError, match="takes no Branching; name a backend"):
        positive_part(solver=bl.Branching())


def test_a_misspelt_word_is_refused_with_the_list():
    with pytest.raises(
        bl.ProblemError, match=r"on_failure must be one of .*'raise', 'nan', 'zero'"
    ):
        positive_part(on_failure="skip")
