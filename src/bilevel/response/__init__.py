"""What followers answer at a fixed leader decision."""
