"""The reaction map: every best response of one follower, as a piecewise affine function."""
