"""`bilevel reaction`: the followers' response as a table, JSON or figure."""

import pytest

import bilevel as bl


def test_the_table_has_a_row_for_each_region(bilevel):
    done = bilevel("reaction", "T4")
    assert (done.code, done.err) == (0, "")
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert "regions 2, kinks 1, set-valued places 1" in lines
    assert "region followers' response" in lines
    assert {"0 <= x <= 2 y = 1", "2 <= x <= 3 y = 0", "x = 2 several best responses"} <= set(lines)


def test_json_holds_the_map(bilevel):
    content = bilevel("reaction", "T16", "--json").json
    found = bl.reaction(bl.instances.get("T16").problem)
    assert content["parameters"] == list(found.parameters)
    assert content["responses"] == list(found.responses)
    assert content["complete"] is True
    assert len(content["regions"]) == len(found.rows())
    first = min(found.regions, key=lambda region: region.corners[0].tolist())
    assert content["regions"][0]["K"] == first.K.tolist()
    assert content["regions"][0]["unique"] is True


def test_where_the_response_is_not_unique_json_has_none(bilevel):
    content = bilevel("reaction", "T4", "--json").json
    places = [region for region in content["regions"] if not region["unique"]]
    assert [(place["corners"], place["K"], place["k"]) for place in places] == [
        ([[2.0]], None, None)
    ]


def test_a_figure_is_saved(bilevel, tmp_path):
    pytest.importorskip("matplotlib")
    done = bilevel("reaction", "T2", "--figure", tmp_path / "map.png")
    assert done.code == 0
    assert (tmp_path / "map.png").stat().st_size > 0
    assert "map.png" in done.err


def test_an_incomplete_map_has_exit_code_1(bilevel):
    done = bilevel("reaction", "T2", "--time-limit", "1e-9")
    assert done.code == 1
    assert "INCOMPLETE" in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["T99"], "T1"),
        (["T14"], "column k is integer"),
        (["T4", "--figure", "map.xlsx"], "png"),
        (["T4", "--set", "a=1"], "no cvxpy.Parameter"),
        (["T4", "--time-limit", "0"], "time_limit must be a positive"),
        (["T4", "--aux", "x.aux"], "--aux belongs"),
    ],
)
def test_what_has_no_map_is_refused_with_exit_code_2(bilevel, arguments, said):
    done = bilevel("reaction", *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
