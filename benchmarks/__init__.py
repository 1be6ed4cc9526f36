"""Measurements; each module prints what it measured and asserts nothing about time."""
