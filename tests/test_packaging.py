"""What an installation holds, and what a command loads."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = (
    "prefect",
    "torch",
    "transformers",
    "openai",
    "peft",
    "sentence_transformers",
    "qdrant_client",
    "aiohttp",
)


def modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sorted(sys.modules))"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["check", "support"],
        ["plan", "support"],
        ["graph", "support"],
        ["schema"],
        ["run", "--help"],
    ],
)
def test_quick_commands_load_no_engine_and_no_model_library(arguments: list[str]) -> None:
    code = (
        "from flows.cli import main\n"
        f"sys.argv = ['headrace', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )
    loaded = modules_after(code)
    assert "flows.cli" in loaded
    assert not loaded & set(HEAVY)


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_their_data_and_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "-q",
            "-w",
            str(tmp_path),
            str(ROOT),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("headrace-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"chains", "tasks", "flows"}
    for kept in (
        "chains/py.typed",
        "chains/library/support/chain.yaml",
        "chains/library/starter/model/model.safetensors",
        "flows/inspector/templates/base.html",
        "flows/inspector/static/style.css",
        "flows/inspector/static/htmx.min.js",
        "flows/inspector/static/htmx.LICENSE",
    ):
        assert kept in names
    assert any(name.startswith("chains/library/support/handbook/") for name in names)
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".db"))]
