"""The catalogue for people: listed, described, and built whole."""
