"""Trains the two demo checkpoints: English to German translation and English headlines."""
