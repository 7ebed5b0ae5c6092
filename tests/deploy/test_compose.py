"""docker-compose.yml is understood by compose, asks for what it needs, and says what we promise."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.cli.stack.processes import WORKER_QUEUES, WORKER_STOP_SECONDS, beat_child, worker_children
from app.settings import REPOSITORY, Settings

PAGE = (REPOSITORY / "docs" / "deployment.md").read_text()
EXAMPLE = (REPOSITORY / "deploy" / "env.example").read_text()
EMPTY = re.findall(r"^([A-Z0-9_]+)=$", EXAMPLE, re.M)
OPTIONAL = {"TORCH_CPU_INDEX"}
REQUIRED = [name for name in EMPTY if name not in OPTIONAL]
GIVEN = {
    **{name: f"{name.lower().replace('_', '')}0123456789abcdef01234567" for name in REQUIRED},
    "COMPOSE_PROFILES": "cuda",
    "LORAWRIGHT_S3_PUBLIC_ENDPOINT_URL": "https://files.example.com",
}


def compose() -> list[str]:
    """The command of compose, whichever there is; without one, only CI minds."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    plugin = ["docker", "compose"]
    if shutil.which("docker") and not subprocess.run([*plugin, "version"], check=False).returncode:
        return plugin
    if os.environ.get("CI"):
        pytest.fail("compose is missing: apt-get install docker-compose")
    pytest.skip("compose is missing")


def config(folder: Path, given: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """`compose config` in a folder that holds the file and an .env made of the example."""
    text = EXAMPLE
    for name, value in given.items():
        text = re.sub(rf"^{name}=.*$", f"{name}={value}", text, flags=re.M)
    (folder / ".env").write_text(text)
    shutil.copy(REPOSITORY / "docker-compose.yml", folder)
    return run_config(folder)


def run_config(folder: Path) -> "subprocess.CompletedProcess[str]":
    """What compose makes of the file and the .env of a folder."""
    return subprocess.run(
        [*compose(), "config"],
        cwd=folder,
        # Variables of whoever runs the tests would win over .env.
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every service as compose understands it, on a machine with a GPU."""
    told = config(tmp_path_factory.mktemp("compose"), GIVEN)
    assert told.returncode == 0, told.stderr
    assert "WARN" not in told.stderr
    found: dict[str, Any] = yaml.safe_load(told.stdout)["services"]
    return found


OURS = ("migrate", "api", "beat", "worker-cpu", "worker-gpu")


@pytest.mark.parametrize("missing", REQUIRED)
def test_nothing_starts_while_a_secret_is_empty(missing: str, tmp_path: Path) -> None:
    told = config(tmp_path, GIVEN | {missing: ""})
    assert told.returncode != 0
    assert f"{missing} is empty" in told.stderr


def test_the_commands_of_the_page_fill_in_the_secrets(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "env.example").write_text(EXAMPLE)
    shutil.copy(REPOSITORY / "docker-compose.yml", tmp_path)
    block = re.findall(r"```sh\n(.*?)```", PAGE, re.S)[0]
    subprocess.run(["bash", "-euc", block], cwd=tmp_path, check=True)
    environment = tmp_path / ".env"
    assert environment.stat().st_mode & 0o077 == 0
    written = environment.read_text()
    secrets = re.findall(r"^\w+=([0-9a-f]{64})$", written, re.M)
    assert len(secrets) == len(set(secrets)) == len(REQUIRED) - 2
    for name in ("COMPOSE_PROFILES", "LORAWRIGHT_S3_PUBLIC_ENDPOINT_URL"):
        assert f"{name}={GIVEN[name]}" not in written
        written = written.replace(f"{name}=\n", f"{name}={GIVEN[name]}\n")
    environment.write_text(written)
    told = run_config(tmp_path)
    assert told.returncode == 0, told.stderr


def test_the_second_gpu_of_the_page_is_a_worker_on_another_card(tmp_path: Path) -> None:
    assert config(tmp_path, GIVEN).returncode == 0
    file = tmp_path / "docker-compose.yml"
    (second,) = re.findall(r"```text\n(  worker-gpu-1:.*?)```", PAGE, re.S)
    file.write_text(file.read_text().replace("\nnetworks:\n", f"\n{second}\nnetworks:\n"))
    told = run_config(tmp_path)
    assert told.returncode == 0, told.stderr
    services = yaml.safe_load(told.stdout)["services"]
    first, other = services["worker-gpu"], services["worker-gpu-1"]
    assert other["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] == ["1"]
    for same in ("command", "healthcheck", "image", "volumes", "depends_on", "shm_size"):
        assert other[same] == first[same]


def test_the_example_holds_no_secret_and_only_settings_that_exist() -> None:
    assert {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "LORAWRIGHT_SESSION_SECRET"} <= set(REQUIRED)
    known = {f"LORAWRIGHT_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"\bLORAWRIGHT_[A-Z0-9_]+\b", EXAMPLE))
    in_file = (REPOSITORY / "docker-compose.yml").read_text()
    named |= set(re.findall(r"\bLORAWRIGHT_[A-Z0-9_]+\b", in_file))
    assert named <= known
    secret = re.compile(r"^\w*(?:PASSWORD|SECRET|KEY)\w*=(.+)$", re.M)
    assert secret.findall(EXAMPLE) == []


def test_a_machine_without_a_gpu_reserves_none(tmp_path: Path) -> None:
    told = config(
        tmp_path, GIVEN | {"COMPOSE_PROFILES": "cpu", "TORCH_CPU_INDEX": "https://x.test"}
    )
    assert told.returncode == 0, told.stderr
    active = {
        name: service
        for name, service in yaml.safe_load(told.stdout)["services"].items()
        if set(service.get("profiles", ["cpu"])) == {"cpu"}
    }
    assert "worker-no-gpu" in active
    assert "worker-gpu" not in active
    assert "reservations" not in str([service.get("deploy") for service in active.values()])
    for name in ("worker-cpu", "worker-no-gpu"):
        arguments = active[name]["build"]["args"]
        assert arguments == {"VARIANT": "cpu", "PIP_EXTRA_INDEX_URL": "https://x.test"}


def test_only_the_gpu_worker_reserves_the_gpu(services: dict[str, Any]) -> None:
    reserving = {
        name: service["deploy"]["resources"]["reservations"]["devices"]
        for name, service in services.items()
        if "reservations" in service.get("deploy", {}).get("resources", {})
    }
    (device,) = reserving.pop("worker-gpu")
    assert reserving == {}
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])


def test_each_starts_only_after_what_it_needs_is_healthy(services: dict[str, Any]) -> None:
    healthy, done = "service_healthy", "service_completed_successfully"
    assert _conditions(services["migrate"]) == {"postgres": healthy, "s3": healthy}
    for name in ("api", "beat", "worker-cpu", "worker-gpu"):
        expected = {"migrate": done, "redis": healthy, "s3": healthy}
        assert _conditions(services[name]) == expected, name
    for name in ("postgres", "redis", "s3"):
        assert services[name]["healthcheck"]["test"], name


def _conditions(service: dict[str, Any]) -> dict[str, str]:
    return {name: told["condition"] for name, told in service["depends_on"].items()}


@pytest.mark.parametrize("name", OURS)
def test_ours_can_write_nothing_and_gain_nothing(name: str, services: dict[str, Any]) -> None:
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert any(mount.startswith("/tmp:") for mount in service["tmpfs"])


def test_all_have_a_limit_a_restart_and_a_log_that_ends(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["deploy"]["resources"]["limits"]["memory"], name
        assert service["restart"] == ("no" if name == "migrate" else "unless-stopped"), name
        assert service["logging"]["options"]["max-size"], name


def test_images_of_others_name_a_version(services: dict[str, Any]) -> None:
    images = {name: service["image"] for name, service in services.items() if name not in OURS}
    images.pop("worker-no-gpu", None)
    assert set(images) == {"postgres", "redis", "s3"}
    for image in images.values():
        assert re.fullmatch(r"[\w/]+:v?\d+[\w.-]*", image), image


def test_a_stop_leaves_workers_the_time_they_are_promised(services: dict[str, Any]) -> None:
    for name in ("worker-cpu", "worker-gpu"):
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > WORKER_STOP_SECONDS


def test_workers_and_beat_start_as_in_the_embedded_stack(
    services: dict[str, Any], tmp_path: Path
) -> None:
    embedded = {child.name: child for child in worker_children("redis://", {}, tmp_path)}
    beat = beat_child(tmp_path, {}, tmp_path)
    for ours, theirs in (
        ("worker-gpu", embedded["worker"]),
        ("worker-cpu", embedded["worker-cpu"]),
        ("beat", beat),
    ):
        told = ["celery", *theirs.spec.command[3:]]
        assert _without_places(services[ours]["command"]) == _without_places(told)
    queues = services["worker-cpu"]["command"] + services["worker-gpu"]["command"]
    assert {",".join(named) for named in WORKER_QUEUES.values()} <= set(queues)


def _without_places(command: list[str]) -> list[str]:
    """A command without what is named after the machine."""
    places = [n + 1 for n, word in enumerate(command) if word in ("--hostname", "--schedule")]
    return [word for n, word in enumerate(command) if n not in places]


def test_redis_refuses_rather_than_forgets(services: dict[str, Any]) -> None:
    command = " ".join(services["redis"]["command"])
    for told in ("--maxmemory-policy noeviction", "--appendonly yes", "--appendfsync everysec"):
        assert told in command


def test_only_the_api_and_storage_have_ports_and_only_on_loopback(services: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in services.items() if service.get("ports")}
    assert set(ports) == {"api", "s3"}
    for (port,) in ports.values():
        text = port if isinstance(port, str) else port["host_ip"]
        assert text.startswith("127.0.0.1")
    assert list(services["postgres"]["networks"]) == ["inside"]
    assert list(services["redis"]["networks"]) == ["inside"]


def test_data_is_in_volumes(services: dict[str, Any]) -> None:
    kept = {name: _targets(services[name]) for name in ("postgres", "redis", "s3", "worker-gpu")}
    assert kept == {
        "postgres": {"/var/lib/postgresql/data"},
        "redis": {"/data"},
        "s3": {"/data"},
        "worker-gpu": {"/var/lib/lorawright/work", "/var/lib/lorawright/models"},
    }


def _targets(service: dict[str, Any]) -> set[str]:
    return {
        each["target"] if isinstance(each, dict) else each.split(":")[1]
        for each in service["volumes"]
    }
