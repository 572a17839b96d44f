"""Derivatives of convex programs' answers."""
