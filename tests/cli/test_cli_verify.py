"""`bilevel verify`: the certificate of a point from anywhere."""

import json

import pytest


def test_an_accepted_point(bilevel):
    done = bilevel("verify", "T6b", "--at", "x=2", "--at", "y=3")
    assert done.code == 0
    assert "certificate        accepted" in done.out


def test_a_refused_point_has_exit_code_1(bilevel):
    done = bilevel("verify", "T6b", "--at", "x=2", "--at", "y=3.5", "--json")
    content = done.json
    assert (done.code, content["accepted"]) == (1, False)
    assert content["follower_gap"] > 0.1


def test_followers_answer_for_themselves(bilevel, model):
    done = bilevel("verify", f"{model}:problem", "--at", "x=1", "--json")
    assert (done.code, done.json["leader_value"]) == (0, pytest.approx(10.0))


def test_a_promise_is_refused_under_the_pessimistic_stance(bilevel):
    point = ["--at", "x=2", "--at", "y=1"]
    assert bilevel("verify", "T4", *point).code == 0
    assert bilevel("verify", "T4", *point, "--stance", "pessimistic").code == 1


def test_a_vector_is_a_json_list(bilevel):
    solved = bilevel("solve", "T3", "--json").json
    values = solved["values"]
    at = [part for name in values for part in ("--at", f"{name}={json.dumps(values[name])}")]
    assert bilevel("verify", "T3", *at).code == 0


def test_a_point_from_a_file_or_stdin(bilevel, write):
    text = '{"x": 2.0, "y": 3.0}'
    assert bilevel("verify", "T6b", "--point", write("point.json", text)).code == 0
    assert bilevel("verify", "T6b", "--point", "-", stdin=text).code == 0


def test_values_on_the_command_line_override_the_file(bilevel, write):
    file = write("point.json", '{"x": 2.0, "y": 3.5}')
    assert bilevel("verify", "T6b", "--point", file, "--at", "y=3").code == 0


@pytest.mark.parametrize("name", ["T2", "T3", "T9", "T14", "T16"])
def test_what_solve_prints_can_be_verified(bilevel, name):
    solved = bilevel("solve", name, "--json")
    done = bilevel("verify", name, "--point", "-", stdin=solved.out)
    assert done.code == 0


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        ([], None, "--point"),
        (["--at", "x"], None, "NAME=VALUE"),
        (["--at", "=1"], None, "NAME=VALUE"),
        (["--at", "x=one"], None, "a number or a JSON list"),
        (["--at", "x=NaN"], None, "NaN"),
        (["--at", "x=[1, 2]"], None, "shape"),
        (["--at", 'x={"a": 1}'], None, "not numeric"),
        (["--at", "z=1"], None, "'z'"),
        (["--at", "y=1"], None, "lacks a value"),
        (["--point", "-"], "x: 1", "not JSON"),
        (["--point", "-"], "[1, 2]", "JSON object"),
        (["--point", "no-such-file.json"], None, "cannot be read"),
        (["--point", "."], None, "cannot be read"),
    ],
)
def test_malformed_points_are_named_with_exit_code_2(bilevel, arguments, stdin, said):
    done = bilevel("verify", "T6b", *arguments, stdin=stdin)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
