"""The chains that a chain's steps run: where they are, and what is kept of them with the chain around.

Owns the names under which these bytes are kept, so that a run can be read back without any folder. Knows
nothing of what a chain says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from chains.loading.chain_file import ChainFile
from chains.source.files import FileRefused, locate
from chains.suggest import did_you_mean, shown

LIBRARY = Path(__file__).resolve().parents[1] / "library"
FILE_NAME = "chain.yaml"
_SHIPPED = "@"
"""What the files of a shipped chain are kept below, with its name: no file of a folder is named so."""


def is_chain_file(text: str) -> bool:
    """Whether a step names a chain by its file, and not one that is shipped by its name."""
    return "/" in text or text.endswith((".yaml", ".yml"))


def path_of(text: str, folder: Path, *, read_outside: bool) -> Path:
    """Return the file of the chain that a step names; raise FileRefused where there is none."""
    if is_chain_file(text):
        return locate(folder, text, read_outside=read_outside)
    shipped = {found.parent.name: found for found in sorted(LIBRARY.glob(f"*/{FILE_NAME}"))}
    if text not in shipped:
        hint = did_you_mean(text, shipped) or "Write the path of a chain file, such as sub/chain.yaml."
        raise FileRefused(f"there is no shipped chain {shown(text)}", hint)
    return shipped[text]


def kept_name(text: str) -> str:
    """Return the name under which a chain's own bytes are kept among the files of the chain around it."""
    return text if is_chain_file(text) else f"{_SHIPPED}{text}/{FILE_NAME}"


def folder_of(text: str) -> str:
    """Return what the names of a chain's files begin with among the files of the chain around it."""
    parent = PurePosixPath(kept_name(text)).parent
    return "" if str(parent) == "." else f"{parent}/"


def kept_files(chains: Mapping[str, ChainFile]) -> dict[str, bytes]:
    """Return the bytes of chains and of all their files, as the chain around them keeps them."""
    found: dict[str, bytes] = {}
    for text, chain_file in chains.items():
        found[kept_name(text)] = chain_file.source
        found |= {f"{folder_of(text)}{name}": content for name, content in chain_file.files.items()}
    return found


def files_of(text: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a chain from those that the chain around it has kept."""
    start = folder_of(text)
    return {name.removeprefix(start): content for name, content in files.items() if name.startswith(start)}
