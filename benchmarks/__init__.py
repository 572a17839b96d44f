"""Benchmarks: `python -m benchmarks list | run | report`; one file in `cases/` per case."""
