"""Which ids, hashes and paths the store takes.

Owns the patterns that keep an id, a blob or a file of a model inside the store's folder.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Final

from chains.errors import InputInvalid

_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_STEP: Final = re.compile(r"(?=.{1,64}\Z)[a-z0-9][a-z0-9_-]*(\.[a-z0-9][a-z0-9_-]*)*")
LONGEST_STEP: Final = 64
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def checked_id(value: str, what: str = "id") -> str:
    """Return `value` if it is a valid id; no id can hold a dot, a slash or a NUL."""
    if not isinstance(value, str) or not is_id(value):
        raise InputInvalid(
            f"{str(value)[:200]!r} is no valid {what}.",
            hint="Use 1 to 64 of a-z, 0-9, _ and -, beginning with a letter or digit.",
        )
    return value


def is_id(value: object) -> bool:
    """Tell whether `value` is a valid id."""
    return isinstance(value, str) and _matches(value)


def checked_step(value: str, what: str = "step") -> str:
    """Return `value` if it is the name of a step: ids with dots between, for steps inside steps."""
    if not isinstance(value, str) or not is_step(value):
        raise InputInvalid(
            f"{str(value)[:200]!r} is no valid {what}.",
            hint=f"Use up to {LONGEST_STEP} of a-z, 0-9, _ and -, and dots between the names of steps.",
        )
    return value


def is_step(value: object) -> bool:
    """Tell whether `value` is the name of a step."""
    return isinstance(value, str) and (_matches(value) or _STEP.fullmatch(value) is not None)


@lru_cache(maxsize=4096)
def _matches(text: str) -> bool:
    """Tell whether a text is an id. Each id of a run is written several times within a short while."""
    return _ID.fullmatch(text) is not None


def is_sha256(value: object) -> bool:
    """Tell whether `value` is a sha256 in lower-case hex."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def checked_sha256(value: str) -> str:
    """Return `value` if it is a sha256 in lower-case hex."""
    if not is_sha256(value):
        raise InputInvalid(f"{str(value)[:200]!r} is no sha256.", hint="A blob is named by 64 hex digits.")
    return value


def checked_relative_path(value: str) -> PurePosixPath:
    """Return `value` as a path that stays below the folder it is joined to."""
    path = PurePosixPath(value)
    parts = value.split("/")
    if path.is_absolute() or any(part in {"", ".", ".."} for part in parts) or set(value) & {"\0", "\\", ":"}:
        raise InputInvalid(
            f"{value[:200]!r} is no path inside a folder.",
            hint="Use a relative path with forward slashes and without '..'.",
        )
    return path
