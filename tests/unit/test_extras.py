"""The package without torch: names are there, and who uses one is told what to install."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import bilevel as bl

_WITHOUT_TORCH = """
import sys


class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return None


sys.meta_path.insert(0, NoTorch())
import bilevel as bl
"""

_WITH_TORCH = (
    "HypergradientDescent",
    "ReducedNewton",
    "SOBA",
    "SampleMean",
    "SmoothProblem",
    "adjoints",
    "gradcheck",
    "layers",
    "learning",
)


_USES = (
    "bl.SmoothProblem(F=None, f=None)",
    "bl.SmoothProblem.min_max(None)",
    "bl.ReducedNewton()",
    "bl.HypergradientDescent(steps=3)",
    "bl.SOBA()",
    "bl.gradcheck(None, None)",
    "bl.layers.FollowerLayer",
    "bl.adjoints.KKT()",
    "import bilevel.layers",
    "import bilevel.adjoints",
    "from bilevel.learning import fit",
    "from bilevel.solvers.smooth import SOBA",
)

# One process asks everything: each start costs seconds.
_SCRIPT = f"""
import json
names = {_WITH_TORCH!r}
found = {{
    "has": all(hasattr(bl, name) for name in names),
    "lists": set(names) <= set(dir(bl)),
    "optimum": bl.solve(bl.instances.get("T1").problem).status.name,
    "is_smooth": isinstance(bl.instances.get("T1").problem, bl.SmoothProblem),
}}
scope = {{}}
exec("from bilevel import *", scope)
found["star"] = set(bl.__all__) <= set(scope)
for use in {_USES!r}:
    try:
        exec(use)
    except bl.BackendNotFound as error:
        found[use] = str(error)
found["torch"] = "torch" in sys.modules
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH + _SCRIPT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_names_can_be_asked_for_listed_and_imported_without_torch(found):
    assert found["has"]
    assert found["lists"]
    assert found["star"]
    assert not found["torch"]


def test_what_needs_no_torch_works_without(found):
    assert found["optimum"] == "OPTIMAL"
    assert found["is_smooth"] is False


@pytest.mark.parametrize("use", _USES)
def test_what_needs_torch_says_what_to_install(found, use: str):
    assert "needs the package torch" in found[use]
    assert "pip install 'bilevel[torch]'" in found[use]


def test_rooms_need_no_import_of_their_own():
    assert bl.layers.FollowerLayer.__name__ == "FollowerLayer"
    assert bl.plots.__name__ == "bilevel.plots"


def test_an_unknown_name_is_none():
    assert not hasattr(bl, "no_such_name")
