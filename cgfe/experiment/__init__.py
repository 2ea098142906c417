"""Sweeps of many runs, and what their figures can tell."""
