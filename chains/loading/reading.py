"""Read a chain file: every problem of the file and of what it names, at once.

Owns the order of checks: YAML, then shapes, then files, references and the graph together. Runs nothing of
the chain and opens no network.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chains.check import Subject, check
from chains.errors import ChainInvalid, InputInvalid, Location, Problem
from chains.inside import every_step
from chains.loading.chain_file import ChainFile
from chains.loading.inner_chains import FILE_NAME, LIBRARY, kept_files, path_of
from chains.loading.validation import validate
from chains.source.document import MAX_BYTES, read_document, text_problem
from chains.source.files import FileRefused, is_prompt_file, locate, named_files
from chains.source.findings import Findings
from chains.source.imports import imported_files
from chains.source.marks import YamlPath, step_at
from chains.spec import Chain, ChainStep
from chains.suggest import did_you_mean, shown

if TYPE_CHECKING:
    from chains.settings import Settings

_TRUSTING = frozenset({"HEADRACE_READ_OUTSIDE", "HEADRACE_ALLOWED_MODULES"})


def load(path: str | Path, *, settings: Settings | None = None) -> ChainFile:
    """Read and check a chain file; raise ChainInvalid with all problems, InputInvalid when there is none."""
    path = Path(path)
    return load_source(_source_of(path), path, settings=settings)


def _source_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputInvalid(f"the chain file {shown(str(path))} cannot be read: {reason}.") from error


def load_source(source: bytes, path: str | Path, *, settings: Settings | None = None) -> ChainFile:
    """Check a chain file's bytes as if they stood at `path`; its folder is where the files are looked for."""
    return _load(source, Path(path), settings, ())


def _load(source: bytes, path: Path, settings: Settings | None, around: tuple[Path, ...]) -> ChainFile:
    """Load a chain; `around` are the files of the chains that run it, outermost first."""
    document = read_document(source, str(path))
    findings = Findings(document, str(path))
    if not isinstance(document.value, dict):
        if not document.problems:
            findings.at_value((), "a chain file is a mapping of keys.", "Begin with 'chain: NAME'.")
        raise ChainInvalid(findings.all())
    validated = validate(document.value, findings)
    machine = _machine(settings)
    read_outside = machine is not None and machine.read_outside
    files = _read_files(validated.chain, path.parent, findings, read_outside=read_outside)
    modules = machine.allowed_modules if machine is not None else ()
    chains = _read_chains(validated.chain, path, findings, settings=settings, around=(*around, path))
    subject = Subject(validated.chain, validated.names, files, str(path.parent), findings, modules, chains)
    check(subject, root=path.parent, read_outside=read_outside)
    if problems := findings.all():
        raise ChainInvalid(problems)
    files |= kept_files(chains)
    return ChainFile.of(validated.chain, source, files, path=path, marks=document.marks, chains=chains)


def _read_chains(
    chain: Chain, path: Path, findings: Findings, *, settings: Settings | None, around: tuple[Path, ...]
) -> dict[str, ChainFile]:
    """Return the chains that steps run, by the names that the steps give them; the problems are noted."""
    machine = _machine(settings)
    read_outside = machine is not None and machine.read_outside
    chains: dict[str, ChainFile] = {}
    tried: set[str] = set()
    for found in every_step(chain):
        step = found.step
        if not isinstance(step, ChainStep) or step.chain in tried:
            continue
        tried.add(step.chain)
        at = (*found.path, "chain")
        try:
            inner = path_of(step.chain, path.parent, read_outside=read_outside)
            way = _way_round(inner, around)
            if way is not None:
                message = f"step {found.name!r}: the chain runs itself: {way}"
                findings.at_value(at, message, "Take one of these steps away.")
                continue
            chains[step.chain] = _load(_source_of(inner), inner, settings, around)
        except FileRefused as refusal:
            findings.at_value(at, f"step {found.name!r}: {refusal.message}", refusal.hint)
        except InputInvalid as error:
            findings.at_value(at, f"step {found.name!r}: {error.message}", error.hint)
        except ChainInvalid as error:
            for problem in error.problems:
                findings.add(problem)
    return chains


def _way_round(path: Path, around: Sequence[Path]) -> str | None:
    """Return the way from a chain back to itself, where it is one of those around it."""
    resolved = [outer.resolve() for outer in around]
    if path.resolve() not in resolved:
        return None
    way = [*around[resolved.index(path.resolve()) :], path]
    return " -> ".join(_short(outer) for outer in way)


def _short(path: Path) -> str:
    return f"{path.resolve().parent.name}/{path.name}" if path.name == FILE_NAME else path.name


def find_chain(name_or_path: str) -> Path:
    """Return a chain's file, from its path, a folder with `chain.yaml`, or a shipped chain's name."""
    path = Path(name_or_path)
    shipped = {folder.parent.name: folder for folder in sorted(LIBRARY.glob(f"*/{FILE_NAME}"))}
    try:
        if path.is_file():
            return path
        if (path / FILE_NAME).is_file():
            return path / FILE_NAME
    except (OSError, ValueError) as error:
        raise InputInvalid(f"{shown(name_or_path)} is no path.") from error
    if name_or_path in shipped:
        return _shortest(shipped[name_or_path])
    known = [*shipped, *(str(near) for near in _files_beside(path))]
    hint = did_you_mean(name_or_path, known) or "Give the path of a chain file."
    raise InputInvalid(f"there is no chain file and no shipped chain {shown(name_or_path)}.", hint=hint)


def _files_beside(path: Path) -> list[Path]:
    try:
        return sorted([*path.parent.glob("*.yaml"), *path.parent.glob("*.yml")])[:200]
    except (OSError, ValueError):
        return []


def _shortest(path: Path) -> Path:
    """Return a path relative to the working folder where it lies below it, for messages."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else Path(relative)


def _machine(settings: Settings | None) -> Settings | None:
    """Return what the machine allows; its settings are read only where they could say other than no."""
    if settings is None and not os.environ.keys().isdisjoint(_TRUSTING):
        from chains.settings import get_settings

        return get_settings()
    return settings


def _read_files(chain: Chain, folder: Path, findings: Findings, *, read_outside: bool) -> dict[str, bytes]:
    """Return the files that the chain names, and what the Python files among them import from beside them."""
    files: dict[str, bytes] = {}
    todo = [(path, name) for path, name in reversed(list(named_files(chain)))]
    while todo:
        path, name = todo.pop()
        if name in files:
            continue
        content = _read_file(folder, path, name, findings, read_outside=read_outside)
        if content is None:
            continue
        files[name] = content
        if name.endswith(".py"):
            imported = imported_files(name, content)
            todo += [(path, file) for file in imported if (folder / file).is_file()]
    return files


def _read_file(
    folder: Path, path: YamlPath, name: str, findings: Findings, *, read_outside: bool
) -> bytes | None:
    """Return a file's content, or note why it cannot be had."""
    try:
        with locate(folder, name, read_outside=read_outside).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileRefused as refusal:
        findings.at_value(path, f"step {step_at(path)!r}: {refusal.message}", refusal.hint)
        return None
    except OSError as error:
        findings.at_value(
            path, f"step {step_at(path)!r}: the file {shown(name)} cannot be read: {error.strerror}"
        )
        return None
    display = name if str(folder) in ("", ".") else f"{folder}/{name}"
    problem = text_problem(content, display)
    if problem is not None:
        findings.add(problem)
        return None
    if is_prompt_file(name) and "\x00" in content.decode("utf-8"):
        findings.add(Problem(Location(display, 1, 1), "the file holds a NUL character"))
        return None
    return content
