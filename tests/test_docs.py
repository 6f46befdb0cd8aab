"""What the pages show works: their chains load, and their commands and options exist."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer.main

from chains.loading import load
from flows.cli import app

ROOT = Path(__file__).parents[1]
SUPPORT = ROOT / "chains" / "library" / "support"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HAND_WRITTEN = [ROOT / "README.md", ROOT / "docs" / "quickstart.md"]


def chains_of(page: Path) -> list[str]:
    blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(), flags=re.DOTALL)
    return [block for block in blocks if block.startswith("chain:")]


def commands_of(page: Path) -> list[str]:
    found = re.findall(r"^\$ (headrace .*)$", page.read_text(), flags=re.MULTILINE)
    lines = [line.split("   #")[0].strip() for line in found]
    return [part.strip() for line in lines for part in line.split("; ")]


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=lambda page: page.name)
def test_the_chains_of_a_page_load(page: Path, tmp_path: Path) -> None:
    found = chains_of(page)
    assert found
    for number, text in enumerate(found):
        folder = tmp_path / str(number)
        shutil.copytree(SUPPORT, folder)
        (folder / "chain.yaml").write_text(text)
        assert load(folder / "chain.yaml").chain.steps


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)], ids=lambda page: page.name)
def test_the_commands_of_a_page_exist_with_their_options(page: Path) -> None:
    group = typer.main.get_command(app)
    for line in commands_of(page):
        words = shlex.split(line)
        command = group.commands[words[1]]  # type: ignore[attr-defined]
        options = {name for parameter in command.params for name in parameter.opts}
        used = {word.split("=")[0] for word in words[2:] if word.startswith("-")}
        assert used <= options | {"--help"}, line


def test_every_command_is_on_a_page() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    group = typer.main.get_command(app)
    missing = [name for name in group.commands if f"headrace {name}" not in text]  # type: ignore[attr-defined]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
