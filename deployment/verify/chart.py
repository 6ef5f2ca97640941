"""The chart: rendered for every set-up, and held against schemas, policies and the service."""

import os
import re
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import yaml

from app.settings import PREFIX, Settings
from deployment.chart import CHART
from deployment.pod_security import Object, beyond_the_profile, pod_specs, violations
from deployment.verify.report import Report, expect, output_of, run

VERSIONS = ("1.28", "1.31", "1.35")
SET_UPS = sorted((CHART / "ci").glob("*-values.yaml"))
_CUSTOM = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "ScaledObject", "HTTPRoute"}

_REFUSED = {
    "replicas=3": "Additional property replicas is not allowed",
    "settings.max_beams=4": "Additional property max_beams is not allowed",
    "settings.max_num_beams=0": "settings.max_num_beams: Must be greater than or equal to 1",
    "settings.port=9000": "Additional property port is not allowed",
    "settings.device=tpu": "settings.device: Does not match pattern",
    "autoscaling.kind=both": "autoscaling.kind must be one of the following",
    "autoscaling.kind=keda": "autoscaling.prometheusAddress: Does not match pattern",
    "ingress.enabled=true": "ingress.host: String length must be greater than or equal to 1",
    "httpRoute.enabled=true": "httpRoute.parentRefs: Array must have at least 1 items",
    "image.digest=latest": "image.digest: Does not match pattern",
    "extraEnv[0].name=TANDEM_PORT": "extraEnv.0.name: Must not validate the schema",
    "gpu.count=2": "gpu.count: Must be less than or equal to 1",
    "modelCache.enabled=true,modelCache.existingClaim=a": (
        "modelCache.enabled does not match: false"
    ),
    "modelCache.enabled=true,modelCache.accessModes[0]=ReadWriteOnce": (
        "replicaCount: Must be less than or equal to 1"
    ),
    "apiKeys.existingSecret=keys,metrics.monitor=podMonitor": (
        "metrics.port: Must be greater than or equal to 1"
    ),
    "settings.translate_model=owner/name": "owner/name is on the Hub: expected fetch.enabled",
    "fetch.enabled=true,settings.translate_model=owner/name@main": (
        "fetch.enabled wants the commit of every Hub id, as owner/name@<40 hex digits>"
    ),
    "checkpointSettings=a,settings.checkpoints_file=b": "expected one of them",
}
"""Values, as `--set` takes them, and what is said of them."""


def check_chart(report: Report) -> None:
    """All checks that need helm."""
    report.check("chart: helm lint --strict", _lint)
    for values in SET_UPS:
        name = values.name.removesuffix("-values.yaml")
        report.check(f"chart: {name}", partial(_check_set_up, values))
    report.check("chart: wrong and contradictory values are refused", _check_refused)
    report.check("chart: its NOTES name a call that works", _check_notes)
    report.check("chart: as many replicas as there were during an update", _check_update)
    if shutil.which("kubernetes-validate"):
        for version in VERSIONS:
            report.check(
                f"chart: every object against the schemas of Kubernetes {version}",
                partial(_check_schemas, version),
            )
    else:
        report.skip("chart: API schemas", "there is no kubernetes-validate on PATH")
    if shutil.which("kubectl") and run(["kubectl", "version"]).returncode == 0:
        report.check("chart: an API server takes it", _check_server)
    else:
        report.skip("chart: helm install --dry-run=server, KEDA, helm test", "there is no cluster")


def render(values: Path | None = None, version: str = VERSIONS[-1], *more: str) -> list[Object]:
    """The objects of a release."""
    given = ["--values", str(values)] if values else []
    command = ["helm", "template", "release", str(CHART), "--namespace", "space", *given, *more]
    rendered = output_of([*command, "--kube-version", f"{version}.0"])
    return [each for each in yaml.safe_load_all(rendered) if each]


def _lint() -> None:
    for values in SET_UPS:
        output_of(["helm", "lint", "--strict", str(CHART), "--values", str(values)])


def _check_set_up(values: Path) -> str:
    objects = render(values)
    for name, pod in pod_specs(objects):
        found = [*violations(pod), *beyond_the_profile(pod)]
        expect(not found, f"{name}: {'; '.join(found)}")
    _expect_settings(objects)
    _expect_grace(objects)
    _expect_egress(objects, yaml.safe_load(values.read_text(encoding="utf-8")) or {})
    return ", ".join(str(each["kind"]) for each in objects)


def _of_kind(objects: list[Object], kind: str) -> Object:
    return next(each for each in objects if each["kind"] == kind)


def server_variables(objects: list[Object]) -> dict[str, str]:
    """Variables of the server's ConfigMap."""
    data: dict[str, str] = _of_kind(objects, "ConfigMap")["data"]
    return data


def _expect_settings(objects: list[Object]) -> None:
    """The service takes every variable as the chart writes it."""
    variables = server_variables(objects)
    with patch.dict(os.environ, variables, clear=True):
        settings = Settings.from_environment()
    for name, value in variables.items():
        field = name.removeprefix(PREFIX).lower()
        if name.startswith(PREFIX) and isinstance(taken := getattr(settings, field), int | float):
            expect(str(taken).lower() == value.lower() or float(taken) == float(value), name)


def _expect_grace(objects: list[Object]) -> None:
    """A Pod may take longer to end than everything that its end is made of."""
    pod = _of_kind(objects, "Deployment")["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    waits = int(server["lifecycle"]["preStop"]["exec"]["command"][1])
    with patch.dict(os.environ, server_variables(objects), clear=True):
        settings = Settings.from_environment()
    ends = waits + settings.drain_s + getattr(settings, "lame_duck_s", 0)
    grace = pod["terminationGracePeriodSeconds"]
    expect(grace > ends + 5, f"{grace} s to end: it may take {ends} s and the last answers")


def _expect_egress(objects: list[Object], values: Mapping[str, Any]) -> None:
    """Nothing goes out but DNS, unless something is fetched from the Hub."""
    rules = _of_kind(objects, "NetworkPolicy")["spec"]["egress"]
    ports = {port["port"] for rule in rules for port in rule["ports"]}
    fetches = values.get("fetch", {}).get("enabled") or values.get("hub", {}).get("online")
    expect(ports == ({53, 443} if fetches else {53}), f"egress to {ports}")


def _check_refused() -> str:
    for given, message in _REFUSED.items():
        done = run(["helm", "template", "release", str(CHART), "--set", given])
        said = done.stdout + done.stderr
        expect(done.returncode and message in said, f"--set {given}: expected {message!r}:\n{said}")
    return f"{len(_REFUSED)} ways"


def _check_notes() -> str:
    # helm renders NOTES.txt only where there is a cluster: here as a template among the others.
    with TemporaryDirectory() as scratch:
        chart = Path(scratch) / "tandem"
        shutil.copytree(CHART, chart)
        notes = chart / "templates" / "NOTES.txt"
        text = notes.read_text(encoding="utf-8")
        body = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata:\n  text: "
        (chart / "templates" / "notes.yaml").write_text(
            f'{{{{- define "notes" }}}}{text}{{{{ end }}}}{body}{{{{ include "notes" . | quote }}}}'
        )
        command = ["helm", "template", "release", str(chart), "--show-only", "templates/notes.yaml"]
        said: str = yaml.safe_load(output_of(command))["data"]["text"]
    body_of_call = re.search(r"-d '(.*)'", said)
    expect(body_of_call and "port-forward service/release-tandem" in said, said)
    return said.splitlines()[3].strip()


def _check_update() -> None:
    deployment = _of_kind(render(), "Deployment")["spec"]
    update = deployment["strategy"]["rollingUpdate"]
    expect(update == {"maxUnavailable": 0, "maxSurge": 1}, str(update))
    scaled = render(CHART / "ci" / "hpa-values.yaml")
    expect("replicas" not in _of_kind(scaled, "Deployment")["spec"], "replicas would be reset")


def _check_schemas(version: str) -> str:
    num_objects = 0
    for values in SET_UPS:
        objects = render(values, version)
        known = [each for each in objects if each["kind"] not in _CUSTOM]
        with TemporaryDirectory() as scratch:
            file = Path(scratch) / "objects.yaml"
            file.write_text(yaml.safe_dump_all(known), encoding="utf-8")
            done = run(["kubernetes-validate", "-k", version, "--strict", str(file)])
        said = done.stdout + done.stderr
        expect(done.returncode == 0 and not re.search("^(ERROR|WARN)", said, re.MULTILINE), said)
        num_objects += said.count(" passed for resource ")
    expect(num_objects, "nothing was rendered")
    return f"{num_objects} objects"


def _check_server() -> str:
    return output_of(
        [
            "helm",
            "install",
            "tandem-verify",
            str(CHART),
            "--dry-run=server",
            "--namespace",
            "default",
        ]
    ).splitlines()[0]
