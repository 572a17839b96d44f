"""How followers respond at a fixed leader decision."""
