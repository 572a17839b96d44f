"""Where the shared collections lie; tests skip where they are absent."""

import json
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"
CORPORA = Path(__file__).parents[2].parent / "shared" / "corpora"


def entries(collection):
    """Return one parameter per entry of a collection's index, or one that skips."""
    index = CORPORA / collection / "index.json"
    if not index.is_file():
        reason = f"the collection {collection} is not beside this repository"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    listed = json.loads(index.read_text(encoding="utf-8"))
    return [pytest.param(entry, id=entry["name"]) for entry in listed]
