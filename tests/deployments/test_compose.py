"""The compose file: its shape, that what it names exists, and that nothing is open that should not be.

Docker Compose is not run here. The models below are the part of its specification that the file relies on.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from chains.settings import PREFIX, Settings

DEPLOYMENTS = Path(__file__).resolve().parents[2] / "deployments"
FILE = DEPLOYMENTS / "compose.yaml"
THIRD_PARTY = {"postgres", "redis", "s3", "qdrant"}
OURS = {"server", "services", "apply", "cpu", "gpu"}
SAID_OTHERWISE = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "False",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": "P30D",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1.0",
}
"""Settings that Prefect writes out in another way than they are written in."""
_VARIABLE = re.compile(r"\$\{(\w+)(?::([?-])([^}]*))?\}")


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Health(Part):
    test: list[str]
    interval: str
    timeout: str
    retries: int
    start_period: str | None = None


class Waits(Part):
    condition: Literal["service_started", "service_healthy", "service_completed_successfully"]


class Device(Part):
    driver: str
    device_ids: list[str]
    capabilities: list[str]


class Reservations(Part):
    devices: list[Device]


class Resources(Part):
    reservations: Reservations


class Deploy(Part):
    resources: Resources


class Build(Part):
    context: str
    dockerfile: str


class Service(Part):
    image: str = Field(pattern=r"^[a-z0-9/-]+:[A-Za-z0-9][\w.-]+$")
    build: Build | None = None
    restart: Literal["unless-stopped"] | None = None
    init: bool = False
    command: list[str] = []
    environment: dict[str, str] = {}
    volumes: list[str] = []
    ports: list[str] = []
    profiles: list[str] = []
    depends_on: dict[str, Waits] = {}
    healthcheck: Health | None = None
    stop_grace_period: str | None = None
    shm_size: str | None = None
    deploy: Deploy | None = None


class Compose(Part):
    name: str
    services: dict[str, Service]
    volumes: dict[str, None]


@pytest.fixture(scope="module")
def compose() -> Compose:
    found = yaml.safe_load(FILE.read_text())
    return Compose.model_validate({key: value for key, value in found.items() if not key.startswith("x-")})


def test_services_name_only_what_is_there(compose: Compose) -> None:
    assert set(compose.services) == THIRD_PARTY | OURS
    for name, service in compose.services.items():
        assert not service.image.endswith(":latest")
        for other, wait in service.depends_on.items():
            if wait.condition == "service_healthy":
                assert compose.services[other].healthcheck, f"{name} waits for {other} for ever"
        for volume in service.volumes:
            source = volume.split(":")[0]
            assert source in compose.volumes or source.startswith(("./", "${CHAINS"))
            assert not source.startswith("./") or (DEPLOYMENTS / source).exists()
        if service.build:
            assert (DEPLOYMENTS / service.build.context / service.build.dockerfile).exists()
    used = {volume.split(":")[0] for service in compose.services.values() for volume in service.volumes}
    assert set(compose.volumes) <= used


def test_every_variable_is_in_the_example_and_secrets_must_be_set() -> None:
    lines = (DEPLOYMENTS / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if "=" in line)
    text = "\n".join(line for line in FILE.read_text().splitlines() if not line.lstrip().startswith("#"))
    found = _VARIABLE.findall(text)
    assert {name for name, *_ in found} == set(example)
    for name, kind, _ in found:
        secret = name.endswith("PASSWORD") or name == "QDRANT_API_KEY"
        assert kind == ("?" if secret else "-"), f"{name} is a secret without a default, or has one"
        assert not secret or not example[name], "no password is shipped"


def test_prefect_wants_a_password_and_only_its_port_is_open_to_this_machine(compose: Compose) -> None:
    published = {name: service.ports for name, service in compose.services.items() if service.ports}
    assert published == {"server": ["127.0.0.1:4200:4200"]}
    auth = "headrace:${HEADRACE_PASSWORD:?set it in deployments/.env}"
    assert compose.services["server"].environment["PREFECT_SERVER_API_AUTH_STRING"] == auth
    for name in ("apply", "cpu", "gpu"):
        assert compose.services[name].environment["PREFECT_API_AUTH_STRING"] == auth
        assert compose.services[name].environment["PREFECT_API_URL"] == "http://server:4200/api"


def test_every_setting_of_headrace_exists(compose: Compose) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    for service in compose.services.values():
        assert {key for key in service.environment if key.startswith(PREFIX)} <= known


@pytest.mark.parametrize("name", ["server", "cpu"])
def test_prefect_reads_every_setting_as_it_is_meant(compose: Compose, name: str) -> None:
    environment = {
        key: _VARIABLE.sub("secret", value)
        for key, value in compose.services[name].environment.items()
        if key.startswith("PREFECT_") and not key.startswith("PREFECT_REDIS_")
    }
    code = (
        "import json; from prefect.settings import get_current_settings as get;"
        "print(json.dumps(get().to_environment_variables(exclude_unset=True, include_secrets=True)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "PREFECT_HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    read = json.loads(done.stdout)
    assert set(environment) <= set(read), "Prefect knows no such setting"
    assert {key: read[key] for key in environment} == {
        key: SAID_OTHERWISE.get(key, value) for key, value in environment.items()
    }


def test_the_redis_package_has_what_the_settings_name(compose: Compose) -> None:
    pytest.importorskip("prefect_redis")
    environment = compose.services["server"].environment
    wanted = {
        "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": ("Publisher", "Consumer"),
        "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": ("Cache",),
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": ("CausalOrdering",),
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": ("ConcurrencyLeaseStorage",),
    }
    for setting, classes in wanted.items():
        module = importlib.import_module(environment[setting])
        assert all(hasattr(module, name) for name in classes), setting
    client = importlib.import_module("prefect_redis.client")
    assert "url" in client.RedisMessagingSettings.model_fields


@pytest.mark.parametrize("name", ["server", "services", "cpu", "gpu"])
def test_commands_have_the_options_that_are_used(compose: Compose, name: str) -> None:
    command = compose.services[name].command
    options = [word for word in command if word.startswith("--")]
    words = command[: command.index(options[0])] if options else command
    asked = [sys.executable, "-m", *words, "--help"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert all(option in said for option in options)


def test_a_gpu_worker_has_one_device_and_runs_one_job(compose: Compose) -> None:
    gpu = compose.services["gpu"]
    assert gpu.deploy is not None and gpu.profiles == ["gpu"] and gpu.shm_size
    [device] = gpu.deploy.resources.reservations.devices
    assert len(device.device_ids) == 1 and device.capabilities == ["gpu"]
    assert gpu.command[gpu.command.index("--limit") + 1] == "1"


def test_containers_that_may_be_stopped_reap_and_get_time(compose: Compose) -> None:
    for name in ("cpu", "gpu"):
        service: Any = compose.services[name]
        assert service.init and service.stop_grace_period == "60s"


def test_the_page_for_operators_and_compose_say_the_same_of_many_runs(compose: Compose) -> None:
    page = (DEPLOYMENTS.parent / "docs" / "operations.md").read_text()
    environment = compose.services["server"].environment
    tuned = [name for name in environment if "TASK_RUN_RECORDER" in name or "EVENT_PERSISTER" in name]
    assert len(tuned) == 5
    assert all(f"| `{name}` | {environment[name]} |" in page for name in tuned)
    for name in ("DB_VACUUM_ENABLED", "DB_VACUUM_RETENTION_PERIOD"):
        setting = f"PREFECT_SERVER_SERVICES_{name}"
        assert f"`{setting}={environment[setting]}`" in page
