"""Tables for notebooks: the HTML that records return from ``_repr_html_``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from numbers import Real
from textwrap import shorten
from typing import Any


def table(rows: Iterable[Sequence[Any]], head: Sequence[Any] = (), caption: str = "") -> str:
    r"""Return an HTML table in which everything that was given is escaped.

    Parameters
    ----------
    rows
        The cells by row. Numbers are shown with six digits and stand to the right, ``None`` is an
        empty cell, and everything else is shown as ``str`` says. Without ``head``, the first cell
        of a row is its heading.
    head
        Headings of the columns.
    caption
        A line above the table.

    Returns
    -------
    str
        A ``<table>`` without scripts and without styles of its own but alignment. A text between
        dollar signs is shown as a formula where the notebook renders LaTeX.

    Examples
    --------
    >>> from bilevel.tables import table
    >>> print(table([("gap < limit", 1e-9)]))
    <table>
    <tr><th style="text-align:left">gap &lt; limit</th><td style="text-align:right">1e-09</td></tr>
    </table>
    """
    lines = ["<table>"]
    if caption:
        style = "caption-side:top;text-align:left"
        lines.append(f'<caption style="{style}">{escape(caption)}</caption>')
    if head:
        lines.append(f"<tr>{''.join(_cell(one, 'th') for one in head)}</tr>")
    for row in rows:
        tags = ["td" if head or place else "th" for place in range(len(row))]
        cells = "".join(_cell(one, tag) for one, tag in zip(row, tags, strict=True))
        lines.append(f"<tr>{cells}</tr>")
    return "\n".join([*lines, "</table>"])


def formula(expression: Any) -> str:
    """Return a CVXPY objective, constraint or expression as one line, cut where it is long.

    CVXPY writes formulas as text; it has no LaTeX for them.
    """
    return shorten(str(expression), 160, placeholder=" …")


def _cell(content: Any, tag: str) -> str:
    is_number = isinstance(content, Real) and not isinstance(content, bool)
    text = "" if content is None else f"{content:.6g}" if is_number else str(content)
    lines = escape(text).replace("\n", "<br>")
    return f'<{tag} style="text-align:{"right" if is_number else "left"}">{lines}</{tag}>'
