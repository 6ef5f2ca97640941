"""The chart's Pods, run as containers: what a cluster would run, where there is none."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from deployment.chart import CHART
from deployment.pod_security import Object
from deployment.verify.chart import call_of_notes, of_kind, render, server_variables
from deployment.verify.containers import RESTRICTED, address, container, docker, wait_until_healthy
from deployment.verify.image import IMAGE
from deployment.verify.report import Report, expect, output_of

_SET_UPS = ("default", "restricted")
_KEY = "0123456789abcdef"
_KEYS = f"# who may call\nbatch:{_KEY}\n"
_SCRAPE = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:{}/metrics').status)"


def check_pods(report: Report) -> None:
    """Run the Pods of set-ups that need no more than the image."""
    for name in _SET_UPS:
        report.check(f"chart: the Pods of {name} run, and answer", partial(_check_pod, name))


def _check_pod(set_up: str) -> str:
    values = CHART / "ci" / f"{set_up}-values.yaml"
    objects = render(values)
    pod = of_kind(objects, "Deployment")["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    with TemporaryDirectory() as folder:
        keys = Path(folder)
        keys.chmod(0o755)
        (keys / "keys").write_text(_KEYS, encoding="utf-8")
        variables = server_variables(objects)
        options = [f"--env={name}={value}" for name, value in variables.items()]
        with container(IMAGE, *options, *_options_of(pod, server, keys)) as name:
            wait_until_healthy(name)
            _expect_probes(address(name), server)
            said = _run_test(name, of_kind(objects, "Pod")["spec"], keys)
            _run_notes(address(name), values)
            if port := variables.get("TANDEM_METRICS_PORT"):
                expect(docker("exec", name, "python", "-c", _SCRAPE.format(port)) == "200", port)
            docker("exec", name, *server["lifecycle"]["preStop"]["exec"]["command"])
    return said


def _options_of(pod: Object, of_container: Object, keys: Path) -> Iterator[str]:
    """The container's user, memory and mounts; its Secret is a folder of this machine."""
    user = pod["securityContext"]
    yield f"--user={user['runAsUser']}:{user['runAsGroup']}"
    yield f"--memory={of_container['resources']['limits']['memory'].removesuffix('i').lower()}"
    kinds = {volume["name"]: set(volume) - {"name"} for volume in pod.get("volumes", [])}
    for mount in of_container.get("volumeMounts", []):
        if "secret" in kinds[mount["name"]]:
            yield f"--volume={keys}:{mount['mountPath']}:ro"
        else:
            expect(kinds[mount["name"]] == {"emptyDir"}, str(mount))
            yield f"--volume={mount['mountPath']}"


def _expect_probes(url: str, server: Object) -> None:
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        path = server[kind]["httpGet"]["path"]
        response = httpx.get(f"{url}{path}")
        expect(response.status_code == 200, f"{kind}: {path} gives {response.status_code}")


def _run_test(server: str, pod: Object, keys: Path) -> str:
    """What `helm test` runs, in the network of the server."""
    (call,) = pod["containers"]
    variables = {each["name"]: each["value"] for each in call["env"]}
    variables["URL"] = re.sub("//[^/]*", "//127.0.0.1:8000", variables["URL"])
    program, *arguments = call["command"]
    return docker(
        *("run", "--rm", *RESTRICTED, "--network", f"container:{server}"),
        *(f"--env={name}={value}" for name, value in variables.items()),
        *_options_of(pod, call, keys),
        *("--entrypoint", program, IMAGE, *arguments),
    )


def _run_notes(url: str, values: Path) -> None:
    """The call of NOTES.txt, to this server and with a key of it."""
    call = [
        re.sub("^http://127.0.0.1:8000", url, word).replace("$KEY", _KEY)
        for word in call_of_notes("--values", str(values))
    ]
    said = output_of([*call, "--fail"])
    expect("Kaffee" in said, said)
