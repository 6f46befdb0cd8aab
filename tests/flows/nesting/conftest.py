"""A chain in a folder of its own whose Python steps note each call, run in this process without Prefect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from chains.settings import Settings
from chains.store import RecordRow, Store, open_store
from flows.executor import execute
from flows.prepared import prepare
from flows.request import Resume, RunRequest
from flows.units import Direct
from tasks.context import Progress

CODE = '''
"""Steps that note each call, and fail where a file says so."""
import asyncio, json, os, pathlib

HERE = pathlib.Path(__file__).parent
AT_ONCE = [0]

def _note(name, value):
    with (HERE / "calls.jsonl").open("a") as file:
        file.write(json.dumps([name, value]) + "\\n")
    if (HERE / f"fail-{name}-{value}").exists():
        raise ValueError(f"{name} of {value!r} is to fail")

def same(value):
    _note("same", value)
    return value

def up(value):
    _note("up", value)
    return {"text": str(value).upper()}

def add(value, other):
    _note("add", value)
    return {"sum": value + other}

async def slowly(value):
    AT_ONCE[0] += 1
    most = AT_ONCE[0]
    await asyncio.sleep(0.01)
    AT_ONCE[0] -= 1
    return {"most": most}

def letters(value):
    yield from value

async def later(value):
    for part in value:
        await asyncio.sleep(0)
        yield part
'''


@dataclass
class Workshop:
    """A folder with a chain, the code of its Python steps, and a store."""

    folder: Path
    store: Store
    told: list[Progress] = field(default_factory=list)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run(self, text: str, **inputs: Any) -> dict[str, Any]:
        """Run a chain for one row; return what the run ended with."""
        path = self.write("chain.yaml", text)
        return self._execute(RunRequest(chain=str(path), inputs=inputs))

    def run_rows(self, text: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        path = self.write("chain.yaml", text)
        data = self.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        return self._execute(RunRequest(chain=str(path), data=str(data)))

    def resume(self, run_id: str) -> dict[str, Any]:
        return self._execute(Resume(run_id))

    def fail(self, *names: str) -> None:
        """Let the calls of these names and values fail, as in `up-b`; with none, let all go well."""
        for path in self.folder.glob("fail-*"):
            path.unlink()
        for name in names:
            (self.folder / f"fail-{name}").touch()

    def calls(self) -> list[list[Any]]:
        """Return the calls since the last time, each as its function and first argument."""
        path = self.folder / "calls.jsonl"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
        return sorted(found, key=str)

    def records(self, result: dict[str, Any], step: str, row: int = 0) -> list[RecordRow]:
        return self.store.records(result["run_id"], step, rows=[row], within=True)

    def output(self, result: dict[str, Any], step: str, row: int = 0) -> Any:
        record = self.store.record(result["run_id"], step, row)
        assert record is not None and record.output is not None, record
        return json.loads(record.output)

    def error(self, result: dict[str, Any], step: str, row: int = 0) -> str:
        record = self.store.record(result["run_id"], step, row)
        assert record is not None and record.error is not None, record
        return str(json.loads(record.error)["message"])

    def _execute(self, asked: RunRequest | Resume) -> dict[str, Any]:
        settings = Settings(store=str(self.store.path))
        self.told.clear()
        run = prepare(asked, store=self.store, settings=settings)
        return asyncio.run(execute(run, Direct(), self.told.append))


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    folder = tmp_path / "chain"
    folder.mkdir()
    (folder / "code.py").write_text(CODE)
    store = open_store(tmp_path / "store")
    yield Workshop(folder, store)
    store.close()


@pytest.fixture
def problems(tmp_path: Path) -> Callable[..., list[str]]:
    """Return the problems of a chain, and of the files beside it."""
    from chains.errors import ChainInvalid
    from chains.loading import load

    def of(text: str, **files: str) -> list[str]:
        (tmp_path / "code.py").write_text(CODE)
        for name, content in files.items():
            (tmp_path / name.replace("__", ".")).write_text(content)
        (tmp_path / "chain.yaml").write_text(text)
        try:
            load(tmp_path / "chain.yaml")
        except ChainInvalid as error:
            return [str(problem).removeprefix(f"{tmp_path}/") for problem in error.problems]
        return []

    return of
