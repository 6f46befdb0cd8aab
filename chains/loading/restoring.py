"""A chain as a run has kept it: read back from the store's bytes, not from a folder.

Owns nothing but the way back. What the files, references and templates are worth was checked before the run
began, and is not checked again: the files may have changed or gone since.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from chains.errors import ChainInvalid
from chains.loading.chain_file import ChainFile
from chains.loading.validation import validate
from chains.source.document import read_document
from chains.source.findings import Findings


def restore(source: bytes, files: Mapping[str, bytes], path: str | Path) -> ChainFile:
    """Return the chain of these bytes; raise ChainInvalid where this Headrace does not know its language."""
    path = Path(path)
    document = read_document(source, str(path))
    findings = Findings(document, str(path))
    validated = validate(document.value if isinstance(document.value, dict) else {}, findings)
    if problems := findings.all():
        raise ChainInvalid(problems)
    return ChainFile.of(validated.chain, source, files, path=path, marks=document.marks)
