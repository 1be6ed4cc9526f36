"""The `atril` command."""
