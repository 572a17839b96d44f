"""Calling what ``torch.compile`` cannot trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


#: ``untraced(function, *arguments)`` calls a function outside of what is compiled.
compiler_disabled: Any = torch.compiler.disable(_call)
