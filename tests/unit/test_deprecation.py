"""Old names work for a release, and say at the caller's line what they are called now."""

import sys
from dataclasses import dataclass

import pytest

import bilevel as bl
from bilevel.deprecation import renamed_attribute, renamed_fields, renamed_keywords
from bilevel.solution import Stats


@renamed_fields(limit="max_steps")
@dataclass(frozen=True)
class Record:
    max_steps: int = 10
    atol: float = 1e-6


@renamed_keywords(limit="max_steps")
def walk(max_steps=10):
    return max_steps


def test_an_old_keyword_works_and_warns_at_the_callers_line():
    with pytest.warns(
        DeprecationWarning, match=r"walk\(limit=...\) is now called max_steps"
    ) as seen:
        assert walk(limit=3) == 3
    assert seen[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=r"Record\(limit=...\)") as seen:
        assert Record(limit=3) == Record(max_steps=3)
    assert seen[0].filename == __file__


def test_an_old_attribute_can_be_read():
    with pytest.warns(DeprecationWarning, match="Record.limit is now called max_steps") as seen:
        assert Record(4).limit == 4
    assert seen[0].filename == __file__


def test_old_and_new_keyword_at_once_are_refused():
    with pytest.raises(TypeError, match="both max_steps= and limit="):
        Record(limit=3, max_steps=4)


def test_an_unknown_keyword_stays_one():
    with pytest.raises(TypeError, match="unexpected keyword"):
        Record(most=3)


def test_an_old_name_of_a_module():
    me = sys.modules[__name__]
    with pytest.warns(DeprecationWarning, match="OldRecord is now called Record"):
        assert renamed_attribute(__name__, "OldRecord", {"OldRecord": "Record"}) is me.Record
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        renamed_attribute(__name__, "Other", {"OldRecord": "Record"})


def test_old_names_of_solvers_and_structure():
    problem = bl.instances.get("T4").problem
    with pytest.warns(DeprecationWarning, match="dual_variables"):
        assert problem.compile().prices == ()
    with pytest.warns(DeprecationWarning, match="resume"):
        assert Stats("SingleLevel").rest is None
    with pytest.warns(DeprecationWarning, match="Structure.PRICES is now called DUAL_VARIABLES"):
        assert bl.Structure.PRICES is bl.Structure.DUAL_VARIABLES
    certificate = bl.solve(problem).certificate
    with pytest.warns(DeprecationWarning, match="unique_answer is now called unique_response"):
        assert certificate.unique_answer is certificate.unique_response is False
    reaction = bl.reaction(problem)
    with pytest.warns(DeprecationWarning, match="ReactionMap.answers is now called responses"):
        assert reaction.answers is reaction.responses


def test_old_names_of_reformulations():
    with pytest.warns(DeprecationWarning, match="WorstAnswer is now called WorstResponse") as seen:
        found = [bl.WorstAnswer, bl.reformulate.WorstAnswer]
    assert found == [bl.WorstResponse] * 2
    # Python shows a DeprecationWarning of the user's own lines only, so none may name ours.
    assert {warning.filename for warning in seen} == {__file__}


def test_an_old_name_that_is_imported_warns_at_the_import():
    with pytest.warns(DeprecationWarning, match="Answer is now called Result") as seen:
        from bilevel.layers import Answer  # noqa: F401
    assert {warning.filename for warning in seen} == {__file__}
