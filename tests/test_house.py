"""The rules of the house that no linter knows."""

import ast
import doctest
import inspect
import re
import subprocess
import sys
import tokenize
from functools import cache
from pathlib import Path

import pytest
from numpydoc.docscrape import NumpyDocString

import bilevel

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "bilevel"
FILES = sorted(str(file.relative_to(SOURCE)) for file in SOURCE.rglob("*.py"))
FOLDERS = ["src", "tests", "docs", "benchmarks", "experiments", "examples"]

# Python 3.12 splits an f-string into tokens; before, it is one string.
FSTRING_MIDDLE = getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)

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


# What only readers of a private page could look up: "spec T8b", "(E3-6)".
PRIVATE = re.compile(r"\bE\d-\d|\bspec\s+[A-Z]?\d|\b[Ss]pecification\b")


@cache
def parse(file):
    """Return the syntax tree of a source file."""
    return ast.parse((SOURCE / file).read_text(encoding="utf-8"))


@cache
def prose(file):
    """Return ``(line, text)`` of every comment and string of a source file."""
    with (SOURCE / file).open(encoding="utf-8") as lines:
        return [
            (token.start[0], token.string)
            for token in tokenize.generate_tokens(lines.readline)
            if token.type in (tokenize.COMMENT, tokenize.STRING, FSTRING_MIDDLE)
        ]


def written(pattern):
    """Return where comments and strings of the library match a pattern."""
    return [f"{file}:{line}" for file in FILES for line, s in prose(file) if pattern.search(s)]


def printing(tree):
    """Return the lines that print."""
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
    return [node.lineno for node in names if node.id in ("print", "Console")]


def squeezed(tree):
    """Return the lines that set three or more names to as many values that stand there."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
            continue
        values = {ast.dump(value, include_attributes=False) for value in node.value.elts}
        for target in node.targets:
            if not isinstance(target, ast.Tuple) or len(target.elts) < 3:
                continue
            # A rotation, a, b, c = b, c, d, cannot be written out line by line.
            stored = {ast.dump(name).replace("Store()", "Load()") for name in target.elts}
            if not stored & values:
                found.append(node.lineno)
    return found


def test_no_assert_guards_the_library():
    found = [
        f"{file}:{node.lineno}"
        for file in FILES
        for node in ast.walk(parse(file))
        if isinstance(node, ast.Assert)
    ]
    assert not found, "raise an error of bilevel.errors instead"


def test_only_the_command_line_prints():
    files = [file for file in FILES if Path(file).parts[0] != "cli"]
    found = [f"{file}:{line}" for file in files for line in printing(parse(file))]
    assert not found, "return or log it instead"


def test_nothing_is_squeezed_into_a_line():
    found = [f"{file}:{line}" for file in FILES for line in squeezed(parse(file))]
    assert not found, "write one assignment a line"


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("a, b, c = 1, 2, 3", [1]),
        ("x = 1\nself.a, b, c = f(), [], {}", [2]),
        ("a, b = 1, 2", []),
        ("a, b, c = f()", []),
        ("a, b, c = b, c, a + b", []),
        ("x = 1, 2, 3", []),
    ],
)
def test_what_is_called_squeezed(code, lines):
    assert squeezed(ast.parse(code)) == lines


def adjoints():
    """Return the names of the adjoints: the final classes under the abstract ones."""
    folder = [file for file in FILES if Path(file).parts[0] == "adjoints"]
    classes = [
        node for file in folder for node in ast.walk(parse(file)) if isinstance(node, ast.ClassDef)
    ]
    return {
        node.name
        for node in classes
        if any(re.fullmatch(r"Abstract\w*Adjoint", ast.unparse(base)) for base in node.bases)
        and not node.name.startswith("Abstract")
    }


def asked_by_class(tree, names):
    """Return the lines that ask whether an object is of one of the adjoints' classes."""
    # The reformulation KKT bears an adjoint's name: only what is imported from there counts.
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bilevel.adjoints")
        for alias in node.names
        if alias.name in names
    } | {f"adjoints.{name}" for name in names}
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("isinstance", "issubclass")
        and any(
            ast.unparse(part) in imported
            for part in ast.walk(node.args[1])
            if isinstance(part, (ast.Name, ast.Attribute))
        )
    ]


def test_no_adjoint_is_known_by_its_class():
    names = adjoints()
    assert names >= {"KKT", "Cone", "Implicit", "Unrolled"}
    found = [f"{file}:{line}" for file in FILES for line in asked_by_class(parse(file), names)]
    assert not found, "an adjoint of one's own must do as well: put it into the contract"


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("from bilevel.adjoints import KKT\nisinstance(a, KKT)", [2]),
        ("from bilevel.adjoints import KKT, Cone\nisinstance(a, (Cone, KKT))", [2]),
        ("from bilevel.adjoints.convex.cone import Cone as C\nisinstance(a, C | None)", [2]),
        ("from bilevel import adjoints\nisinstance(a, adjoints.Cone)", [2]),
        ("from bilevel.reformulate import KKT\nisinstance(r, KKT)", []),
        ("from bilevel.adjoints import AbstractAdjoint\nisinstance(a, AbstractAdjoint)", []),
        ("from bilevel.adjoints import KKT\nKKT()", []),
    ],
)
def test_what_is_called_asking_by_class(code, lines):
    assert asked_by_class(ast.parse(code), {"KKT", "Cone"}) == lines


def test_the_formatter_is_not_told_to_look_away():
    assert not written(re.compile(r"fmt:\s*(skip|off)")), "let ruff format it"


def test_what_is_cited_can_be_found_by_a_stranger():
    found = written(PRIVATE)
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        lines = page.read_text(encoding="utf-8").splitlines()
        found += [f"{page.name}:{i}" for i, text in enumerate(lines, 1) if PRIVATE.search(text)]
    assert not found, "name author, title and equation"


@pytest.mark.parametrize(
    ("text", "private"),
    [
        ("unbounded (spec T8b)", True),
        ("not attained (E3-6)", True),
        ("as in the project's specification", True),
        ("spec 1.8", True),
        ("instance T8b", False),
        ("1E3-6", False),
        ("leaves, spec = flatten(tree)", False),
    ],
)
def test_what_is_called_private(text, private):
    assert bool(PRIVATE.search(text)) is private


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
