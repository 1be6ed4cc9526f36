"""Variants of published models in other precisions."""
