"""A chain as a run has kept it: read back from the store's bytes, not from a folder.

Owns the way back, also of one that was edited since. What the files, references and templates are worth was
checked before the run began, and is not checked again: the files may have changed or gone since. Of an edited
chain only that counts which was not wrong before the edit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from chains.check import Subject, check
from chains.errors import ChainInvalid, Problem
from chains.loading.chain_file import ChainFile
from chains.loading.validation import validate
from chains.source.document import read_document
from chains.source.findings import Findings

if TYPE_CHECKING:
    from chains.settings import Settings


def restore(source: bytes, files: Mapping[str, bytes], path: str | Path) -> ChainFile:
    """Return the chain of these bytes; raise ChainInvalid where this Headrace does not know its language."""
    path = Path(path)
    document = read_document(source, str(path))
    findings = Findings(document, str(path))
    validated = validate(document.value if isinstance(document.value, dict) else {}, findings)
    if problems := findings.all():
        raise ChainInvalid(problems)
    return ChainFile.of(validated.chain, source, files, path=path, marks=document.marks)


def restore_edited(source: bytes, before: ChainFile, settings: Settings) -> ChainFile:
    """Return a kept chain with other bytes; raise ChainInvalid for what the edit has made wrong."""
    edited = restore(source, before.files, before.path)
    known = {(problem.message, problem.hint) for problem in _problems(before.source, before, settings)}
    found = _problems(source, before, settings)
    if problems := [problem for problem in found if (problem.message, problem.hint) not in known]:
        raise ChainInvalid(problems)
    return edited


def _problems(source: bytes, kept: ChainFile, settings: Settings) -> list[Problem]:
    document = read_document(source, str(kept.path))
    findings = Findings(document, str(kept.path))
    validated = validate(document.value if isinstance(document.value, dict) else {}, findings)
    modules = settings.allowed_modules
    subject = Subject(validated.chain, validated.names, kept.files, str(kept.folder), findings, modules)
    check(subject, root=kept.folder, read_outside=settings.read_outside)
    return findings.all()
