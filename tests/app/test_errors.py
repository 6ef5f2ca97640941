from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.settings import Settings
from model_core.bounds import BOUNDS
from model_core.generation import NOT_SERVED
from tests.app.fakes import MAX_SOURCE_LEN, POISON, SETTINGS, Backwards

TOO_LONG = "x" * (MAX_SOURCE_LEN + 1)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with Backwards(SETTINGS).client() as client:
        yield client


def problem_of(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == response.status_code
    assert {"type", "title", "detail"} <= problem.keys()
    return problem


async def test_a_text_that_is_too_long_is_refused_with_both_lengths(
    client: httpx.AsyncClient,
) -> None:
    problem = problem_of(await client.post("/summarize", json={"text": TOO_LONG}))

    assert problem["status"] == 422
    assert problem["type"] == "urn:tandem:source-too-long"
    assert problem["source_tokens"] == MAX_SOURCE_LEN + 1
    assert problem["max_source_tokens"] == MAX_SOURCE_LEN


async def test_an_error_in_a_list_names_the_index_of_its_text(client: httpx.AsyncClient) -> None:
    body = {"text": ["short", "short too", TOO_LONG, TOO_LONG]}

    problem = problem_of(await client.post("/summarize", json=body))

    assert problem["type"] == "urn:tandem:source-too-long"
    assert problem["index"] == 2
    assert problem["source_tokens"] == MAX_SOURCE_LEN + 1


async def test_an_unknown_language_is_refused_with_those_that_are_known(
    client: httpx.AsyncClient,
) -> None:
    body = {"text": "tea", "source_lang": "fr", "target_lang": "de"}

    problem = problem_of(await client.post("/translate", json=body))

    assert problem["type"] == "urn:tandem:unknown-language"
    assert (problem["status"], problem["field"]) == (422, "source_lang")
    assert problem["known_languages"] == ["de", "en"]
    message = "is 'fr': expected one of de, en"
    assert problem["errors"] == [{"field": "source_lang", "message": message}]


async def test_an_unknown_pair_of_known_languages_is_refused(client: httpx.AsyncClient) -> None:
    body = {"text": "tea", "source_lang": "en", "target_lang": "en"}

    problem = problem_of(await client.post("/translate", json=body))

    assert (problem["field"], problem["known_languages"]) == ("target_lang", ["de"])


@pytest.mark.parametrize(
    ("languages", "field"),
    [({}, "source_lang"), ({"target_lang": "fr"}, "target_lang")],
)
async def test_a_language_is_not_guessed_where_there_is_a_choice(
    languages: dict[str, str], field: str, client: httpx.AsyncClient
) -> None:
    problem = problem_of(await client.post("/translate", json={"text": "tea", **languages}))

    assert problem["type"] == "urn:tandem:unknown-language"
    assert (problem["field"], problem["known_languages"]) == (field, ["de", "en"])


async def test_a_parameter_that_the_engine_refuses_is_named(client: httpx.AsyncClient) -> None:
    body = {"text": "tea", "parameters": {"num_beams": 13}}

    problem = problem_of(await client.post("/summarize", json=body))

    assert problem["type"] == "urn:tandem:invalid-parameter"
    assert (problem["field"], problem["expected"]) == ("num_beams", "another number")
    message = "is 13: expected another number"
    assert problem["errors"] == [{"field": "parameters.num_beams", "message": message}]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "text"),
        ({"text": ""}, "text"),
        ({"text": []}, "text"),
        ({"text": ["a", ""]}, "text.1"),
        ({"text": 1}, "text"),
        ({"text": "tea", "texts": "tea"}, "texts"),
        ({"text": "tea", "overflow": "cut"}, "overflow"),
        ({"text": "tea", "timeout_s": 0}, "timeout_s"),
        ({"text": "tea", "parameters": {"temperature": 0}}, "parameters.temperature"),
        ({"text": "tea", "parameters": {"stop_strings": [""]}}, "parameters.stop_strings.0"),
        ({"text": "tea", "target_prefix": ""}, "target_prefix"),
        ({"text": "tea", "parameters": {"num_beams": 0}}, "parameters.num_beams"),
        ({"text": "tea", "parameters": {"num_beams": "4"}}, "parameters.num_beams"),
        ({"text": "tea", "parameters": {"num_beams": True}}, "parameters.num_beams"),
        (
            {"text": "tea", "parameters": {"no_repeat_ngram_size": 1001}},
            "parameters.no_repeat_ngram_size",
        ),
        (
            {"text": "tea", "parameters": {"length_penalty": 1.01 * BOUNDS["length_penalty"].most}},
            "parameters.length_penalty",
        ),
        ({"text": "tea", "source_lang": "en"}, "source_lang"),
    ],
)
async def test_a_field_that_is_wrong_is_named(
    body: dict[str, Any], field: str, client: httpx.AsyncClient
) -> None:
    problem = problem_of(await client.post("/summarize", json=body))

    assert (problem["status"], problem["type"]) == (422, "urn:tandem:invalid-request")
    assert field in [each["field"] for each in problem["errors"]]


@pytest.mark.parametrize("name", ["guidance_scale", "assistant_model", "constraints"])
async def test_a_parameter_that_is_not_served_is_refused_by_name(
    name: str, client: httpx.AsyncClient
) -> None:
    problem = problem_of(
        await client.post("/summarize", json={"text": "", "parameters": {name: 1}})
    )

    error = {"field": f"parameters.{name}", "message": f"not served: {NOT_SERVED[name]}"}
    assert error in problem["errors"]


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"timeout_s": 0}, "timeout_s", "is 0: Input should be greater than 0"),
        ({"overflow": "cut"}, "overflow", "is 'cut': Input should be 'error' or 'truncate'"),
        ({"texts": "tea"}, "texts", "no such field: did you mean text?"),
        ({"num_beams": 2}, "num_beams", "no such field: did you mean parameters.num_beams?"),
        ({"zzz": 2}, "zzz", "no such field"),
        ({"parameters": []}, "parameters", "is []: expected a JSON object"),
        ({"parameters": "x"}, "parameters", "is 'x': expected a JSON object"),
    ],
)
async def test_a_field_that_is_wrong_is_shown_with_its_value_and_what_was_expected(
    body: dict[str, Any], field: str, message: str, client: httpx.AsyncClient
) -> None:
    problem = problem_of(await client.post("/summarize", json={"text": "tea", **body}))

    assert problem["errors"] == [{"field": field, "message": message}]


@pytest.mark.parametrize(
    ("parameters", "field", "message"),
    [
        ({"num_beams": -3}, "num_beams", "is -3: Input should be greater than or equal to 1"),
        ({"num_beam": 3}, "num_beam", "no such parameter: did you mean num_beams?"),
        ({"stop_strings": [*"abcdefghi"]}, "stop_strings", "at most 8 items"),
        ({"stop_strings": ""}, "stop_strings", "is '': String should have at least 1 character"),
        ({"eos_token_id": [2] * 65}, "eos_token_id", "List should have at most 64 items"),
        ({"eos_token_id": [2, "a"]}, "eos_token_id.1", "is 'a': Input should be a valid integer"),
        ({"eos_token_id": {}}, "eos_token_id", "a valid integer or a valid list"),
        ({"early_stopping": "maybe"}, "early_stopping", "a valid boolean or 'never'"),
    ],
)
async def test_a_parameter_that_is_wrong_has_one_message(
    parameters: dict[str, Any], field: str, message: str, client: httpx.AsyncClient
) -> None:
    body = {"text": "tea", "parameters": parameters}
    (error,) = problem_of(await client.post("/summarize", json=body))["errors"]

    assert error["field"] == f"parameters.{field}"
    assert message in error["message"]


async def test_parameters_may_be_null(client: httpx.AsyncClient) -> None:
    response = await client.post("/summarize", json={"text": "tea", "parameters": None})

    assert response.status_code == 200


async def test_of_many_wrong_fields_the_first_are_named(client: httpx.AsyncClient) -> None:
    body = {"text": "tea", **{f"field{number}": 1 for number in range(1000)}}

    problem = problem_of(await client.post("/summarize", json=body))

    assert [each["field"] for each in problem["errors"]] == [f"field{n}" for n in range(50)]


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b'{"text": "\xff"}', "the body is not UTF-8: byte 10 does not decode"),
        (b"[" * 100_000, "the body is nested more than 16 deep"),
        (b'{"text": "\\" [[", "x": ' + b"[" * 16, "the body is nested more than 16 deep"),
        (b'{"text": [' + b"[]," * 10_000, "the body has more than 20000 brackets"),
        (b'{"text": ' + b"7" * 5000 + b"}", "the body has a number with too many digits"),
    ],
)
async def test_a_body_that_cannot_be_read_is_explained(
    content: bytes, detail: str, client: httpx.AsyncClient
) -> None:
    headers = {"Content-Type": "application/json"}

    problem = problem_of(await client.post("/summarize", content=content, headers=headers))

    assert (problem["status"], problem["detail"]) == (400, detail)


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b'{"text": "tea",}', {"Content-Type": "application/json"}, "not JSON at character"),
        (b'{"text": "tea"}', {}, "Content-Type: application/json"),
    ],
)
async def test_a_body_that_is_no_json_is_explained(
    body: bytes, headers: dict[str, str], expected: str, client: httpx.AsyncClient
) -> None:
    problem = problem_of(await client.post("/summarize", content=body, headers=headers))

    assert problem["status"] == 422
    assert [each["field"] for each in problem["errors"]] == ["body"]
    assert expected in problem["detail"]


async def test_a_text_never_stands_in_an_error(client: httpx.AsyncClient) -> None:
    bodies: list[dict[str, Any]] = [
        {"text": ["a secret", 7]},
        {"text": {"a": "secret"}},
        {"txt": "a secret"},
        {"parameters": {"x": "a secret"}},
        {"target_prefix": ["a secret"]},
    ]
    for body in bodies:
        response = await client.post("/summarize", json=body)
        assert response.status_code == 422
        assert "secret" not in response.text


@pytest.mark.parametrize(
    "content",
    [
        b'{"text": "tea", "parameters": {"length_penalty": NaN}}',
        b'{"text": "tea", "parameters": {"length_penalty": Infinity}}',
        b'{"text": "\\ud800"}',
        b'{"text": "tea", "\\ud800": 1}',
        b"{",
        b"[]",
        b"",
        b"\xff",
    ],
)
async def test_a_body_that_is_hard_to_read_is_refused(
    content: bytes, client: httpx.AsyncClient
) -> None:
    headers = {"Content-Type": "application/json"}

    problem = problem_of(await client.post("/summarize", content=content, headers=headers))

    assert problem["status"] in (400, 422)


@pytest.mark.parametrize(
    ("body", "type_"),
    [
        ({"text": [1] * 2001}, "invalid-parameter"),
        ({"text": [""] * 2001}, "invalid-parameter"),
        ({"text": "a", **{f"field{number}": 1 for number in range(2001)}}, "invalid-request"),
        (
            {"text": "a", "parameters": {f"field{number}": 1 for number in range(2001)}},
            "invalid-request",
        ),
    ],
    ids=["numbers", "empty", "fields", "parameters"],
)
async def test_a_body_with_more_errors_than_anybody_reads_is_refused_before_they_are_listed(
    body: dict[str, Any], type_: str, client: httpx.AsyncClient
) -> None:
    problem = problem_of(await client.post("/summarize", json=body))

    assert (problem["status"], problem["type"]) == (422, f"urn:tandem:{type_}")
    assert len(problem.get("errors", [])) <= 1


async def test_of_the_wrong_entries_of_a_parameter_the_first_is_named(
    client: httpx.AsyncClient,
) -> None:
    lists = {"bad_words_ids": [[1, "x", "y"], ["z"]], "suppress_tokens": [-1] * 10_000}
    body = {"text": "a", "parameters": lists}
    errors = problem_of(await client.post("/summarize", json=body))["errors"]

    fields = [each["field"] for each in errors]
    assert sorted(fields) == ["parameters.bad_words_ids.0.1", "parameters.suppress_tokens.0"]


async def test_more_texts_than_the_operator_allows_are_refused() -> None:
    settings = Settings(translate_model="none", summarize_model="short", max_texts_per_request=2)
    async with Backwards(settings).client() as client:
        problem = problem_of(await client.post("/summarize", json={"text": ["a", "b", "c"]}))

    assert (problem["field"], problem["expected"]) == ("text", "at most 2")


async def test_a_timeout_beyond_the_operators_is_refused(client: httpx.AsyncClient) -> None:
    problem = problem_of(await client.post("/summarize", json={"text": "a", "timeout_s": 601}))

    assert (problem["field"], problem["expected"]) == ("timeout_s", "at most 600 seconds")


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_that_is_too_large_is_refused(declared: bool) -> None:
    settings = SETTINGS.model_copy(update={"max_body_bytes": 100})
    body = b'{"text": "' + b"x" * 100 + b'"}'

    async def in_pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 10):
            yield body[start : start + 10]

    async with Backwards(settings).client() as client:
        response = await client.post("/summarize", content=body if declared else in_pieces())

    assert ("content-length" in response.request.headers) is declared
    problem = problem_of(response)
    assert (problem["status"], problem["type"]) == (413, "urn:tandem:body-too-large")


async def test_a_request_whose_step_raises_fails_alone_without_internals(
    client: httpx.AsyncClient,
) -> None:
    problem = problem_of(await client.post("/summarize", json={"text": POISON}))

    assert (problem["status"], problem["type"]) == (500, "urn:tandem:request-failed")
    assert problem["request_id"].startswith("req-")
    assert "poison" not in str(problem)
    assert (await client.post("/summarize", json={"text": "abc"})).status_code == 200


async def test_a_fault_of_the_server_is_answered_without_internals(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = await client.post("/summarize", json={"text": "bug"})

    problem = problem_of(response)
    assert (problem["status"], problem["type"]) == (500, "urn:tandem:internal-error")
    assert "secret" not in response.text
    assert problem["error_id"] in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/translate", 405)]
)
async def test_routes_that_are_not_there_are_problems_too(
    method: str, path: str, status: int, client: httpx.AsyncClient
) -> None:
    problem = problem_of(await client.request(method, path))

    assert problem["status"] == status


async def test_an_endpoint_that_is_switched_off_is_not_there() -> None:
    settings = Settings(translate_model="en-de", summarize_model="none")
    async with Backwards(settings).client() as client:
        assert (await client.post("/summarize", json={"text": "a"})).status_code == 404
        assert (await client.post("/translate", json={"text": "a"})).status_code == 200
