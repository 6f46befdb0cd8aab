"""Where the inspector's pages are: the paths that its own links and those of others use.

Owns the form of an address and nothing else, so that Prefect's artifacts can link to a page without loading
the inspector.
"""

from __future__ import annotations

from urllib.parse import quote


def run_path(run_id: str) -> str:
    """Return the address of a run's page."""
    return f"/runs/{quote(run_id, safe='')}"


def step_path(run_id: str, step: str) -> str:
    """Return the address of a step's page."""
    return f"{run_path(run_id)}/steps/{quote(step, safe='')}"


def record_path(run_id: str, step: str, row: int | None) -> str:
    """Return the address of a record's page."""
    place = "once" if row is None or row < 0 else str(row)
    return f"{step_path(run_id, step)}/{place}"
