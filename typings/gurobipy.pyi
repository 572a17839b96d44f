# gurobipy is an optional package; without this pyright misses it where it is not installed.
from typing import Any

def __getattr__(name: str) -> Any: ...
