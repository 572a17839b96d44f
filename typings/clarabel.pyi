# clarabel is compiled and ships no types; without this pyright doubts every name in it.
from typing import Any

def __getattr__(name: str) -> Any: ...
