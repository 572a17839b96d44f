"""What all figures have in common; matplotlib is loaded when the first one is drawn."""

from __future__ import annotations

from typing import Any

from bilevel.errors import BackendNotFound

# Okabe and Ito's colours, told apart by colour-blind readers; black and yellow left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
GREY = "#9a9a9a"
DOTTED = (0, (1, 2))


def figure_of(**arguments: Any) -> Any:
    """Return an empty figure.

    Raises
    ------
    BackendNotFound
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendNotFound(
            "Figures are drawn by the package matplotlib, which is not installed: "
            'pip install "bilevel[plots]".'
        ) from error
    # Without pyplot: no window, no display and no global state is needed.
    return Figure(layout="constrained", dpi=150, **arguments)


def clean(axes: Any) -> None:
    """Take away what carries no information."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
