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
from chains.inside import every_step
from chains.loading.chain_file import ChainFile
from chains.loading.inner_chains import files_of, kept_name
from chains.loading.validation import validate
from chains.source.document import read_document
from chains.source.findings import Findings
from chains.spec import Chain, ChainStep

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
    chains = _inner_chains(validated.chain, files, path)
    return ChainFile.of(validated.chain, source, files, path=path, marks=document.marks, chains=chains)


def _inner_chains(chain: Chain, files: Mapping[str, bytes], path: Path) -> dict[str, ChainFile]:
    """Return the chains that steps run, from the files that were kept with the chain around them."""
    found: dict[str, ChainFile] = {}
    for placed in every_step(chain):
        if isinstance(placed.step, ChainStep) and kept_name(placed.step.chain) in files:
            text = placed.step.chain
            name = kept_name(text)
            found[text] = restore(files[name], files_of(text, files), path.parent / name)
    return found


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
    subject = Subject(
        validated.chain, validated.names, kept.files, str(kept.folder), findings, modules, kept.chains
    )
    check(subject, root=kept.folder, read_outside=settings.read_outside)
    return findings.all()
