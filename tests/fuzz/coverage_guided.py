"""Targets for atheris: `python -m tests.fuzz.coverage_guided TARGET CORPUS -runs=N`.

atheris mutates bytes towards branches of our own code that it has not seen. An input that makes a
target raise what it must not is written to a file, and the process ends with an error.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import atheris

with atheris.instrument_imports(include=["app", "model_core"]):
    from pydantic import SecretStr, ValidationError
    from starlette.datastructures import Headers

    from app.api_keys import ApiKeys, ApiKeysError
    from app.invalid_fields import invalid_fields
    from app.json_body import json_shape
    from app.opening import open_service
    from app.request_context import RequestContext
    from app.schemas import Parameters, TranslateRequest
    from app.settings import Settings
    from app.text_bounds import check_num_chars
    from model_core.errors import InvalidRequestError
    from model_core.generation import GenerationOverrides

if TYPE_CHECKING:
    from model_core.models import ServedModel

Target = Callable[[bytes], None]

_KEYS = ApiKeys(SecretStr("fuzz:fuzz-0123456789abcdef"))
_FIELDS = (*TranslateRequest.model_fields, *Parameters.model_fields)


def body(data: bytes) -> None:
    """Bytes as a body: refused with a list of wrong fields, or a request."""
    json_shape(data)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    _validated(value)


def fields(data: bytes) -> None:
    """A body of known fields with values of all kinds."""
    provider = atheris.FuzzedDataProvider(data)
    value = {_text_of(provider, _FIELDS): _value_of(provider) for _ in range(4)}
    value |= {"text": provider.ConsumeUnicode(20), "parameters": _value_of(provider)}
    value["parameters"] = {_text_of(provider, _FIELDS): _value_of(provider) for _ in range(4)}
    _validated(value)


def headers(data: bytes) -> None:
    """Headers that the gate and the context of a call read."""
    provider = atheris.FuzzedDataProvider(data)
    names = ("authorization", "x-api-key", "x-request-id", "traceparent", "content-length")
    raw = [
        (provider.PickValueInList(list(names)).encode(), provider.ConsumeBytes(60))
        for _ in range(5)
    ]
    given = Headers(raw=raw)
    assert _KEYS.name_of(given) in (None, "fuzz")
    context = RequestContext.of_headers(given)
    assert context.request_id.isascii()
    assert 1 <= len(context.request_id) <= 128
    assert context.trace_id is None or len(context.trace_id) == 32


def keys(data: bytes) -> None:
    """Lists of keys: read, or refused without being shown."""
    text = data.decode("utf-8", "replace")
    try:
        ApiKeys(SecretStr(text))
    except ApiKeysError as error:
        message = str(error)
    else:
        return
    presented = [entry.partition(":")[2].strip() for entry in text.split(",")]
    assert not [key for key in presented if len(key) >= 16 and key in message]


def texts(model: "ServedModel") -> Target:
    """Texts and parameters on their way to the engine of a shipped checkpoint."""

    def prepare(data: bytes) -> None:
        provider = atheris.FuzzedDataProvider(data)
        parameters = {
            _text_of(provider, _FIELDS): _value_of(provider)
            for _ in range(provider.ConsumeIntInRange(0, 3))
        }
        value = {"text": provider.ConsumeUnicode(200), "parameters": parameters}
        request = _validated(value)
        overrides = request.parameters.overrides() if request else GenerationOverrides()
        try:
            prepared = model.text.prepare(
                value["text"], task="translate", overrides=overrides, overflow="truncate"
            )
        except InvalidRequestError:
            return
        assert 0 < len(prepared.source_ids) <= model.text.max_source_len

    return prepare


def _validated(value: Any) -> TranslateRequest | None:
    """A body as the routes read it; the errors of a wrong one can be listed."""
    try:
        request = TranslateRequest.model_validate(value)
    except ValidationError as error:
        located = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        listed = invalid_fields(located, TranslateRequest.model_fields)
        assert listed
        assert all(each["message"] for each in listed)
        return None
    check_num_chars(request, Settings())
    return request


def _text_of(provider: Any, known: tuple[str, ...]) -> str:
    if provider.ConsumeBool():
        return str(provider.PickValueInList(list(known)))
    return str(provider.ConsumeUnicode(8))


def _value_of(provider: Any, depth: int = 0) -> Any:
    kind = provider.ConsumeIntInRange(0, 7 if depth < 3 else 5)
    match kind:
        case 0:
            return provider.ConsumeInt(8)
        case 1:
            return provider.ConsumeFloat()
        case 2:
            return provider.ConsumeUnicode(12)
        case 3:
            return provider.ConsumeBool()
        case 4:
            return None
        case 5:
            return provider.ConsumeIntInRange(0, 300)
        case 6:
            count = provider.ConsumeIntInRange(0, 4)
            return [_value_of(provider, depth + 1) for _ in range(count)]
        case _:
            return {provider.ConsumeUnicode(6): _value_of(provider, depth + 1)}


SEEDS: dict[str, tuple[bytes, ...]] = {
    "body": (
        b'{"text": "tea"}',
        b'{"text": ["tea", "a"], "source_lang": "en", "target_lang": "de", "overflow": "error", '
        b'"timeout_s": 1.5, "target_prefix": "x", "parameters": {"num_beams": 4, "top_p": 0.9, '
        b'"stop_strings": ["a"], "bad_words_ids": [[5, 6]], "sequence_bias": [[[5], -1.5]]}}',
    ),
    "keys": (b"ada:ada-0123456789abcdef,bob:bob-0123456789abcdef",),
}
"""Where mutation begins, for what would not be found by chance."""

PLAIN_TARGETS: dict[str, Target] = {
    "body": body,
    "fields": fields,
    "headers": headers,
    "keys": keys,
}


def main(arguments: list[str]) -> None:
    """Run one target over a folder of inputs; what follows goes to libFuzzer."""
    program, name, corpus, *flags = arguments
    for number, seed in enumerate(SEEDS.get(name, ())):
        Path(corpus, f"seed-{number}").write_bytes(seed)
    if name == "texts":
        service = open_service(Settings(summarize_model="none"))
        target = texts(service.routing.models[0])
    else:
        target = PLAIN_TARGETS[name]
    atheris.Setup([program, corpus, *flags], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
