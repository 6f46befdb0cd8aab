"""Files that a chain names: which texts are file names, and how they are found inside the chain's folder.

Owns the rule that a chain reads nothing outside its folder unless the machine's settings say so: absolute
paths, `..` and symbolic links that lead out are refused after everything is resolved.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from chains.inside import every_step
from chains.source.marks import YamlPath
from chains.spec import Chain, EvaluateStep, PromptStep, PythonStep
from chains.suggest import did_you_mean, shown
from chains.varying import varied_steps

PROMPT_ENDINGS = (".md", ".txt", ".jinja", ".j2")
MAX_MATCHES = 100_000


class FileRefused(ValueError):
    """A path that leads nowhere or out of the folder; `hint` says what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NamedFile(NamedTuple):
    """A file that is read with the chain: where it is named, and its path below the chain's folder."""

    path: YamlPath
    file: str


def is_prompt_file(text: str) -> bool:
    """Whether a prompt's text is the name of a file: a known ending, and no space, newline or brace."""
    return text.endswith(PROMPT_ENDINGS) and not any(
        character.isspace() or character in "{}" for character in text
    )


def python_file(reference: str) -> str | None:
    """Return the file of `file.py:function`, or None for `package.module:function`."""
    file = reference.rpartition(":")[0]
    return file if file.endswith(".py") else None


def is_allowed_module(module: str, allowed: Iterable[str]) -> bool:
    """Whether a module is one of those that the machine lets a chain import, or inside one."""
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


def named_files(chain: Chain) -> Iterator[NamedFile]:
    """Yield the prompt, schema and Python files that a chain names, in file order."""
    written = [(found.path, found.step) for found in every_step(chain)]
    for at, step in [*written, *varied_steps(chain)]:
        if isinstance(step, PromptStep):
            for path, _, text in prompt_texts(step, at):
                if is_prompt_file(text):
                    yield NamedFile(path, text)
            if isinstance(step.output, str):
                file = step.output if step.output.endswith(".json") else python_file(step.output)
                if file:
                    yield NamedFile((*at, "output"), file)
        elif isinstance(step, PythonStep) and (file := python_file(step.python)):
            yield NamedFile((*at, "python"), file)
        elif isinstance(step, EvaluateStep):
            for place, check in enumerate(step.checks):
                if check.python is not None and (file := python_file(check.python)):
                    yield NamedFile((*at, "checks", place, "python"), file)


def prompt_texts(step: PromptStep, at: YamlPath) -> Iterator[tuple[YamlPath, str, str]]:
    """Yield the place, the role and the text (or file name) of each message."""
    if isinstance(step.prompt, str):
        yield (*at, "prompt"), "user", step.prompt
        return
    for index, message in enumerate(step.prompt):
        for role, text in message.items():
            yield (*at, "prompt", index, role), role, text


def locate(folder: Path, name: str, *, read_outside: bool) -> Path:
    """Return the path of an existing file named in a chain; raise FileRefused for any other."""
    path = inside(folder, name, read_outside=read_outside)
    try:
        if path.is_file():
            return path
        is_folder = path.is_dir()
    except OSError as error:
        raise FileRefused(f"the file {shown(name)} cannot be read: {error.strerror}") from error
    if is_folder:
        raise FileRefused(f"{shown(name)} is a folder, not a file")
    raise FileRefused(f"there is no file {shown(name)} in the chain's folder", _near_files(path))


def expand(folder: Path, pattern: str, *, read_outside: bool) -> list[Path]:
    """Return the files that a glob matches, sorted; raise FileRefused when one leads out or none is there."""
    if not glob.has_magic(pattern):
        return [locate(folder, pattern, read_outside=read_outside)]
    _refuse_spelling(pattern, read_outside=read_outside)
    matches: list[Path] = []
    # The folder's own name may hold glob characters: it is the root, never part of the pattern.
    for name in glob.iglob(pattern, root_dir=folder, recursive=True):
        path = inside(folder, name, read_outside=read_outside)
        if path.is_file():
            matches.append(path)
        if len(matches) > MAX_MATCHES:
            raise FileRefused(f"{shown(pattern)} matches more than {MAX_MATCHES} files")
    if not matches:
        raise FileRefused(f"{shown(pattern)} matches no file in the chain's folder")
    return sorted(matches)


def inside(folder: Path, name: str, *, read_outside: bool) -> Path:
    """Return the path of a name, there or not; raise FileRefused where it leads out of the folder."""
    _refuse_spelling(name, read_outside=read_outside)
    try:
        root = folder.resolve()
        path = (root / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        raise FileRefused(f"{shown(name)} is no path that can be followed") from error
    if not read_outside and not path.is_relative_to(root):
        raise _leads_out(name)
    return path


def _refuse_spelling(name: str, *, read_outside: bool) -> None:
    if not name.strip() or "\x00" in name:
        raise FileRefused(f"{shown(name)} is no file name")
    parts = name.replace("\\", "/").split("/")
    if not read_outside and (os.path.isabs(name) or ".." in parts):
        raise _leads_out(name)


def _leads_out(name: str) -> FileRefused:
    return FileRefused(
        f"{shown(name)} leads out of the chain's folder",
        "Put the file into the folder; HEADRACE_READ_OUTSIDE on this machine decides about others.",
    )


def _near_files(path: Path) -> str | None:
    try:
        names = sorted(entry.name for entry in os.scandir(path.parent) if entry.is_file())
    except OSError:
        return None
    hint = did_you_mean(path.name, names[:1000])
    return hint if hint and hint.startswith("Did") else None
