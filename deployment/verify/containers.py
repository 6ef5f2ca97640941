"""Containers of the checks: started locked down, asked over HTTP, removed in any case."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from deployment.verify.report import CheckFailedError, expect, output_of, run

RESTRICTED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
TRANSLATE: dict[str, Any] = {"text": ["The coffee is cold.", "Thank you!"]}
SUMMARIZE: dict[str, Any] = {
    "text": "Bridges age, and inspecting them is expensive. We present a method that detects "
    "cracks in concrete bridges from photographs taken by small drones."
}
START_S = 300
_CALL_S = 120


def docker(*arguments: str) -> str:
    """Output of the engine's client."""
    return output_of(["docker", *arguments]).strip()


def inspect(name: str, template: str) -> str:
    """A field of a container or an image."""
    return docker("inspect", "--format", template, name)


@contextmanager
def container(image: str, *options: str, command: tuple[str, ...] = ()) -> Iterator[str]:
    """A running container without privileges; it is removed with its volumes."""
    name = f"tandem-verify-{os.getpid()}-{time.monotonic_ns()}"
    docker(
        *("run", "--detach", "--name", name, "--publish", "127.0.0.1::8000"),
        *(*RESTRICTED, *options, image, *command),
    )
    try:
        yield name
    finally:
        run(["docker", "rm", "--force", "--volumes", name])


def wait_until_healthy(name: str) -> None:
    """Until the image's own health check says so."""
    deadline = time.monotonic() + START_S
    while (state := inspect(name, "{{.State.Status}} {{.State.Health.Status}}")) != (
        "running healthy"
    ):
        if state.startswith("exited") or time.monotonic() > deadline:
            raise CheckFailedError(f"{name} is {state}:\n{logs(name)}")
        time.sleep(0.5)


def logs(name: str) -> str:
    """The last lines of a container."""
    done = run(["docker", "logs", "--tail", "20", name])
    return done.stdout + done.stderr


def address(name: str) -> str:
    """Where a container's server can be called from this machine."""
    return f"http://{docker('port', name, '8000/tcp').splitlines()[0]}"


def expect_answers(url: str) -> str:
    """Call both endpoints; the first translation."""
    with httpx.Client(base_url=url, timeout=_CALL_S) as client:
        translated = client.post("/translate", json=TRANSLATE)
        summarized = client.post("/summarize", json=SUMMARIZE)
    for response in (translated, summarized):
        expect(response.status_code == 200, f"{response.url}: {response.text}")
    texts = [each["text"] for each in translated.json()["translations"]]
    summaries = [each["text"] for each in summarized.json()["summaries"]]
    expect(all((*texts, *summaries)), f"an answer is empty: {texts} {summaries}")
    expect("Kaffee" in texts[0], f"{TRANSLATE['text'][0]} became {texts[0]}")
    return str(texts[0])


def stop_in_background(name: str) -> "subprocess.Popen[bytes]":
    """Send SIGTERM, and SIGKILL after a minute, as an orchestrator does."""
    return subprocess.Popen(
        ["docker", "stop", "--time", "60", name],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def labels_of(image: str) -> dict[str, str]:
    """Labels of an image."""
    found: dict[str, str] = json.loads(inspect(image, "{{json .Config.Labels}}"))
    return found
