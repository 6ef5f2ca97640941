"""The image: built, looked into, run without privileges, ended, built again."""

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from deployment.verify.containers import (
    RESTRICTED,
    address,
    container,
    docker,
    expect_answers,
    inspect,
    labels_of,
    logs,
    stop_in_background,
    wait_until_healthy,
)
from deployment.verify.report import ROOT, CheckFailedError, Report, expect, output_of, run

IMAGE = "tandem:cpu"
_MAX_BYTES = 1_700_000_000
_MAX_CODE_BYTES = 5_000_000
_MAX_REBUILD_S = 60
_CONTEXT = ("app", "model_core", "deployment", "Dockerfile", ".dockerignore", "constraints.txt")
_CONTEXT_PAGES = ("pyproject.toml", "README.md", "LICENSE")
_LONG = {
    "text": [f"I have {number} cats and a dog." for number in range(60)],
    "parameters": {"num_beams": 4, "min_new_tokens": 40},
}


def check_image(report: Report) -> bool:
    """All checks of the image for processors; whether there is one."""
    if not report.check("image: builds", lambda: build(ROOT)):
        return False
    report.check("image: user, health check, labels, size, layers", _check_configuration)
    report.check("image: no compiler, no CUDA library", _check_contents)
    report.check("image: answers on a read-only root without privileges", _check_answers)
    report.check("image: SIGTERM lets calls in flight end", _check_drain)
    report.check("image: SIGTERM while loading ends it", _check_early_end)
    report.check("image: threads follow the quota", _check_threads)
    report.check("image: one variable keeps it offline", _check_offline)
    report.check("image: a change of the code rebuilds in seconds", _check_rebuild)
    report.check("image: a bill of materials by one command", _check_sbom)
    report.check("image: the cuda target refuses a torch without CUDA", _check_cuda_target)
    report.check("image: Triton needs no compiler", _check_triton)
    _check_resolution(report)
    report.skip("image: start of the cuda target", "it needs an NVIDIA GPU")
    return True


def build(context: Path, *options: str, tag: str = IMAGE) -> str:
    """Build the image; the time it took."""
    started = time.monotonic()
    command = ["docker", "build", "--quiet", "--tag", tag, *options, str(context)]
    output_of(["env", "DOCKER_BUILDKIT=1", *command], timeout_s=3600)
    return f"{time.monotonic() - started:.0f} s"


def _check_configuration() -> str:
    user = inspect(IMAGE, "{{.Config.User}}")
    uid = user.partition(":")[0]
    expect(uid.isdigit() and int(uid) > 0, f"user is {user!r}: expected a number above 0")
    expect(inspect(IMAGE, "{{.Config.StopSignal}}") == "SIGTERM", "expected STOPSIGNAL SIGTERM")
    probe = json.loads(inspect(IMAGE, "{{json .Config.Healthcheck}}"))
    expect(probe and "curl" not in str(probe), f"health check is {probe}")
    labels = labels_of(IMAGE)
    for name in ("title", "description", "licenses", "version", "revision", "created"):
        expect(f"org.opencontainers.image.{name}" in labels, f"no label {name}: {labels}")
    size = int(inspect(IMAGE, "{{.Size}}"))
    expect(size < _MAX_BYTES, f"{size} bytes: expected less than {_MAX_BYTES}")
    sizes = docker("history", "--human=false", "--format", "{{.Size}}", IMAGE).split()
    code = next(int(each) for each in sizes if int(each))
    expect(code < _MAX_CODE_BYTES, f"the layer of the code has {code} bytes")
    layers = sum(int(each) > 0 for each in sizes)
    return (
        f"{size / 1e6:.0f} MB in {layers} layers that are not empty, {code / 1e6:.1f} of the code; "
        f"user {user}"
    )


def _check_contents() -> str:
    script = (
        "for each in gcc cc g++ make ld cargo; do command -v $each; done; "
        "find / -xdev \\( -name 'libcud*.so*' -o -name 'libcublas*' -o -name 'libnccl*' "
        "-o -name 'nvidia*' -path '*site-packages*' \\) 2>/dev/null; "
        "find / -xdev -perm -4000 -newer /app/app/cli.py 2>/dev/null; true"
    )
    found = docker("run", "--rm", "--entrypoint", "sh", IMAGE, "-c", script)
    expect(not found, f"expected none of these: {found}")
    return docker("run", "--rm", "--entrypoint", "du", IMAGE, "-sh", "/opt/tandem", "/app").replace(
        "\n", ", "
    )


def _check_answers() -> str:
    with container(IMAGE) as name:
        wait_until_healthy(name)
        answer = expect_answers(address(name))
        who = docker("exec", name, "id")
        expect(who.startswith("uid=10001"), f"runs as {who}")
        for folder in ("/app", "/opt/tandem", "/etc"):
            touched = run(["docker", "exec", name, "touch", f"{folder}/x"])
            expect(touched.returncode, f"{folder} can be written to")
        docker("exec", name, "touch", "/cache/huggingface/x", "/tmp/x")
        memory = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", name)
    return f"{answer} {memory}"


def _check_drain() -> str:
    with container(IMAGE, "--env", "TANDEM_DRAIN_S=50") as name, ThreadPoolExecutor() as threads:
        wait_until_healthy(name)
        url = address(name)
        call = threads.submit(httpx.post, f"{url}/translate", json=_LONG, timeout=120)
        _wait_for_work(url)
        stopping = stop_in_background(name)
        response = call.result()
        stopping.wait(90)
        expect(response.status_code == 200, f"the call in flight got {response.text[:200]}")
        expect(_exit_code(name) == 0, f"exit code {_exit_code(name)}:\n{logs(name)}")
    return f"{len(response.json()['translations'])} texts in flight were answered, exit code 0"


def _wait_for_work(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for line in httpx.get(f"{url}/metrics").text.splitlines():
            if line.startswith("tandem_running_requests") and float(line.split()[-1]) > 0:
                return
        time.sleep(0.05)
    raise CheckFailedError("nothing is being decoded")


def _check_early_end() -> str:
    with container(IMAGE) as name:
        created = time.monotonic()
        while not _handles_sigterm(name):
            expect(time.monotonic() < created + 60, "SIGTERM is never handled")
        began = time.monotonic() - created
        started = time.monotonic()
        stop_in_background(name).wait(90)
        code, seconds = _exit_code(name), time.monotonic() - started
        said = logs(name)
        expect("ready" not in said, f"it was ready too soon for this check: {said}")
        expect(code == 0 and seconds < 30, f"exit code {code} after {seconds:.0f} s: {said}")
    return f"from {began:.1f} s after the start, in {seconds:.1f} s"


def _handles_sigterm(name: str) -> bool:
    """Whether the container's first process has a handler: bit 14 of what it catches."""
    status = run(["docker", "exec", name, "grep", "SigCgt", "/proc/1/status"]).stdout
    return bool(status) and bool(int(status.split()[1], 16) >> 14 & 1)


def _check_threads() -> str:
    threads = docker(
        *("run", "--rm", *RESTRICTED, "--cpus", "1", "--entrypoint", "python", IMAGE, "-c"),
        "import app.cli, os; print(*(v for k, v in sorted(os.environ.items()) if 'OMP_' in k))",
    )
    expect(threads == "10000 1 passive", f"--cpus 1 gives {threads}")
    return f"--cpus 1: {threads}"


def _check_offline() -> str:
    options = ("--env", "HF_HUB_OFFLINE=1", "--env", "TANDEM_TRANSLATE_MODEL=owner/absent")
    with container(IMAGE, *options) as name:
        code = int(docker("wait", name))
        said = logs(name)
    expect(code not in (0, 137), f"exit code {code}")
    expect("owner/absent" in said and "Traceback" not in said, said)
    return said.strip().splitlines()[-1][:120]


def _check_rebuild() -> str:
    with TemporaryDirectory() as scratch:
        context = Path(scratch)
        for name in (*_CONTEXT, *_CONTEXT_PAGES):
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, context / name)
        build(context, tag="tandem:verify-rebuild")
        changed = context / "app" / "describe.py"
        changed.write_text(changed.read_text(encoding="utf-8") + f"\n# {time.time()}\n")
        started = time.monotonic()
        build(context, tag="tandem:verify-rebuild")
        seconds = time.monotonic() - started
    run(["docker", "image", "rm", "tandem:verify-rebuild"])
    expect(seconds < _MAX_REBUILD_S, f"{seconds:.0f} s: expected less than {_MAX_REBUILD_S}")
    return f"{seconds:.1f} s"


def _check_sbom() -> str:
    with TemporaryDirectory() as folder:
        output_of(["make", "sbom", f"SBOM={folder}"])
        bill = json.loads((Path(folder) / "tandem.cdx.json").read_text(encoding="utf-8"))
    names = {each["name"] for each in bill["components"]}
    expect(bill["bomFormat"] == "CycloneDX", str(bill)[:200])
    for name in ("torch", "transformers", "fastapi", "libc6"):
        expect(name in names, f"{name} is missing in {len(names)} components")
    return f"{len(bill['components'])} components"


def _check_cuda_target() -> str | None:
    command = ["docker", "build", "--target", "cuda", str(ROOT)]
    done = run(["env", "DOCKER_BUILDKIT=1", *command], timeout_s=3600)
    said = done.stdout + done.stderr
    if done.returncode == 0:
        return "it was built: there is a torch with CUDA here"
    expect("expected a torch for cuda" in said, "\n".join(said.splitlines()[-10:]))
    return "it needs one, and pip gives none here"


def _check_triton() -> str:
    """The cuda target's Triton loads its module, with a driver that can do nothing."""
    build(ROOT, "--target", "triton", tag="tandem:verify-triton")
    script = ROOT / "deployment" / "verify" / "load_triton.sh"
    mount = f"{script}:/load_triton.sh:ro"
    said = docker("run", "--rm", "--volume", mount, "tandem:verify-triton", "sh", "/load_triton.sh")
    run(["docker", "image", "rm", "tandem:verify-triton"])
    return said


def _check_resolution(report: Report) -> None:
    """Whether constraints.txt fits a torch with CUDA, which pip takes where nothing sets it up."""
    name = "image: constraints.txt fits a torch with CUDA"
    variables = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    pip = (sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet")
    asked = ("--report", "-", "--constraint", "constraints.txt")
    done = run([*pip, *asked, "torch"], environment={**variables, "PIP_CONFIG_FILE": os.devnull})
    if "No matching distribution" in done.stderr:
        report.skip(name, "pip reaches no index with its own settings")
        return
    report.check(name, lambda: _expect_cuda(done))


def _expect_cuda(done: subprocess.CompletedProcess[str]) -> str:
    expect(done.returncode == 0, done.stderr)
    packages = [each["metadata"]["name"] for each in json.loads(done.stdout)["install"]]
    expect("triton" in packages, f"expected triton among {packages}")
    return f"{len(packages)} packages"


def _exit_code(name: str) -> int:
    return int(inspect(name, "{{.State.ExitCode}}"))
