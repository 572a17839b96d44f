"""The command line: the one place that prints."""

from bilevel.cli.app import app, main

__all__ = ["app", "main"]
