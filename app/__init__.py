"""Tandem over HTTP: a FastAPI app over the engine in `model_core`."""
