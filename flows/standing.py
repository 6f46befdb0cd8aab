"""What `headrace up` keeps standing: a Prefect server, one worker per pool, the deployments of a folder.

Owns the order of starting and stopping and what the children are told by their environment. Knows nothing of
terminals. Invariant: whatever was started here is gone when `close` returns.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from chains.clock import Clock
from chains.errors import EnvironmentLacks
from flows.children import Child
from flows.prefect_server import (
    START_LIMIT_SECONDS,
    PrefectApi,
    configured_url,
    server_command,
    server_environment,
)

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

    from chains.loading import ChainFile
    from flows.deploying import Deployed, Gone

HOST = "127.0.0.1"
SWEEP_SECONDS = 300
STOP_SECONDS, SERVER_STOP_SECONDS = 20.0, 6.0
"""A run that is stopped gives its calls in flight 10 s, and a server waits for its clients; what takes longer
is ended."""

_AUTH, _SERVER_AUTH = "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"
Tell = Callable[[str, str], None]


@dataclass(slots=True)
class Standing:
    """What stands: the API, and the children that were started here, in their order."""

    tell: Tell
    store: str
    api: PrefectApi = field(default_factory=lambda: PrefectApi(""))
    server: Child | None = None
    workers: list[Child] = field(default_factory=list)

    def start_server(self, port: int) -> None:
        """Use the API that is there, else begin to start a server; `wait_for_server` awaits it.

        Raises EnvironmentLacks where the port is taken by something else.
        """
        password = os.environ.get(_SERVER_AUTH)
        if password:
            os.environ.setdefault(_AUTH, password)
        own = f"http://{HOST}:{port}/api"
        configured = (configured_url() or own).replace("//localhost:", f"//{HOST}:")
        self.api = PrefectApi(configured)
        if configured != own or self.api.answers():
            return
        _refuse_taken(port)
        self.server = Child(
            "server", server_command(HOST, port), environment=server_environment(), tell=self.tell
        )

    def wait_for_server(self, stopped: threading.Event) -> None:
        """Return when the API answers, or `stopped` is set. Raises EnvironmentLacks where none does."""
        if self.server is None:
            self.api.wait(lambda _: None)
            return
        clock = Clock()
        begun = clock.monotonic()
        while not stopped.wait(0.2) and not self.api.answers():
            if self.server.ended or clock.monotonic() - begun > START_LIMIT_SECONDS:
                raise EnvironmentLacks(
                    f"the Prefect server did not come up at {self.api.url}.",
                    hint="Its lines are above; `prefect server start` alone may tell more.",
                )
        os.environ["PREFECT_API_URL"] = self.api.url

    def start_worker(self, pool: str, *, limit: int) -> None:
        """Serve a pool with a process worker that runs `limit` flow runs at once."""
        command = ["prefect", "worker", "start", "--pool", pool, "--type", "process", "--limit", str(limit)]
        self._start(pool, ["-m", *command])

    def start_part_worker(self, pool: str) -> None:
        """Serve a pool with `headrace worker`, which does its parts one by one and keeps models loaded."""
        self._start(pool, ["-c", "from flows.cli import main; main()", "worker", "--pool", pool])

    def _start(self, pool: str, arguments: Sequence[str]) -> None:
        from flows.pools import worker_environment

        name = f"{pool}-{socket.gethostname()}-{os.getpid()}"
        command = [sys.executable, *arguments, "--name", name]
        environment = os.environ | worker_environment() | {"HEADRACE_STORE": self.store}
        self.workers.append(Child(pool, command, environment=environment, tell=self.tell))

    def ended(self) -> Child | None:
        """Return a child that has ended although nobody asked it to."""
        children = [*([self.server] if self.server else []), *self.workers]
        return next((child for child in children if child.ended), None)

    def close(self, hurry: threading.Event) -> None:
        """Stop the workers and their runs, then the server. `hurry` ends them at once."""
        for worker in self.workers:
            worker.ask_to_stop()
        for worker in self.workers:
            worker.wait_for_end(STOP_SECONDS, hurry)
        if self.server is not None:
            self.server.ask_to_stop()
            self.server.wait_for_end(SERVER_STOP_SECONDS, hurry)


def accelerators_here() -> list[str]:
    """Return the devices beside the CPU; asked in a process of its own, which torch may fill."""
    code = "from tasks.providers.device import accelerators; print(*accelerators())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []


async def register(
    files: Sequence[ChainFile], folder: Path, *, pools: Sequence[str], gpu_limit: int
) -> tuple[list[Deployed], list[Gone]]:
    """Make the pools, the deployments of the folder's chains and the schedule of the flow `sweep`."""
    from prefect.client.orchestration import get_client

    from flows.deploying import deploy_chains, find_gone
    from flows.pools import ensure_pool

    async with get_client() as client:
        for pool in pools:
            await ensure_pool(client, pool, limit=gpu_limit if pool == "gpu" else None)
        await _schedule_sweep(client, pools[0])
        deployed = await deploy_chains(client, files, pool=pools[0])
        gone = await find_gone(client, folder, [one.chain for one in deployed], prune=False)
    return deployed, gone


async def _schedule_sweep(client: PrefectClient, pool: str) -> None:
    """Have lost runs closed every few minutes; a schedule that somebody has changed stays."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import IntervalSchedule

    from flows.pools import ensure_deployment
    from flows.sweep import sweep

    id_ = await ensure_deployment(client, sweep, "sweep", pool=pool, tags=["headrace"])
    if not await client.read_deployment_schedules(id_):
        often = IntervalSchedule(interval=timedelta(seconds=SWEEP_SECONDS))
        await client.create_deployment_schedules(id_, [DeploymentScheduleCreate(schedule=often)])


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise EnvironmentLacks(
                f"port {port} of this machine is taken by something that is no Prefect server.",
                hint="Stop it, or choose another port with `headrace up --port`.",
            ) from error
