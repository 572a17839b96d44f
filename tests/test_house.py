"""The rules of the house that no linter knows."""

import ast
import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from numpydoc.docscrape import NumpyDocString

import bilevel

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "bilevel"
FILES = sorted(str(file.relative_to(SOURCE)) for file in SOURCE.rglob("*.py"))
FOLDERS = ["src", "tests", "docs", "benchmarks", "experiments", "examples"]

PUBLIC = [
    name
    for name in bilevel.__all__
    if inspect.isclass(getattr(bilevel, name)) or inspect.isroutine(getattr(bilevel, name))
]

# Imports cvxpy, which itself loads the solvers it finds; forgets them; and asks whether
# bilevel and its public names alone bring them back.
LOADED_BY_BILEVEL = """
import sys
import cvxpy
optional = set(sys.argv[1:])
for module in [m for m in sys.modules if m.partition(".")[0] in optional]:
    del sys.modules[module]
import bilevel
for name in set(bilevel.__all__) - bilevel._WITH_TORCH:
    getattr(bilevel, name)
print(*sorted(optional & set(sys.modules)))
"""
OPTIONAL = ["casadi", "clarabel", "cobra", "daqp", "highspy", "matplotlib", "pyscipopt", "torch"]


def parse(file):
    """Return the syntax tree of a source file."""
    return ast.parse((SOURCE / file).read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", FILES)
def test_no_assert_guards_the_library(file):
    asserts = [node.lineno for node in ast.walk(parse(file)) if isinstance(node, ast.Assert)]
    assert not asserts, f"raise an error of bilevel.errors instead, lines {asserts}"


@pytest.mark.parametrize("file", [file for file in FILES if Path(file).parts[0] != "cli"])
def test_only_the_command_line_prints(file):
    prints = [
        node.lineno
        for node in ast.walk(parse(file))
        if isinstance(node, ast.Name) and node.id in ("print", "Console")
    ]
    assert not prints, f"return or log it instead, lines {prints}"


def test_import_loads_no_optional_package():
    command = [sys.executable, "-c", LOADED_BY_BILEVEL, *OPTIONAL]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []


def test_import_loads_what_is_asked_for():
    command = [sys.executable, "-c", "import sys, bilevel; print(*sys.modules)"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert not {"cvxpy", "numpy", "scipy"} & set(loaded.split())


def test_no_file_hides_a_public_name():
    # Importing bilevel.verify, were there such a file, would put it in the place of bl.verify.
    names = {file.stem for file in SOURCE.iterdir()} - {"instances"}
    assert not names & set(bilevel.__all__)


def test_type_checkers_see_the_names_that_are_imported_when_asked_for():
    seen = {
        alias.name: node.module
        for node in ast.walk(parse("__init__.py"))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {name: seen.get(name) for name in bilevel._LATER} == bilevel._LATER
    assert set(bilevel.__all__) - bilevel._LATER.keys() == {"instances"}
    assert {name for name, module in seen.items() if module == "bilevel"} <= bilevel._ROOMS


def test_a_name_that_does_not_exist_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'slove'"):
        bilevel.slove  # noqa: B018


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_show_an_executed_example(name):
    docstring = getattr(bilevel, name).__doc__  # its own, not its parent's
    assert docstring, f"{name} has no docstring"
    section = "\n".join(NumpyDocString(docstring)["Examples"])
    examples = doctest.DocTestParser().get_examples(section)
    assert examples, f"{name} has no section Examples"
    assert not any(doctest.SKIP in example.options for example in examples)


def test_no_file_has_a_name_reserved_on_windows():
    files = (file for folder in FOLDERS for file in (ROOT / folder).rglob("*"))
    assert not [file for file in files if file.name.lower().partition(".")[0] == "aux"]
