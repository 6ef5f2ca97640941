"""What one would write first: FastAPI and `generate()`, one call at a time."""

import argparse
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer


class Body(BaseModel):
    """The part of Tandem's request that the measurement uses."""

    text: str
    parameters: dict[str, Any] = {}
    timeout_s: float = 0.0


def create_app(checkpoint: str, ready: Callable[[], None]) -> FastAPI:
    """An app that answers `POST /translate` with one checkpoint."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    one_at_a_time = threading.Lock()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        ready()
        yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/translate")
    def translate(body: Body) -> dict[str, str]:
        with one_at_a_time, torch.inference_mode():
            inputs = tokenizer(body.text, return_tensors="pt", return_token_type_ids=False)
            target = model.generate(**inputs, **body.parameters)
        return {"text": str(tokenizer.decode(target[0], skip_special_tokens=True))}

    return app


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    url = f"http://127.0.0.1:{arguments.port}"

    def ready() -> None:
        print(f"The plain server is ready at {url}", flush=True)

    app = create_app(arguments.checkpoint, ready)
    uvicorn.run(app, port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
