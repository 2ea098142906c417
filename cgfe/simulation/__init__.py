"""Simulating a potential, and judging it by its simulation."""
