from importlib.metadata import version
from typing import Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.settings import Settings
from tests.app.fakes import MAX_SOURCE_LEN, POISON, SETTINGS, Backwards

# The names that dashboards and alerts are built on.
METRICS = {
    "tandem_requests": {"model", "task", "outcome"},
    "tandem_request_seconds": {"model", "task", "le"},
    "tandem_queue_seconds": {"model", "le"},
    "tandem_encode_seconds": {"model", "le"},
    "tandem_step_seconds": {"model", "le"},
    "tandem_step_rows": {"model", "le"},
    "tandem_running_requests": {"model"},
    "tandem_waiting_requests": {"model"},
    "tandem_slots_used": {"model"},
    "tandem_slots_total": {"model"},
    "tandem_reserved_bytes": {"model"},
    "tandem_source_tokens": {"model", "task"},
    "tandem_generated_tokens": {"model", "task"},
    "tandem_encoder_padding_ratio": {"model", "le"},
    "tandem_encoder_runs_avoided": {"model", "outcome"},
    "tandem_cancelled_requests": {"model", "task"},
    "tandem_truncated_requests": {"model", "task"},
    "tandem_calls": {"client", "path", "status"},
}


async def test_metrics_have_their_names_and_labels() -> None:
    app = Backwards()
    async with app.client() as client:
        body = {"text": ["abc", "x" * 2 * MAX_SOURCE_LEN], "overflow": "truncate"}
        await client.post("/summarize", json=body)
        app.metrics.request_ended("short", "summarize", "cancelled", 1.0)
        response = await client.get("/metrics")

    assert response.headers["content-type"].startswith("text/plain")
    families = list(text_string_to_metric_families(response.text))
    assert {family.name for family in families} == METRICS.keys()
    for family in families:
        labels = {label for sample in family.samples for label in sample.labels}
        assert labels == METRICS[family.name], family.name


async def test_metrics_count_what_was_answered() -> None:
    app = Backwards()
    labels = {"model": "short", "task": "summarize"}
    async with app.client() as client:
        await client.post("/summarize", json={"text": ["abc", "de"]})

    assert app.value("tandem_requests_total", outcome="finished", **labels) == 2
    assert app.value("tandem_source_tokens_total", **labels) == 5
    assert app.value("tandem_generated_tokens_total", **labels) == 5
    assert app.value("tandem_request_seconds_count", **labels) == 2
    assert app.value("tandem_queue_seconds_count", model="short") == 2


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/summarize", {"text": "a"}, {("short", "finished"): 1}),
        ("/summarize", {"text": ["a", "b"]}, {("short", "finished"): 2}),
        ("/summarize", {"text": list("abcd")}, {("short", "invalid"): 4}),
        ("/summarize", {"text": ["a", "b"], "timeout_s": 601}, {("short", "invalid"): 2}),
        (
            "/summarize",
            {"text": ["a", "x" * (MAX_SOURCE_LEN + 1), "b"]},
            {("short", "invalid"): 1, ("short", "cancelled"): 2},
        ),
        (
            "/summarize",
            {"text": ["a", POISON, "b"]},
            {("short", "failed"): 1, ("short", "cancelled"): 2},
        ),
        ("/summarize", {"text": "bug"}, {("short", "failed"): 1}),
        ("/translate", {"text": ["a", "b"], "target_lang": "fr"}, {("none", "invalid"): 2}),
    ],
    ids=str,
)
async def test_every_text_of_a_call_is_counted_once(
    path: str, body: dict[str, Any], expected: dict[tuple[str, str], int]
) -> None:
    app = Backwards(SETTINGS, max_texts_per_request=3)
    async with app.client() as client:
        await client.post(path, json=body)

    assert counts(app) == expected


async def test_texts_that_are_refused_while_the_server_drains_are_counted() -> None:
    app = Backwards()
    async with app.client() as client:
        await app.service.drain(0)
        await client.post("/summarize", json={"text": ["a", "b"]})

    assert counts(app) == {("short", "refused"): 2}


def counts(app: Backwards) -> dict[tuple[str, str], int]:
    """Requests ended, by model and outcome."""
    return {
        (sample.labels["model"], sample.labels["outcome"]): int(sample.value)
        for metric in app.metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "tandem_requests_total"
    }


async def test_two_apps_do_not_share_their_metrics() -> None:
    busy, idle = Backwards(), Backwards()
    async with busy.client() as client, idle.client():
        await client.post("/summarize", json={"text": "abc"})

    assert busy.metrics.exposition() != idle.metrics.exposition()
    assert b'outcome="finished"' not in idle.metrics.exposition()


async def test_info_describes_checkpoints_limits_and_versions() -> None:
    settings = Settings(
        translate_model="t5", summarize_model="t5", max_num_beams=7, parameter_bounds={"top_k": 9}
    )
    async with Backwards(settings).client() as client:
        info = (await client.get("/info")).json()

    (model,) = info["models"]
    assert (model["name"], model["family"]) == ("t5", "bert")
    assert model["reason"] is None
    assert model["tasks"] == ["translate", "summarize"]
    assert (model["device"], model["dtype"]) == ("cpu", "float32")
    assert model["max_source_tokens"] == MAX_SOURCE_LEN
    assert info["limits"]["max_num_beams"] == 7
    assert info["limits"]["parameter_bounds"] == {"top_k": 9}
    assert "drain_s" in info["limits"]
    assert "port" not in info["limits"]
    assert info["versions"]["tandem-serve"] == version("tandem-serve")


@pytest.mark.parametrize(
    ("dtype", "promise"), [("float32", "the tokens of generate()"), ("int8", "tokens near those")]
)
async def test_info_promises_less_of_int8(dtype: str, promise: str) -> None:
    backwards = Backwards(Settings(translate_model="t5", summarize_model="none"))
    (model,) = backwards.service.routing.models
    cast(Any, model).checkpoint.dtype = f"torch.{dtype}"
    async with backwards.client() as client:
        (info,) = (await client.get("/info")).json()["models"]
    assert info["dtype"] == dtype
    assert info["promise"].startswith(promise)


def _translates(model: str, source: str, target: str) -> dict[str, Any]:
    pair = {"source_languages": [source], "target_languages": [target]}
    return {"model": model, **pair, "pairs": [pair], "default_target_language": None}


async def test_languages_are_those_of_the_translating_checkpoints() -> None:
    async with Backwards().client() as client:
        languages = (await client.get("/languages")).json()

    assert languages["models"] == [
        _translates("en-de", "en", "de"),
        _translates("de-en", "de", "en"),
    ]


async def test_the_page_of_the_api_names_every_route_and_its_problems() -> None:
    async with Backwards().client() as client:
        page = (await client.get("/openapi.json")).json()
        docs = await client.get("/docs")

    assert docs.status_code == 200
    assert set(page["paths"]) == {
        "/translate",
        "/summarize",
        "/health",
        "/ready",
        "/info",
        "/languages",
        "/metrics",
    }
    for path in ("/translate", "/summarize"):
        responses = page["paths"][path]["post"]["responses"]
        assert responses.keys() == {
            "200",
            "400",
            "408",
            "413",
            "422",
            "429",
            "431",
            "500",
            "503",
            "504",
        }
        assert "application/problem+json" in responses["422"]["content"]
