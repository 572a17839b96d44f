"""How a command is started, and how it ended."""

import json
import sys
from dataclasses import dataclass

COMMAND = [sys.executable, "-c", "from bilevel.cli import main; main()"]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """Standard output, which must be one JSON object and have no NaN or Infinity."""
        found = json.loads(self.out, parse_constant=_refuse)
        assert isinstance(found, dict)
        return found


def _refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def checked(ended, arguments):
    """Return how a command ended, after a look for tracebacks."""
    if "--debug" not in arguments:
        assert "Traceback" not in ended.out + ended.err
    return ended
