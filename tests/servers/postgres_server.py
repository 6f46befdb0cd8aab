"""A private PostgreSQL server in a folder of its own, on a free port."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers.ports import free_port

_PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def missing() -> str | None:
    """Say why no server can be started on this machine, or None."""
    if _program("initdb") is None:
        return "PostgreSQL is not installed (apt-get install postgresql)"
    if os.geteuid() == 0 and "postgres" not in {user.pw_name for user in pwd.getpwall()}:
        return "PostgreSQL does not run as root, and there is no user `postgres`"
    return None


@contextmanager
def temporary_postgres() -> Iterator[str]:
    """Run a server in a folder that goes with it; a test is skipped where there is none to run."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    # Not below pytest's own folder, which the server's user cannot enter.
    with tempfile.TemporaryDirectory(prefix="headrace-postgres-") as folder:
        Path(folder).chmod(0o755)
        with postgres_server(Path(folder) / "server") as url:
            yield url


@contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """Run a server whose files are in `folder`; give its address without a database."""
    user = _user()
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, user.pw_uid, user.pw_gid)
    data, port = folder / "data", free_port()
    _run(user, "initdb", "-D", data, "-U", "headrace", "--auth=trust", "--locale=C.UTF-8", "--no-sync")
    settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c shared_buffers=16MB"
    # Nobody pulls the plug of a test; what is tested is the order of things and not the disk.
    settings += " -c fsync=off -c synchronous_commit=off -c max_connections=60"
    _run(user, "pg_ctl", "-D", data, "-w", "-t", "60", "-l", folder / "log", "-o", settings, "start")
    try:
        yield f"postgresql://headrace@127.0.0.1:{port}"
    finally:
        _run(user, "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")


def restart(folder: Path) -> None:
    """Stop the server at once, as a crash would, and start it again with the same settings."""
    _run(_user(), "pg_ctl", "-D", folder / "data", "-m", "immediate", "-w", "-l", folder / "log", "restart")


def _user() -> pwd.struct_passwd:
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([*map(str, _PLACES), os.environ.get("PATH", "")]))


def _run(user: pwd.struct_passwd, program: str, *arguments: object) -> None:
    found = _program(program)
    assert found is not None
    done = subprocess.run(
        [found, *map(str, arguments)],
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        cwd="/",
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # the server inherits it, and would keep a pipe open for ever
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, f"{program} ended with {done.returncode}"
