"""What of the chart is made from the service: schema and defaults of its settings, the README."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from app.settings import Settings, default_text, variable

CHART = Path(__file__).parents[1] / "helm" / "tandem"
_VALUES_SCHEMA = Path(__file__).parent / "values.schema.yaml"

OWN_VALUES = {
    "host": "the Pod's",
    "port": "`service.port` leads to it",
    "metrics_port": "`metrics.port`",
    "api_keys": "`apiKeys`",
    "api_keys_file": "`apiKeys`",
}
"""Settings that the chart decides, or takes from values of their own."""

_KEPT = (
    "type",
    "enum",
    "const",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
)
_SCALARS = ("string", "integer", "number", "boolean")


def offered_settings() -> list[str]:
    """Settings that the chart's `settings` take."""
    return [field for field in Settings.model_fields if field not in OWN_VALUES]


def values_schema() -> dict[str, Any]:
    """The schema of the chart's values."""
    schema: dict[str, Any] = yaml.safe_load(_VALUES_SCHEMA.read_text(encoding="utf-8"))
    of_service = Settings.model_json_schema()["properties"]
    schema["properties"]["settings"] |= {
        "type": "object",
        "additionalProperties": False,
        "properties": {field: _setting_schema(of_service[field]) for field in offered_settings()},
    }
    return schema


def _setting_schema(of_service: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers and flags as they are; what the service reads from a text is a text."""
    either = [
        {name: each[name] for name in _KEPT if name in each}
        for each in of_service.get("anyOf", [of_service])
    ]
    if any(each.get("type") not in _SCALARS for each in either):
        either = [{"type": "string"}]
    schema = either[0] if len(either) == 1 else {"anyOf": either}
    return {**schema, "description": of_service["description"]}


def setting_defaults() -> dict[str, Any]:
    """The service's defaults, for what the chart computes from settings."""
    numbers = (int, float)
    return {
        field: default
        if isinstance(default := Settings.model_fields[field].default, numbers)
        else default_text(field)
        for field in offered_settings()
    }


def readme() -> str:
    """The page that describes every value."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    schema = values_schema()
    return "\n".join([_HEAD, *_value_rows(schema, values), _SETTINGS, *_setting_rows(), ""])


def _value_rows(schema: Mapping[str, Any], values: Any, path: str = "") -> Iterator[str]:
    for name, each in schema["properties"].items():
        if "properties" in each and name != "settings":
            yield from _value_rows(each, values[name], f"{path}{name}.")
        elif name in values:
            default = yaml.safe_dump(values[name], default_flow_style=True, width=1000)
            default = default.removesuffix("\n").removesuffix("\n...")
            yield f"| `{path}{name}` | `{default}` | {_cell(each['description'])} |"


def _setting_rows() -> Iterator[str]:
    for field in offered_settings():
        text = _cell(Settings.model_fields[field].description or "")
        yield f"| `settings.{field}` | `{default_text(field)}` | {text} |"
    for field, reason in OWN_VALUES.items():
        if field in Settings.model_fields:
            yield f"| (`{variable(field)}`) | | Not among the settings: {reason}. |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


_HEAD = """\
# The chart `tandem`

A Deployment of Tandem with everything around it. [docs/deployment.md](../../docs/deployment.md) \
shows how to use it; `ci/` has values for common set-ups. This page is made by `make deploy-files`.

Values that are not in these tables, or that contradict each other, are refused.

| value | default | meaning |
| --- | --- | --- |"""

_SETTINGS = """
## Settings

What is left out has the service's own default. `settings.max_num_beams: 4` becomes \
`TANDEM_MAX_NUM_BEAMS=4`.

| value | default of the service | meaning |
| --- | --- | --- |"""
