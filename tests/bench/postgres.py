"""A private PostgreSQL cluster for the length of a benchmark."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path


def find_initdb() -> Path | None:
    """Return where PostgreSQL's programs are, or None where it is not installed."""
    on_path = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = Path(on_path) if on_path else debian[-1] if debian else None
    return found.parent if found else None


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Yield the URL of an empty database in a cluster with PostgreSQL's own defaults (fsync on)."""
    programs = find_initdb()
    if programs is None:
        raise RuntimeError("PostgreSQL is not installed (`initdb` is nowhere to be found).")
    cluster = folder / "postgres"
    cluster.mkdir()
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(cluster, "postgres", "postgres")
        _open_way(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _as_postgres(programs / "initdb", "-D", cluster, "-U", "bench", "-A", "trust", "--no-instructions")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={cluster}"
    _as_postgres(programs / "pg_ctl", "-D", cluster, "-o", options, "-l", cluster / "log", "-w", "start")
    try:
        yield f"postgresql://bench@127.0.0.1:{port}/postgres"
    finally:
        _as_postgres(programs / "pg_ctl", "-D", cluster, "-m", "immediate", "stop")


def cpu_seconds(folder: Path) -> float:
    """Return the CPU that the cluster in this folder has used: of its processes, and of those that ended."""
    postmaster = (folder / "postgres" / "postmaster.pid").read_text().split()[0]
    used = sum(_times(Path("/proc") / postmaster)[:4])  # with what its children had used when they ended
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if _fields(process)[1] == postmaster:
                used += sum(_times(process)[:2])
    return used / os.sysconf("SC_CLK_TCK")


def _fields(process: Path) -> list[str]:
    """Return what the kernel tells of a process, from its state on."""
    return (process / "stat").read_text().rpartition(")")[2].split()


def _times(process: Path) -> list[int]:
    return [int(ticks) for ticks in _fields(process)[11:15]]


def _as_postgres(*command: str | Path) -> None:
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*user, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/"
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stderr}")


def _open_way(folder: Path) -> None:
    """Let another user walk down to the cluster; temporary folders are closed to others."""
    folder.chmod(folder.stat().st_mode | 0o011)
    if folder.parent.owner() != "root" or folder.parent == Path("/tmp"):
        return
    folder.parent.chmod(folder.parent.stat().st_mode | 0o011)
