"""Experiments: `python -m experiments list | run | report`; one folder per paper."""
