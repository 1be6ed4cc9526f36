"""Data, recipes, training, export, parity and publication."""
