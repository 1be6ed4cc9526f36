"""Protocol buffers of Atril's own APIs."""
