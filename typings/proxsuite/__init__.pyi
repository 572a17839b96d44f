# proxsuite is compiled and optional; without this pyright misses it where it is not installed.
from typing import Any

def __getattr__(name: str) -> Any: ...
