"""Derivatives of answers of problems written as torch functions."""
