"""Estimators: arrays in, arrays out."""
