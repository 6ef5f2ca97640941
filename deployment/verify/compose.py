"""The Compose file: every profile read, and the servers, proxy and Prometheus brought up."""

import json
import os
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from deployment.panels import PANELS, of_everything
from deployment.verify.containers import START_S, SUMMARIZE, docker, expect_answers, inspect
from deployment.verify.report import ROOT, CheckFailedError, Report, expect, output_of, run

_PROFILES = ("", "gpu", "monitoring", "scale", "*")
_NUM_CLIENTS = 8
_NUM_CALLS = 800
_NUM_SERVERS = 3
_PICTURE_S = 100
# Two processors are shared by all servers of this check, and by whatever else the machine does.
_OVERRIDE = """
services:
  tandem: {environment: {TANDEM_NUM_THREADS: "1"}}
  replica: {environment: {TANDEM_NUM_THREADS: "1"}}
"""


@dataclass(frozen=True, slots=True)
class Project:
    """A set-up of its own, on ports of its own.

    Attributes:
        name: Of the project.
        override: A file over docker-compose.yml.
        environment: With its ports.
    """

    name: str
    override: Path
    environment: dict[str, str]

    def compose(self, *arguments: str) -> str:
        """Output of a command of Compose."""
        return output_of(
            [
                *("docker", "compose", "--project-name", self.name),
                *("--file", str(ROOT / "docker-compose.yml"), "--file", str(self.override)),
                *("--profile", "*", *arguments),
            ],
            environment=self.environment,
        )

    def url(self, port: str) -> str:
        """Where a service can be called."""
        return f"http://127.0.0.1:{self.environment[port]}"

    def containers(self, *services: str) -> list[str]:
        """Ids of the containers of services."""
        return self.compose("ps", "--all", "--quiet", *services).split()


def check_compose(report: Report, picture: Path | None = None) -> None:
    """All checks of the Compose file; draws the dashboard into a file, if one is named."""
    for profile in _PROFILES:
        report.check(f"compose: profile {profile or 'none'}", partial(_read, profile))
    with _project() as project:
        report.check("compose: the GPU service asks for a device", lambda: _check_gpu(project))
        report.check("compose: one command serves both endpoints", lambda: _check_default(project))
        missing = [image for image in _foreign_images(project) if not _can_have(image)]
        if missing:
            report.skip("compose: profiles scale and monitoring", f"no {' and no '.join(missing)}")
        else:
            _check_all(report, project)
            if picture:
                _draw(project, picture)
    report.skip("compose: start of Grafana", "no registry, no package: its queries were checked")


def _draw(project: Project, picture: Path) -> None:
    from deployment.picture import draw

    draw(project.url("PROMETHEUS_PORT"), picture, _PICTURE_S)


def _check_all(report: Report, project: Project) -> None:
    if not report.check("compose: profiles scale and monitoring come up", lambda: _up(project)):
        return
    report.check("compose: a rolling restart under load loses nothing", lambda: _restart(project))
    report.check("compose: promtool accepts configuration and rules", lambda: _promtool(project))
    report.check("compose: the alerts fire when they should", _check_alerts)
    report.check("compose: Prometheus scrapes every server", lambda: _check_targets(project))
    report.check("compose: every query of the dashboard answers", lambda: _check_queries(project))


@contextmanager
def _project() -> Iterator[Project]:
    ports = ("PUBLISH_PORT", "GPU_PORT", "PROXY_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
    with TemporaryDirectory() as scratch:
        override = Path(scratch) / "override.yml"
        override.write_text(_OVERRIDE)
        environment = {**os.environ, **{port: str(_free_port()) for port in ports}}
        project = Project(f"tandem-verify-{os.getpid()}", override, environment)
        try:
            yield project
        finally:
            project.compose("down", "--volumes", "--remove-orphans", "--timeout", "20")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _read(profile: str) -> str:
    given = ["--profile", profile] if profile else []
    command = ["docker", "compose", "--file", str(ROOT / "docker-compose.yml"), *given, "config"]
    services = json.loads(output_of([*command, "--format", "json"]))["services"]
    for name, service in services.items():
        expect(service.get("read_only"), f"{name} can write to its root")
        expect(service.get("cap_drop") == ["ALL"], f"{name} keeps capabilities")
    return ", ".join(services)


def _check_gpu(project: Project) -> str:
    environment = {**project.environment, "CUDA_IMAGE": "tandem:cpu"}
    gpu = Project(project.name, project.override, environment)
    gpu.compose("create", "--no-build", "tandem-gpu")
    (name,) = gpu.containers("tandem-gpu")
    requests = inspect(name, "{{json .HostConfig.DeviceRequests}}")
    expect('"gpu"' in requests and '"nvidia"' in requests, requests)
    gpu.compose("rm", "--force", "tandem-gpu")
    return requests


def _check_default(project: Project) -> str:
    project.compose("up", "--detach", "--wait", "--wait-timeout", str(START_S), "tandem")
    return expect_answers(project.url("PUBLISH_PORT"))


def _foreign_images(project: Project) -> list[str]:
    services = json.loads(project.compose("config", "--format", "json"))["services"]
    return [services[name]["image"] for name in ("proxy", "prometheus")]


def _can_have(image: str) -> bool:
    """Whether an image is here, or comes from its registry, or can be stood in for."""
    if run(["docker", "image", "inspect", image]).returncode == 0:
        return True
    if run(["docker", "pull", "--quiet", image]).returncode == 0:
        return True
    if image.startswith("grafana") or not shutil.which("mmdebstrap") or os.getuid() != 0:
        return False
    output_of([str(ROOT / "deployment" / "verify" / "stand_ins.sh")])
    return run(["docker", "image", "inspect", image]).returncode == 0


def _up(project: Project) -> str:
    services = ("tandem", "replica", "proxy", "prometheus")
    project.compose("up", "--detach", "--wait", "--wait-timeout", str(START_S), *services)
    _wait_for(lambda: _num_up(project) == _NUM_SERVERS, "the proxy to find every server")
    return expect_answers(project.url("PROXY_PORT"))


def _num_up(project: Project) -> int:
    """Servers that Prometheus reaches."""
    return sum(each["health"] == "up" for each in _targets(project))


def _targets(project: Project) -> list[dict[str, Any]]:
    response = httpx.get(f"{project.url('PROMETHEUS_PORT')}/api/v1/targets")
    targets: list[dict[str, Any]] = response.json()["data"]["activeTargets"]
    return targets


def _wait_for(holds: Any, what: str) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            if holds():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise CheckFailedError(f"waited in vain for {what}")


def _restart(project: Project) -> str:
    """Restart one server after the other while clients call through the proxy."""
    is_over = threading.Event()
    outcomes: Counter[str] = Counter()
    with ThreadPoolExecutor(_NUM_CLIENTS) as threads:
        clients = [
            threads.submit(_call_until, is_over, project.url("PROXY_PORT"), client, outcomes)
            for client in range(_NUM_CLIENTS)
        ]
        try:
            for name in project.containers("tandem", "replica"):
                docker("restart", "--time", "60", name)
                _wait_for(
                    lambda each=name: inspect(each, "{{.State.Health.Status}}") == "healthy",
                    f"{name} to be healthy again",
                )
            _wait_for(lambda: outcomes.total() >= _NUM_CALLS, f"{_NUM_CALLS} calls")
        finally:
            is_over.set()
        for client in clients:
            client.result()
    lost = {outcome: number for outcome, number in outcomes.items() if outcome != "right"}
    expect(not lost, f"lost {lost} of {outcomes.total()} calls")
    return (
        f"{outcomes['right']} calls, all answered as they should be, over {_NUM_SERVERS} restarts"
    )


def _call_until(is_over: threading.Event, url: str, client: int, outcomes: "Counter[str]") -> None:
    number = 0
    while not is_over.is_set():
        number += 1
        path, body, expected = _call(client, number)
        try:
            # A connection a call: clients of other services do not share theirs either.
            response = httpx.post(f"{url}{path}", json=body, timeout=120)
            is_right = response.status_code == expected
            outcomes["right" if is_right else str(response.status_code)] += 1
        except httpx.TransportError as error:
            outcomes[repr(error)] += 1


def _call(client: int, number: int) -> tuple[str, dict[str, Any], int]:
    """Path, body and the status to expect: mostly sentences, and one client for each other kind."""
    sentence: dict[str, Any] = {"text": f"I have {client} cats and {number} dogs."}
    if client == 0:
        text = f"Report {number}. {SUMMARIZE['text']}"
        return "/summarize", {"text": text, "parameters": {"max_length": 40}}, 200
    if client == 1:
        return "/translate", {"text": [f"I have {count} cats." for count in range(20)]}, 200
    if client == 2 and number % 2:
        return "/translate", {**sentence, "parameters": {"num_beams": 99}}, 422
    if client == 3 and number % 2:
        return "/translate", {"text": sentence["text"] * 50, "overflow": "truncate"}, 200
    return "/translate", sentence, 200


def _promtool(project: Project) -> str:
    (name,) = project.containers("prometheus")
    said = docker("exec", name, "promtool", "check", "config", "/etc/prometheus/prometheus.yml")
    expect("SUCCESS" in said, said)
    rules = httpx.get(f"{project.url('PROMETHEUS_PORT')}/api/v1/rules").json()["data"]["groups"]
    loaded = [rule for group in rules for rule in group["rules"]]
    for rule in loaded:
        expect(rule["health"] != "err", f"{rule['name']}: {rule.get('lastError')}")
    return f"{len(loaded)} rules loaded"


def _check_alerts() -> str:
    image = os.environ.get("PROMETHEUS_IMAGE", "prom/prometheus:v3.5.0")
    mounts = (
        *("--volume", f"{ROOT / 'helm/tandem/files/rules.yml'}:/rules/rules.yml:ro"),
        *("--volume", f"{ROOT / 'deployment/verify/rules_test.yml'}:/rules/rules_test.yml:ro"),
    )
    return docker(
        *("run", "--rm", *mounts, "--entrypoint", "promtool", image),
        *("test", "rules", "/rules/rules_test.yml"),
    ).replace("\n", " ")


def _check_targets(project: Project) -> str:
    _wait_for(lambda: _num_up(project) == _NUM_SERVERS, "a scrape of every server")
    targets = _targets(project)
    wrong = [each["lastError"] for each in targets if each["health"] != "up"]
    expect(len(targets) == _NUM_SERVERS and not wrong, f"{len(targets)} targets: {wrong}")
    return f"{len(targets)} targets are up"


def _check_queries(project: Project) -> str:
    """Every panel has a value: the restart was load enough for all but errors."""
    _wait_for(lambda: _value_of(project, PANELS[0].queries.copy().popitem()[1]), "two scrapes")
    empty = [
        f"{panel.title}: {legend}"
        for panel in PANELS
        for legend, query in panel.queries.items()
        if not _value_of(project, query)
    ]
    quiet = ("Errors", "Refused and cancelled", "Work avoided")
    expect(not [each for each in empty if not each.startswith(quiet)], f"no value: {empty}")
    num_queries = sum(len(panel.queries) for panel in PANELS)
    return f"{num_queries} queries, {num_queries - len(empty)} with values"


def _value_of(project: Project, query: str) -> list[Any]:
    response = httpx.get(
        f"{project.url('PROMETHEUS_PORT')}/api/v1/query",
        params={"query": of_everything(query, "5m")},
    )
    expect(response.status_code == 200, f"{query}: {response.text}")
    found: list[Any] = response.json()["data"]["result"]
    return found
