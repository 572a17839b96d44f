"""Derivatives of the answer of both levels at once."""
