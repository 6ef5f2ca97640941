"""What Dockerfile and Compose file must keep to, as far as their text says it."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings, variable
from deployment.image.sbom import debian_components

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]


def test_processors_are_the_default_target_and_nothing_runs_as_root() -> None:
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", DOCKERFILE, re.MULTILINE)
    users = re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE)

    assert stages[-1] == ("runtime", "cpu")
    assert ("runtime", "cuda") in stages
    assert users == ["10001:10001"]


def test_the_image_names_no_index_and_no_frontend() -> None:
    assert "://" not in DOCKERFILE
    assert "# syntax" not in DOCKERFILE
    assert "ARG TORCH_INDEX_URL=\n" in DOCKERFILE


def test_the_code_is_copied_last() -> None:
    last = DOCKERFILE[DOCKERFILE.index("AS cpu\n") :]
    copies = re.findall(r"^COPY --from=(\S+) (\S+)", last, re.MULTILINE)

    assert copies == [
        ("packages-cpu", "/opt/tandem"),
        ("code", "/checkpoints"),
        ("code", "/code"),
    ]
    before = DOCKERFILE[: DOCKERFILE.index("AS code\n")]
    assert not re.search(r"^COPY (app|model_core)\b", before, re.MULTILINE)


def test_whatever_the_image_sets_is_a_setting() -> None:
    known = {variable(field) for field in Settings.model_fields}
    for text in (DOCKERFILE, (ROOT / "docker-compose.yml").read_text()):
        for name in re.findall(r"\bTANDEM_[A-Z_]+\b", text):
            assert name in known  # those of the file .env are given to the server, too


@pytest.mark.parametrize("name", list(SERVICES))
def test_every_service_of_the_compose_file_runs_without_privileges(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")


def test_the_time_to_stop_is_above_the_time_to_drain() -> None:
    settings = Settings()
    ends = settings.drain_s + getattr(settings, "lame_duck_s", 0) + 5

    for name in ("tandem", "tandem-gpu", "replica"):
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > ends


def test_profiles_are_those_of_the_page() -> None:
    profiles = {name: service.get("profiles") for name, service in SERVICES.items()}

    assert profiles == {
        "tandem": None,
        "tandem-gpu": ["gpu"],
        "replica": ["scale"],
        "proxy": ["scale"],
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
    }


def test_a_file_that_is_mounted_is_there() -> None:
    for service in SERVICES.values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert not source.startswith("./") or (ROOT / source).is_file()


def test_the_gpu_service_reserves_an_nvidia_device() -> None:
    (device,) = SERVICES["tandem-gpu"]["deploy"]["resources"]["reservations"]["devices"]

    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def run_cc(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    """Ask the image's `cc` for the module of a source, beside the driver.c of its Triton."""
    shutil.copy(ROOT / "deployment" / "image" / "cc.sh", folder)
    (folder / "driver.c").write_text("int driver;")
    (folder / "cuda_utils.so").write_bytes(b"compiled before")
    (folder / "asked.c").write_text(source)
    source_and_module = (folder / "asked.c", "-O3", "-o", folder / "asked.so", "-l:a.so")
    return subprocess.run([folder / "cc.sh", *source_and_module], capture_output=True, text=True)


def test_the_cc_of_the_image_hands_out_what_was_compiled(tmp_path: Path) -> None:
    assert run_cc(tmp_path, "int driver;").returncode == 0
    assert (tmp_path / "asked.so").read_bytes() == b"compiled before"


def test_the_cc_of_the_image_compiles_nothing_else(tmp_path: Path) -> None:
    done = run_cc(tmp_path, "int other;")

    assert done.returncode == 1
    assert "found another source" in done.stderr
    assert not (tmp_path / "asked.so").exists()


def test_system_packages_become_components() -> None:
    listing = "libc6\t2.36-9\tamd64\nzlib1g\t1:1.2\tamd64\n"

    components = debian_components(listing)

    assert [each["name"] for each in components] == ["libc6", "zlib1g"]
    assert components[0]["purl"] == "pkg:deb/debian/libc6@2.36-9?arch=amd64"
    assert json.dumps(components)
