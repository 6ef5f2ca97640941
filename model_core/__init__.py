"""Tandem's engine: a library that knows tensors and no HTTP."""
