"""Who calls: times, quotas, turns."""

import asyncio
import time
from typing import Any

import httpx
import pytest
from fastapi import Request

from app.caller import client_of
from app.quota import Quota, QuotaExceededError
from tests.app.fakes import SETTINGS, Backwards
from tests.app.waiting import eventually
from tests.model_core.fakes import Clock

ENDLESS = {"max_new_tokens": 10**6}


def summarize(client: httpx.AsyncClient, text: str | list[str], **body: Any) -> Any:
    return client.post("/summarize", json={"text": text, **body})


# Names --------------------------------------------------------------------------------------------


def request_from(address: str | None, **state: str) -> Request:
    client = None if address is None else (address, 1234)
    return Request({"type": "http", "client": client, "headers": [], "state": dict(state)})


def test_a_client_is_named_by_its_key_where_it_has_one() -> None:
    assert client_of(request_from("192.0.2.1", client_name="billing")) == "key billing"


def test_another_client_is_told_from_others_by_a_name_that_hides_its_address() -> None:
    one, again, other = (client_of(request_from(f"192.0.2.{part}")) for part in (1, 1, 2))
    assert one == again != other
    assert "192.0.2" not in one


def test_a_client_without_an_address_has_a_name() -> None:
    assert client_of(request_from(None))


# Time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "field"), [("0.05", None), ("0.05", 60.0), ("60", 0.05), ("", 0.05)]
)
async def test_the_smaller_of_header_and_field_bounds_a_call(
    header: str, field: float | None
) -> None:
    app = Backwards()
    body = {"text": "abc", "parameters": ENDLESS} | ({"timeout_s": field} if field else {})
    headers = {"X-Request-Timeout": header} if header else {}
    async with app.client() as client:
        response = await client.post("/summarize", json=body, headers=headers)
        await eventually(lambda: not app.runners["short"].slots)

    assert (response.status_code, response.json()["type"]) == (504, "urn:tandem:deadline-exceeded")
    assert "0.05 seconds" in response.json()["detail"]


async def test_a_call_whose_end_the_engine_sees_first_is_told_its_time_too() -> None:
    app = Backwards(engine_clock=lambda: time.monotonic() + 3600)
    async with app.client() as client:
        response = await summarize(client, "abc", timeout_s=60)

    assert (response.status_code, response.json()["type"]) == (504, "urn:tandem:deadline-exceeded")
    assert "60 seconds" in response.json()["detail"]


@pytest.mark.parametrize("header", ["0", "-1", "nan", "inf", "soon", "1e999"])
async def test_a_header_that_is_no_time_is_refused_by_name(header: str) -> None:
    async with Backwards().client() as client:
        response = await client.post(
            "/summarize", json={"text": "abc"}, headers={"X-Request-Timeout": header}
        )

    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["field"] == "X-Request-Timeout"


async def test_a_header_beyond_the_operators_maximum_is_refused() -> None:
    async with Backwards(SETTINGS, max_timeout_s=70).client() as client:
        response = await client.post(
            "/summarize", json={"text": "abc"}, headers={"X-Request-Timeout": "71"}
        )

    assert response.status_code == 422
    assert response.json()["field"] == "X-Request-Timeout"
    assert "at most 70 seconds" in response.json()["detail"]


async def test_a_call_that_would_be_waited_for_in_vain_is_refused_at_once() -> None:
    app = Backwards(max_running_requests=1)
    runner = app.runners["short"]
    async with app.client() as client:
        runner.gate.clear()
        calls = [asyncio.create_task(summarize(client, "measured"))]
        await eventually(runner.entered.is_set)
        calls += [
            asyncio.create_task(summarize(client, f"call {number}", parameters=ENDLESS))
            for number in range(9)
        ]
        await eventually(lambda: app.value("tandem_waiting_requests", model="short") == 9)
        runner.gate.set()
        measured = await calls[0]
        refused = await summarize(client, "hasty", timeout_s=1e-6)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    assert measured.status_code == 200
    assert refused.status_code == 503
    assert refused.json()["type"] == "urn:tandem:deadline-unreachable"
    assert int(refused.headers["retry-after"]) >= 1


# Turns --------------------------------------------------------------------------------------------


async def test_a_single_text_goes_before_what_waits_of_a_list() -> None:
    app = Backwards(max_running_requests=1)
    runner = app.runners["short"]
    async with app.client() as client:
        runner.gate.clear()
        texts = [f"text {number}" for number in range(1000)]
        whole = asyncio.create_task(summarize(client, texts))
        await eventually(lambda: app.value("tandem_waiting_requests", model="short") == 8)
        single = asyncio.create_task(summarize(client, "single"))
        await eventually(lambda: app.value("tandem_waiting_requests", model="short") == 9)
        runner.gate.set()
        await asyncio.gather(whole, single)

    order = ["".join(map(chr, request.source_ids)) for (request,) in runner.admissions]
    assert order.index("single") <= 2


@pytest.mark.parametrize("priority", ["urgent", 1, ""])
async def test_an_unknown_priority_is_refused(priority: object) -> None:
    async with Backwards().client() as client:
        response = await summarize(client, "abc", priority=priority)

    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "priority"


@pytest.mark.parametrize("priority", ["interactive", "bulk", None])
async def test_any_priority_is_answered(priority: str | None) -> None:
    async with Backwards().client() as client:
        response = await summarize(client, "abc", priority=priority)

    assert response.json()["summaries"][0]["text"] == "cba"


# Quotas -------------------------------------------------------------------------------------------


async def test_a_client_beyond_its_quota_is_answered_with_429_and_when_to_come_back() -> None:
    app = Backwards(quota_texts_per_minute=3)
    async with app.client() as client:
        first = await summarize(client, ["a", "b"])
        too_many = await summarize(client, ["c", "d"])
        last = await summarize(client, "e")

    assert [first.status_code, too_many.status_code, last.status_code] == [200, 429, 200]
    assert too_many.json()["type"] == "urn:tandem:quota-exceeded"
    assert 1 <= int(too_many.headers["retry-after"]) <= 20
    labels = {"model": "short", "task": "summarize", "outcome": "refused"}
    assert app.value("tandem_requests_total", **labels) == 2


def test_a_quota_fills_up_again_with_time() -> None:
    clock = Clock()
    quota = Quota(60, clock)
    quota.take("a", 60)
    with pytest.raises(QuotaExceededError) as refused:
        quota.take("a", 10)
    assert refused.value.retry_after_s == pytest.approx(10.0)
    quota.take("b", 10)
    clock.now += 10.0
    quota.take("a", 10)
    with pytest.raises(QuotaExceededError):
        quota.take("a", 1)


def test_a_list_longer_than_the_quota_is_taken_once_and_paid_for_afterwards() -> None:
    clock = Clock()
    quota = Quota(60, clock)
    quota.take("a", 180)
    clock.now += 119.0
    with pytest.raises(QuotaExceededError) as refused:
        quota.take("a", 1)
    assert refused.value.retry_after_s == pytest.approx(2.0)
    clock.now += 2.0
    quota.take("a", 1)


def test_clients_that_owe_nothing_are_forgotten() -> None:
    clock = Clock()
    quota = Quota(60, clock)
    for number in range(1000):
        quota.take(f"client {number}", 1)
        clock.now += 1.0
    assert len(quota._buckets) < 130


def test_without_a_quota_nothing_is_counted() -> None:
    quota = Quota(0)
    quota.take("a", 10**9)
    assert not quota._buckets
