"""The licence of a base model, where its folder says so.

Owns where it is looked for: the front matter of the model card, as model hubs read it, then the licence's own
file. Knows nothing of what a licence allows.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

_FRONT = re.compile(r"\A---\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST = 64 * 1024
_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE")
_OPENINGS = (
    ("apache-2.0", re.compile(r"\s*Apache License\s+Version 2\.0")),
    ("mit", re.compile(r"\s*(The )?MIT License")),
    ("bsd-3-clause", re.compile(r"\s*BSD 3-Clause License")),
)


def licence_of(folder: Path) -> str | None:
    """Return the licence's name, such as `apache-2.0`, or None where the folder does not tell."""
    return _by_card(folder) or _by_file(folder)


def _by_card(folder: Path) -> str | None:
    found = _FRONT.match(_beginning(folder / "README.md"))
    try:
        card = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return None
    if not isinstance(card, dict):
        return None
    name = card.get("license")
    if name == "other":  # then the card gives it a name of its own
        name = card.get("license_name") or name
    # It goes into the front matter of other cards: nothing but a name may.
    return name if isinstance(name, str) and _NAME.fullmatch(name) else None


def _by_file(folder: Path) -> str | None:
    texts = (_beginning(folder / name) for name in _FILES)
    return next((name for text in texts for name, opening in _OPENINGS if opening.match(text)), None)


def _beginning(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_MOST)
    except OSError:
        return ""
