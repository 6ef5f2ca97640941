"""Who may call, and under which name."""

import hmac
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
from asgi_lifespan import LifespanManager
from pydantic import SecretStr
from starlette.datastructures import Headers

from app.api_keys import ApiKeys, ApiKeysError
from app.caller import CallerDep
from app.settings import Settings
from tests.app.connection import Connection
from tests.app.fakes import SETTINGS, Backwards

ADA, BOB = "ada-0123456789abcdef", "bob-0123456789abcdef"
KEYS = f"ada:{ADA},bob:{BOB}"
TEXT = {"text": "abc"}


def with_keys(**settings: object) -> Settings:
    return SETTINGS.model_copy(update={"api_keys": SecretStr(KEYS), **settings})


def name_of(keys: ApiKeys, **headers: str) -> str | None:
    return keys.name_of(Headers({name.replace("_", "-"): value for name, value in headers.items()}))


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"authorization": f"Bearer {ADA}"}, "ada"),
        ({"authorization": f"bearer  {BOB} "}, "bob"),
        ({"x_api_key": BOB}, "bob"),
        ({"authorization": f"Bearer {ADA}", "x_api_key": ADA}, "ada"),
        ({"authorization": f"Bearer {ADA}", "x_api_key": BOB}, None),
        ({"authorization": f"Basic {ADA}"}, None),
        ({"authorization": ADA}, None),
        ({"authorization": "Bearer "}, None),
        ({"x_api_key": ADA[:-1]}, None),
        ({"x_api_key": ADA + "\xff"}, None),
        ({"x_api_key": "ada"}, None),
        ({}, None),
    ],
)
def test_a_key_gives_its_name(headers: dict[str, str], name: str | None) -> None:
    assert name_of(ApiKeys(SecretStr(KEYS)), **headers) == name


def test_without_keys_everybody_is_anonymous() -> None:
    assert name_of(ApiKeys(), x_api_key="whatever") == "anonymous"


@pytest.mark.parametrize("presented", [ADA, BOB, "neither-0123456789"])
def test_every_key_is_compared_in_constant_time_wherever_the_right_one_is(
    presented: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(first: bytes, second: bytes) -> bool:
        compared.append((first, second))
        return first == second

    keys = ApiKeys(SecretStr(KEYS))
    monkeypatch.setattr(hmac, "compare_digest", compare)
    name_of(keys, x_api_key=presented)

    assert len(compared) == 2
    assert {len(each) for pair in compared for each in pair} == {32}


def test_a_file_has_a_key_a_line_and_one_name_may_have_two(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# whose\n\nada:{ADA}\nada:{ADA}-new\n")
    keys = ApiKeys(SecretStr(f"bob:{BOB}"), str(file))

    names = [name_of(keys, x_api_key=key) for key in (ADA, f"{ADA}-new", BOB)]

    assert names == ["ada", "ada", "bob"]


def test_reloading_reads_the_file_again(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"ada:{ADA}")
    keys = ApiKeys(file=str(file))
    file.write_text(f"bob:{BOB}")
    keys.reload()

    assert (name_of(keys, x_api_key=ADA), name_of(keys, x_api_key=BOB)) == (None, "bob")


@pytest.mark.parametrize("content", ["", "ada", f"{ADA}", "ada:short", None, b"\xff"])
def test_a_file_that_cannot_be_read_again_leaves_the_keys_as_they_were(
    content: str | bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"ada:{ADA}")
    keys = ApiKeys(file=str(file))
    file.unlink() if content is None else file.write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    keys.reload()

    assert name_of(keys, x_api_key=ADA) == "ada"
    assert "stay as they were" in caplog.text
    assert ADA not in caplog.text


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        ("", "expected at least one NAME:KEY"),
        ("# ada:0123456789abcdef", "expected at least one NAME:KEY"),
        ("ada", "TANDEM_API_KEYS: entry 1: expected NAME:KEY"),
        (f"bob:{BOB},ada:tooshort", "TANDEM_API_KEYS: entry 2: expected NAME:KEY"),
        (f"a b:{ADA}", "entry 1: expected NAME:KEY"),
        (f"ada:{ADA} x", "entry 1: expected NAME:KEY"),
        (f"anonymous:{ADA}", "expected another name"),
        (f"ada:{ADA},bob:{ADA}", "entry 2: expected a key of its own"),
    ],
)
def test_keys_that_are_wrong_are_refused_without_being_shown(secret: str, message: str) -> None:
    with pytest.raises(ApiKeysError, match=re.escape(message)) as caught:
        ApiKeys(SecretStr(secret))

    assert ADA not in str(caught.value)
    assert "tooshort" not in str(caught.value)


async def test_only_health_and_ready_need_no_key() -> None:
    async with Backwards(with_keys()).client() as client:
        page = (await client.get("/openapi.json", headers={"X-API-Key": ADA})).json()
        answers = {
            path: await client.request("POST" if "post" in page["paths"][path] else "GET", path)
            for path in page["paths"]
        }
        pages = [await client.get(path) for path in ("/docs", "/openapi.json", "/nowhere")]

    is_open = {path for path, answer in answers.items() if answer.status_code == 200}
    assert is_open == {"/health", "/ready"}
    refused = [*pages, *(answers[path] for path in answers.keys() - is_open)]
    assert {answer.status_code for answer in refused} == {401}
    assert {answer.headers["www-authenticate"] for answer in refused} == {"Bearer"}
    assert {answer.json()["type"] for answer in refused} == {"urn:tandem:unauthorized"}


@pytest.mark.parametrize("headers", [{"Authorization": f"Bearer {ADA}"}, {"X-API-Key": ADA}])
async def test_a_key_opens_every_route_and_its_name_is_counted(headers: dict[str, str]) -> None:
    app = Backwards(with_keys())
    async with app.client() as client:
        for path in ("/info", "/metrics", "/languages"):
            assert (await client.get(path, headers=headers)).status_code == 200
        answer = await client.post("/summarize", json=TEXT, headers=headers)
        await client.post("/summarize", json=TEXT, headers={"X-API-Key": "wrong"})

    assert answer.status_code == 200
    labels = {"client": "ada", "path": "/summarize", "status": "200"}
    assert app.value("tandem_calls_total", **labels) == 1
    # A call that is refused at the door has no route yet.
    labels = {"client": "unknown", "path": "none", "status": "401"}
    assert app.value("tandem_calls_total", **labels) == 1


async def test_a_caller_without_a_key_cannot_make_the_server_read_its_body() -> None:
    app = Backwards(with_keys())
    call = Connection("/summarize", TEXT)

    async def receive() -> MutableMapping[str, Any]:
        raise AssertionError("the body was read")

    async with LifespanManager(app.app) as manager:
        await manager.app(call.scope, receive, call.send)

    assert call.sent[0]["status"] == 401


async def test_metrics_are_no_route_where_they_have_a_port_of_their_own() -> None:
    async with Backwards(with_keys(metrics_port=1)).client() as client:
        answer = await client.get("/metrics", headers={"X-API-Key": ADA})

    assert answer.status_code == 404


def test_settings_never_show_the_keys() -> None:
    settings = Settings(api_keys=KEYS)

    assert ADA not in repr(settings)
    assert ADA not in settings.model_dump_json()
    assert Settings(api_keys="none").api_keys is None


def test_the_page_names_the_key_where_one_is_needed() -> None:
    open_page = Backwards().app.openapi()
    page = Backwards(with_keys()).app.openapi()

    assert "securitySchemes" not in open_page["components"]
    assert page["components"]["securitySchemes"].keys() == {"bearer", "header"}
    for path, operations in page["paths"].items():
        for operation in operations.values():
            needs_key = path not in ("/health", "/ready")
            assert ("security" in operation) is needs_key
            assert ("401" in operation["responses"]) is needs_key


async def client_counted(settings: Settings) -> str:
    """Whom turns and quotas are counted for in a call with Bob's key."""
    app = Backwards(settings)

    @app.app.get("/who")
    def who(caller: CallerDep) -> str:
        return caller.client

    async with app.client() as client:
        return str((await client.get("/who", headers={"X-API-Key": BOB})).json())


async def test_turns_and_quotas_go_by_the_name_of_the_key() -> None:
    assert await client_counted(with_keys()) == "key bob"


async def test_a_key_that_nobody_checks_gives_no_name() -> None:
    assert (await client_counted(SETTINGS)).startswith("client ")


async def test_each_key_has_a_quota_of_its_own() -> None:
    statuses = []
    async with Backwards(with_keys(quota_texts_per_minute=1)).client() as client:
        for key in (ADA, ADA, BOB):
            answer = await client.post("/summarize", json=TEXT, headers={"X-API-Key": key})
            statuses.append(answer.status_code)

    assert statuses == [200, 429, 200]
