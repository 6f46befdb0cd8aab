"""Which checkpoint a training may go on from.

Owns the test of a checkpoint folder. Knows nothing of training. A checkpoint counts when its
`trainer_state.json`, which is written last, parses and every safetensors header opens.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

_NAME = re.compile(r"^checkpoint-(\d+)$")
# Without these a training could go on, but not in the same way as if it had never stopped.
NEEDED = ("optimizer.pt", "scheduler.pt", "rng_state.pth")


def newest_valid(folder: Path) -> Path | None:
    """Return the newest whole checkpoint in `folder`; half-written ones are renamed to `broken-…`."""
    found = [(int(match[1]), path) for path in _children(folder) if (match := _NAME.match(path.name))]
    for _, path in sorted(found, reverse=True):
        if is_valid(path):
            return path
        path.rename(_free_name(path))
    return None


def is_valid(checkpoint: Path) -> bool:
    """Whether the checkpoint is whole."""
    weights = sorted(checkpoint.glob("*.safetensors"))
    if not weights or not all((checkpoint / name).is_file() for name in NEEDED):
        return False
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all(_opens(path) for path in weights)


def _opens(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as weights:
            return bool(list(weights.keys()))
    except (SafetensorError, OSError):
        return False


def _children(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _free_name(path: Path) -> Path:
    number = 1
    while (target := path.with_name(f"broken-{path.name}-{number}")).exists():
        number += 1
    return target
