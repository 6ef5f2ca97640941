"""Decoding on CUDA: paged caches, fused attention, captured steps. Runs on a CPU too, for tests."""
