"""Files: problems read from and written to the formats of the field."""

from bilevel.io.files import FORMATS, format_of, read, write

__all__ = ["FORMATS", "format_of", "read", "write"]
