"""What can be seen of a network beside its figures."""
