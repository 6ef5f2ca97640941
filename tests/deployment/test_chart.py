"""The chart's settings are the service's, and what is made from the service is up to date."""

import json
import re
from typing import Any

import pytest
import yaml

from app.planning.plan import Workload, make_plan, slot_cost_of
from app.settings import SHIPPED, Settings, variable
from deployment.chart import CHART, OWN_VALUES, offered_settings, values_schema
from deployment.generate import stale
from deployment.pod_security import beyond_the_profile, violations
from model_core.checkpoint import CheckpointOptions
from model_core.shape import read_shape

TEMPLATES = "\n".join(path.read_text() for path in sorted(CHART.glob("templates/**/*.*")))
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())


def test_what_is_made_from_the_service_is_up_to_date() -> None:
    assert not stale(), "make deploy-files writes them"


def test_the_chart_takes_exactly_the_settings_of_the_service() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]

    assert schema["additionalProperties"] is False
    assert schema["properties"].keys() | OWN_VALUES.keys() >= Settings.model_fields.keys()
    assert schema["properties"].keys() <= Settings.model_fields.keys()
    assert not schema["properties"].keys() & OWN_VALUES.keys()


def test_settings_that_the_chart_decides_are_in_its_templates() -> None:
    for field in OWN_VALUES.keys() & Settings.model_fields.keys() - {"api_keys"}:
        assert f"{variable(field)}:" in TEMPLATES


def test_bounds_of_settings_are_those_of_the_service() -> None:
    settings = values_schema()["properties"]["settings"]["properties"]

    assert settings["max_num_beams"]["minimum"] == 1
    assert settings["default_timeout_s"] | {"description": ""} == {
        "type": "number",
        "exclusiveMinimum": 0,
        "description": "",
    }
    assert settings["translate_model"]["type"] == settings["parameter_bounds"]["type"] == "string"
    assert "bfloat16" in settings["dtype"]["enum"]
    assert settings["allow_pickle"]["type"] == "boolean"
    assert settings["workers"]["anyOf"] == [
        {"type": "integer", "minimum": 0},
        {"type": "string", "const": "auto"},
    ]


def test_every_value_is_described_and_every_description_is_of_a_value() -> None:
    def described(schema: dict[str, Any]) -> Any:
        if "properties" not in schema or schema.get("description"):
            return None
        return {name: described(each) for name, each in schema["properties"].items()}

    def named(values: Any, schema: Any) -> Any:
        if not isinstance(values, dict) or schema is None:
            return None
        return {name: named(each, schema[name]) for name, each in values.items()}

    schema = described(values_schema())
    schema.pop("global")
    assert named(VALUES, schema) == schema


def test_the_page_of_the_chart_has_every_value_and_setting() -> None:
    names = set(re.findall(r"^\| `([\w.]+)` \|", (CHART / "README.md").read_text(), re.MULTILINE))

    assert {f"settings.{field}" for field in offered_settings()} <= names
    assert {"replicaCount", "image.digest", "networkPolicy.fromNamespaces"} <= names


def test_the_chart_has_the_version_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (CHART.parents[1] / "pyproject.toml").read_text()

    assert f'version = "{chart["appVersion"]}"' in project


def test_a_pod_has_the_memory_for_its_caches() -> None:
    """As `tandem plan` says, of what the other checkpoint leaves in two workers."""
    memory = int(VALUES["resources"]["limits"]["memory"].removesuffix("Gi")) * 1024**3
    max_cache_bytes = VALUES["settings"]["max_cache_bytes"]
    settings = Settings()
    shape, other = (
        read_shape(str(SHIPPED / name), CheckpointOptions(device="cpu"))
        for name in ("translate-en-de", "summarize-en")
    )
    of_other = other.weight_bytes + other.copied_bytes + settings.encoder_cache_bytes
    memory -= 2 * (of_other + 2 * max_cache_bytes)

    usual = Workload.usual(shape, settings)
    plan = make_plan(shape, usual, memory, settings, num_workers=2)

    assert usual.slot_bytes(slot_cost_of(shape)) * 32 < max_cache_bytes <= plan.cache_bytes


def test_service_links_are_off_as_they_would_be_settings() -> None:
    """A Service called tandem gives Pods of its namespace variables like TANDEM_SERVICE_HOST."""
    pods = TEMPLATES.count("automountServiceAccountToken: false\n")
    assert TEMPLATES.count("enableServiceLinks: false") == pods - 1  # the service account itself


def pod(**changes: Any) -> dict[str, Any]:
    container = {
        "name": "a",
        "securityContext": VALUES["securityContext"] | changes.pop("container", {}),
        "resources": VALUES["resources"],
    }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": VALUES["podSecurityContext"] | changes.pop("context", {}),
        "containers": [container],
        "volumes": [],
        **changes,
    }


def test_the_defaults_keep_to_the_restricted_profile() -> None:
    assert not [*violations(pod()), *beyond_the_profile(pod())]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"hostNetwork": True}, "hostNetwork is true"),
        ({"volumes": [{"name": "a", "hostPath": {}}]}, "volume a is of the kind hostPath"),
        ({"context": {"runAsNonRoot": False}}, "runAsNonRoot is not true"),
        ({"context": {"runAsUser": 0}}, "runAsUser is 0"),
        ({"context": {"seccompProfile": {"type": "Unconfined"}}}, "seccompProfile is not"),
        ({"container": {"privileged": True}}, "privileged"),
        ({"container": {"allowPrivilegeEscalation": True}}, "allowPrivilegeEscalation"),
        ({"container": {"capabilities": {}}}, "capabilities are not dropped"),
        ({"container": {"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}}, "SYS_ADMIN"),
        ({"container": {"readOnlyRootFilesystem": False}}, "its root can be written to"),
        ({"automountServiceAccountToken": True}, "token"),
        ({"enableServiceLinks": True}, "service links"),
    ],
)
def test_what_the_profile_forbids_is_found(changes: dict[str, Any], found: str) -> None:
    wrong = pod(**changes)
    assert any(found in each for each in (*violations(wrong), *beyond_the_profile(wrong)))
