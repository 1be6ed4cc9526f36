"""Simple methods that a trained network has to beat."""
