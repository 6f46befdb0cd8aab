"""The base job templates: Prefect takes them, every variable is used, and a job is rendered from them.

No container is started: what Docker and Kubernetes would be asked for is looked at.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from jsonschema import Draft202012Validator
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.templating import apply_values
from prefect.workers.base import BaseJobConfiguration
from prefect.workers.process import ProcessWorker

POOLS = Path(__file__).resolve().parents[2] / "deployments" / "pools"
NAMES = ["process", "docker-cpu", "docker-gpu", "kubernetes-cpu", "kubernetes-gpu"]
EVERY = pytest.mark.parametrize("name", NAMES)
_PLACEHOLDER = re.compile(r"\{\{ *(\w+) *\}\}")


def template(name: str) -> dict[str, Any]:
    return json.loads((POOLS / f"{name}.json").read_text())


def rendered(name: str, **values: Any) -> dict[str, Any]:
    """Fill a template as a worker does, with the defaults of its variables."""
    found = template(name)
    defaults = BaseJobConfiguration._get_base_config_defaults(found["variables"]["properties"])
    return apply_values(found["job_configuration"], defaults | values)


def test_there_is_a_template_for_each_kind_of_pool() -> None:
    assert sorted(path.stem for path in POOLS.glob("*.json")) == sorted(NAMES)


@EVERY
def test_variables_are_a_schema_whose_defaults_fit_and_each_is_used_once_declared(name: str) -> None:
    found = template(name)
    Draft202012Validator.check_schema(found["variables"])
    properties = found["variables"]["properties"]
    assert set(_PLACEHOLDER.findall(json.dumps(found["job_configuration"]))) == set(properties)
    for variable, schema in properties.items():
        whole = schema | {key: found["variables"].get(key, {}) for key in ("$defs", "definitions")}
        if "default" in schema:
            Draft202012Validator(whole).validate(schema["default"])
        assert schema.get("description"), f"{variable} is shown in a form"


@EVERY
async def test_prefect_takes_a_template_and_gives_it_back(name: str, prefect_url: str) -> None:
    with temporary_settings({PREFECT_API_URL: prefect_url}):
        async with get_client() as client:
            kind, pool = name.partition("-")[0], f"template-{name}"
            made = WorkPoolCreate(name=pool, type=kind, base_job_template=template(name))
            await client.create_work_pool(made)
            assert (await client.read_work_pool(pool)).base_job_template == template(name)


@EVERY
def test_flow_runs_start_by_the_plain_engine_command(name: str) -> None:
    assert rendered(name)["command"] == "python -m prefect.engine"
    assert rendered(name, command="true")["command"] == "true"


def test_the_process_template_has_what_the_worker_knows() -> None:
    known = ProcessWorker.get_default_base_job_template()
    assert template("process")["job_configuration"] == known["job_configuration"]
    assert set(template("process")["variables"]["properties"]) == set(known["variables"]["properties"])


def test_a_docker_job_asks_for_its_gpus_and_for_shared_memory() -> None:
    from docker.types import HostConfig

    kwargs = rendered("docker-gpu", gpus=2)["container_create_kwargs"]
    host = HostConfig(version="1.45", **kwargs)  # as the client of the Docker worker builds it
    [request] = host["DeviceRequests"]
    assert (request["Driver"], request["Count"], request["Capabilities"]) == ("nvidia", 2, [["gpu"]])
    assert host["ShmSize"] == 8 * 1024**3
    assert rendered("docker-gpu")["volumes"][0] == "headrace-models:/models"
    assert "device_requests" not in json.dumps(template("docker-cpu"))


def pod(job: dict[str, Any]) -> dict[str, Any]:
    return job["job_manifest"]["spec"]["template"]["spec"]


def test_a_kubernetes_job_asks_for_its_gpus_and_the_nodes_that_have_them() -> None:
    spec = pod(rendered("kubernetes-gpu", gpus=2))
    [container] = spec["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert container["resources"]["requests"]["nvidia.com/gpu"] == 2
    assert spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == "headrace-models"
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"models": "/models", "work": "/work", "tmp": "/tmp", "shm": "/dev/shm"}
    assert "nvidia.com/gpu" not in json.dumps(rendered("kubernetes-cpu"))


@pytest.mark.parametrize("name", ["kubernetes-cpu", "kubernetes-gpu"])
def test_a_kubernetes_job_runs_without_rights_and_gets_secrets_from_a_secret(name: str) -> None:
    spec = pod(rendered(name))
    [container] = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True and spec["automountServiceAccountToken"] is False
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["envFrom"] == [{"secretRef": {"name": "headrace", "optional": True}}]
    assert {volume["name"] for volume in spec["volumes"]} == {m["name"] for m in container["volumeMounts"]}


# With the workers' own packages, which the test group of pyproject.toml installs


async def configuration(name: str, url: str, **values: Any) -> Any:
    """What the worker of this kind makes of a template."""
    if name.startswith("docker"):
        worker = pytest.importorskip("prefect_docker.worker").DockerWorker
    else:
        worker = pytest.importorskip("prefect_kubernetes.worker").KubernetesWorker
    with temporary_settings({PREFECT_API_URL: url}):  # where blocks would be looked up
        return await worker.job_configuration.from_template_and_values(template(name), values)


@pytest.mark.parametrize("name", ["docker-cpu", "docker-gpu"])
async def test_the_docker_worker_reads_its_template(name: str, prefect_url: str) -> None:
    found = await configuration(name, prefect_url, env={"A": "b"})
    assert found.image == f"headrace-{name.partition('-')[2]}:0.1.0" and found.auto_remove
    assert found.env["A"] == "b" and found.env["HEADRACE_HOME"] == "/work"
    asked = (found.container_create_kwargs or {}).get("device_requests", [])
    assert len(asked) == (1 if name == "docker-gpu" else 0)


@pytest.mark.parametrize("name", ["kubernetes-cpu", "kubernetes-gpu"])
async def test_the_kubernetes_worker_makes_a_job_that_the_client_reads(name: str, prefect_url: str) -> None:
    found = await configuration(name, prefect_url, env={"A": "b"}, labels={"team": "desk"})
    found.prepare_for_flow_run(_flow_run())
    client = pytest.importorskip("kubernetes_asyncio.client")
    async with client.ApiClient() as api:
        job = api.deserialize(SimpleNamespace(data=json.dumps(found.job_manifest)), "V1Job")
    spec = job.spec.template.spec
    [container] = spec.containers
    assert container.args[-3:] == ["python", "-m", "prefect.engine"]
    assert {variable.name: variable.value for variable in container.env}["A"] == "b"
    assert container.security_context.run_as_non_root is None and spec.security_context.run_as_non_root
    assert job.spec.template.metadata.labels["team"] == "desk"
    gpu = name == "kubernetes-gpu"
    assert ("nvidia.com/gpu" in container.resources.limits) is gpu
    assert bool(spec.tolerations) is gpu and bool(spec.node_selector) is gpu


def _flow_run() -> Any:
    return FlowRun(flow_id=uuid4(), name="dry")
