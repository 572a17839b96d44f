"""Leader, followers, parameters and stance: the problem, and its matrices. Nothing here solves."""
