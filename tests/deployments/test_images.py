"""The images: what they are built from exists, agrees with pyproject.toml, and runs as nobody special.

No image is built here.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EVERY = pytest.mark.parametrize("kind", ["cpu", "gpu"])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions(kind: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, with continued lines joined."""
    text = (ROOT / "deployments" / f"Dockerfile.{kind}").read_text()
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(words[0], words[2]) for line in lines if (words := line.partition(" ")) and line[:1].isupper()]


def having(kind: str, name: str) -> list[str]:
    return [rest for instruction, rest in instructions(kind) if instruction == name]


@EVERY
def test_bases_are_one_exact_version_of_a_python_that_the_project_takes(kind: str) -> None:
    bases = {base.partition(" ")[0] for base in having(kind, "FROM")}
    [base] = bases
    found = re.fullmatch(r"python:(\d+)\.(\d+)\.\d+-slim-[a-z]+", base)
    assert found and (int(found[1]), int(found[2])) == (3, 11)


@EVERY
def test_everything_is_installed_under_the_constraints_and_extras_exist(kind: str) -> None:
    installs = [line for line in having(kind, "RUN") if "pip install" in line]
    assert len(installs) == 2 and all("-c constraints.txt" in line for line in installs)
    [extras] = re.findall(r"'\.\[([a-z0-9,]+)\]'", installs[-1])
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    assert {"postgres", "s3"} <= set(extras.split(","))
    assert re.search(r"\btorch$", installs[0]), "the build of torch is chosen first, and the rest keeps it"
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    for extra in extras.split(","):
        for requirement in PROJECT["optional-dependencies"][extra]:
            assert re.split(r"[\[<>=]", requirement)[0].lower() in pinned, requirement


@EVERY
def test_what_is_copied_is_there_and_not_ignored(kind: str) -> None:
    kept = (ROOT / "deployments" / f"Dockerfile.{kind}.dockerignore").read_text().splitlines()
    for copied in having(kind, "COPY"):
        if copied.startswith("--from"):
            continue
        *sources, _ = [part for part in copied.split() if not part.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists() and f"!{source}" in kept, source
    assert "deployments/.env" in kept, "secrets stay out of the image"


@EVERY
def test_the_image_runs_as_a_user_without_rights_who_owns_what_is_written(kind: str) -> None:
    assert having(kind, "USER") == ["10001:10001"]
    assert "--uid 10001" in having(kind, "RUN")[-1]
    [environment] = having(kind, "ENV")[-1:]
    for name in ("HF_HOME", "HEADRACE_HOME", "PREFECT_HOME"):
        [place] = re.findall(rf"\b{name}=(\S+)", environment)
        assert place.startswith(("/work", "/models")), f"{name} is on a volume that the user owns"


@EVERY
def test_the_tag_in_comments_and_pools_is_the_version_of_the_project(kind: str) -> None:
    tag = f"headrace-{kind}:{PROJECT['version']}"
    assert tag in (ROOT / "deployments" / f"Dockerfile.{kind}").read_text()
    for pool in ("docker", "kubernetes"):
        assert f'"{tag}"' in (ROOT / "deployments" / "pools" / f"{pool}-{kind}.json").read_text()
