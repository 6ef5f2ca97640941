"""The chart: rendered for every set-up, and held against schemas, policies and the service."""

import json
import os
import re
import shlex
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
    "replicas=3": "replicas",
    "settings.max_beams=4": "max_beams",
    "settings.max_num_beams=0": "settings.max_num_beams",
    "settings.port=9000": "port",
    "settings.device=tpu": "settings.device",
    "settings.device=cuda": "settings.device",
    "gpu.enabled=true,settings.device=cpu": "settings.device",
    "settings.otlp_traces=true": "networkPolicy.extraEgress",
    "autoscaling.kind=both": "autoscaling.kind",
    "autoscaling.kind=keda": "autoscaling.prometheusAddress",
    "autoscaling.kind=keda,autoscaling.prometheusAddress=http://a": "metrics.monitor",
    "autoscaling.kind=hpa,autoscaling.minReplicas=9": (
        "autoscaling.minReplicas is 9: expected at most maxReplicas, 8"
    ),
    "metrics.rules=true": "metrics.monitor",
    "metrics.port=80": "metrics.port is 80, as service.port is: expected another one",
    "ingress.enabled=true": "ingress.host",
    "httpRoute.enabled=true": "httpRoute.parentRefs",
    "image.digest=latest": "image.digest",
    "extraEnv[0].name=TANDEM_PORT": "extraEnv.0.name",
    "gpu.count=2": "gpu.count",
    "modelCache.enabled=true,modelCache.existingClaim=a": "modelCache.enabled",
    "modelCache.enabled=true,modelCache.accessModes[0]=ReadWriteOnce": "replicaCount",
    "modelCache.accessModes[0]=ReadWriteOncePod": "modelCache.accessModes.0",
    "apiKeys.existingSecret=keys,metrics.monitor=podMonitor": "metrics.port",
    "settings.translate_model=owner/name": "owner/name is on the Hub: expected fetch.enabled",
    "fetch.enabled=true": "fetch.enabled: no setting names a checkpoint of the Hub",
    "fetch.enabled=true,settings.translate_model=owner/name@main": (
        "fetch.enabled wants the commit of every Hub id, as owner/name@<40 hex digits>"
    ),
    "checkpointSettings=a,settings.checkpoints_file=b": "expected one of them",
    "settings.translate_model=none": "test.path is /translate, which settings.translate_model",
}
"""Values, as `--set` takes them, and what is named when they are refused: the rest of what is said,
and what stands between the names of a path, differs from helm to helm."""


def check_chart(report: Report) -> None:
    """All checks that need helm."""
    report.check("chart: helm lint --strict", _lint)
    for values in SET_UPS:
        name = values.name.removesuffix("-values.yaml")
        report.check(f"chart: {name}", partial(_check_set_up, values))
    report.check("chart: wrong and contradictory values are refused", _check_refused)
    report.check("chart: its NOTES name a call that works", _check_notes)
    report.check("chart: a cache outlives its release", _check_kept)
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
    kinds = [str(each["kind"]) for each in objects]
    expect(not {"HorizontalPodAutoscaler", "ScaledObject"} <= set(kinds), "two would scale it")
    _expect_settings(objects)
    _expect_grace(objects)
    _expect_egress(objects, yaml.safe_load(values.read_text(encoding="utf-8")) or {})
    return ", ".join(kinds)


def of_kind(objects: list[Object], kind: str) -> Object:
    """The object of a kind."""
    return next(each for each in objects if each["kind"] == kind)


def server_variables(objects: list[Object]) -> dict[str, str]:
    """Variables of the server's ConfigMap."""
    data: dict[str, str] = of_kind(objects, "ConfigMap")["data"]
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
    pod = of_kind(objects, "Deployment")["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    waits = int(server["lifecycle"]["preStop"]["exec"]["command"][1])
    with patch.dict(os.environ, server_variables(objects), clear=True):
        settings = Settings.from_environment()
    ends = waits + settings.drain_s + getattr(settings, "lame_duck_s", 0)
    grace = pod["terminationGracePeriodSeconds"]
    expect(grace > ends + 5, f"{grace} s to end: it may take {ends} s and the last answers")


def _expect_egress(objects: list[Object], values: Mapping[str, Any]) -> None:
    """Nothing goes out but DNS, to the Hub if something is fetched, and what the values name."""
    rules = of_kind(objects, "NetworkPolicy")["spec"]["egress"]
    fetches = values.get("fetch", {}).get("enabled") or values.get("hub", {}).get("online")
    named = values.get("networkPolicy", {}).get("extraEgress", [])
    expect([rule for rule in rules if rule in named] == named, f"egress by {rules}")
    ports = {port["port"] for rule in rules if rule not in named for port in rule["ports"]}
    expect(ports == ({53, 443} if fetches else {53}), f"egress to {ports}")


def _check_refused() -> str:
    for given, named in _REFUSED.items():
        done = run(["helm", "template", "release", str(CHART), "--set", given])
        said = done.stdout + done.stderr
        expect(done.returncode and re.search(named, said), f"--set {given}: {named}?\n{said}")
    return f"{len(_REFUSED)} ways"


def _check_notes() -> str:
    """The shell reads the call of every set-up as it is meant, and its body is JSON."""
    for values in SET_UPS:
        call = call_of_notes("--values", str(values))
        expect(call[:2] == ["curl", "-s"], f"{values.name}: {call}")
        expect(json.loads(call[-1])["text"], f"{values.name}: {call}")
    quoted = call_of_notes("--set-json", 'test.body="{\\"text\\": \\"It\'s cold.\\"}"')
    expect(json.loads(quoted[-1]) == {"text": "It's cold."}, str(quoted))
    return " ".join(call_of_notes()[:3])


def call_of_notes(*options: str) -> list[str]:
    """Words of the call that NOTES.txt shows for a release; its last one is the body."""
    # helm renders NOTES.txt only where there is a cluster: here as a template among the others.
    with TemporaryDirectory() as scratch:
        chart = Path(scratch) / "tandem"
        shutil.copytree(CHART, chart)
        text = (chart / "templates" / "NOTES.txt").read_text(encoding="utf-8")
        body = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\ndata:\n  text: "
        (chart / "templates" / "notes.yaml").write_text(
            f'{{{{- define "notes" }}}}{text}{{{{ end }}}}{body}{{{{ include "notes" . | quote }}}}'
        )
        only = ("--show-only", "templates/notes.yaml")
        rendered = output_of(["helm", "template", "release", str(chart), *only, *options])
    said: str = yaml.safe_load(rendered)["data"]["text"]
    call = re.search(r"^ *(curl (?:.*\\\n)*.*)$", said, re.MULTILINE)
    return shlex.split(call[1].replace("\\\n", "")) if call else []


def _check_update() -> None:
    deployment = of_kind(render(), "Deployment")["spec"]
    update = deployment["strategy"]["rollingUpdate"]
    expect(update == {"maxUnavailable": 0, "maxSurge": 1}, str(update))
    scaled = render(CHART / "ci" / "hpa-values.yaml")
    expect("replicas" not in of_kind(scaled, "Deployment")["spec"], "replicas would be reset")


def _check_kept() -> None:
    hub = CHART / "ci" / "hub-values.yaml"
    annotations = of_kind(render(hub), "PersistentVolumeClaim")["metadata"]["annotations"]
    expect(annotations == {"helm.sh/resource-policy": "keep"}, str(annotations))
    given_up = render(hub, VERSIONS[-1], "--set", "modelCache.keep=false")
    claim = of_kind(given_up, "PersistentVolumeClaim")["metadata"]
    expect("annotations" not in claim, str(claim))


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
