"""Processes that hold checkpoints and run them, for an engine that lives elsewhere."""
