"""Bringing the texts of a pair together: each anchor's positive against all others of its batch.

Owns the pairs, their order and their batches. The loss is MultipleNegativesRankingLoss of
sentence-transformers. Two pairs with a text or a `group` in common do not come into one batch while there are
others: one would be trained away from the other's positive.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chains.errors import InputInvalid
from tasks.training import forgetting
from tasks.training.batches import EpochOrder
from tasks.training.classification import padded
from tasks.training.examples import read_rows, too_long
from tasks.training.job import TrainingJob
from tasks.training.learner import Learner

if TYPE_CHECKING:
    import numpy as np
    import torch

MEASURED_BATCH = 32


@dataclass(frozen=True, slots=True)
class Pair:
    """Token ids of an anchor, its positive and, where there is one, its negative.

    `shared` is what no two pairs of a batch should have in common: the texts and the group.
    """

    texts: tuple[np.ndarray, ...]
    shared: frozenset[str]


class ApartOrder(EpochOrder):
    """A sampler: shuffled, then each batch filled with pairs that share nothing, while there are some."""

    def __init__(self, pairs: Sequence[Pair], *, batch_size: int, seed: int) -> None:
        super().__init__(batch_size=batch_size, seed=seed)
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[int]:
        left = self.rng().permutation(len(self.pairs)).tolist()
        while left:
            batch: list[int] = []
            later: list[int] = []
            taken: set[str] = set()
            for at, index in enumerate(left):
                if len(batch) == self.batch_size:
                    later += left[at:]
                    break
                if taken.isdisjoint(self.pairs[index].shared):
                    batch.append(index)
                    taken |= self.pairs[index].shared
                else:
                    later.append(index)
            if len(batch) < self.batch_size:
                # What is left shares too much to fill a batch: it comes last, as it is.
                yield from batch
                yield from later
                return
            yield from batch
            left = later


@dataclass(frozen=True, slots=True)
class Embedding:
    """Cosine similarities of a batch of pairs, each anchor with its own positive as the answer."""

    job: TrainingJob

    def untrained(self, work: Path) -> Learner:
        """Load the sentence embedder."""
        from tasks.training.learner import check_window
        from tasks.training.pair_encoder import PairEncoder, load_embedder_to_train

        assert self.job.base is not None, "chains.spec asks for a base"
        encoder = load_embedder_to_train(Path(self.job.base))
        check_window(encoder.model, encoder.tokenizer, max_length=self.job.hyperparameters.max_length)
        model = PairEncoder(encoder, scale=self.job.hyperparameters.scale)
        return Learner(model, encoder.tokenizer, [])

    def examples(self, learner: Learner) -> tuple[list[Pair], list[Pair] | None, list[Pair]]:
        """Encode the pairs of each file; those that are not trained on lie in the order of their batches."""
        job, given = self.job, self.job.hyperparameters

        def load(path: str) -> list[Pair]:
            return _load(path, learner.tokenizer, max_length=given.max_length)

        def laid(pairs: list[Pair], size: int) -> list[Pair]:
            return [pairs[index] for index in ApartOrder(pairs, batch_size=size, seed=given.seed)]

        size = given.per_device_train_batch_size
        return (
            load(job.train),
            laid(load(job.validation), size) if job.validation else None,
            laid(load(job.general), MEASURED_BATCH) if job.general else [],
        )

    def order(self, train: Sequence[Pair]) -> Callable[[int, int], Iterable[int]]:
        """Keep pairs with something in common out of one batch."""
        return lambda batch_size, seed: ApartOrder(train, batch_size=batch_size, seed=seed)

    def collator(self, learner: Learner) -> Callable[[list[Pair]], dict[str, Any]]:
        """Stack texts as pairs by parts by tokens."""
        return lambda pairs: stacked(pairs, pad_id=learner.tokenizer.pad_token_id or 0)

    def trainer_options(self) -> dict[str, Any]:
        """Nothing besides the loss is measured."""
        return {}

    def guessing(self, learner: Learner) -> float:
        """Return the loss of equally likely positives."""
        return math.log(self.job.hyperparameters.per_device_train_batch_size)

    def begin(self, learner: Learner, train: Sequence[Pair], should_stop: Callable[[], bool]) -> None:
        """Leave the model as it is: nothing in it is new."""

    def losses(self, learner: Learner, general: Sequence[Pair]) -> forgetting.Losses:
        """Measure the loss of each anchor within batches of 32, in evaluation mode."""
        import numpy as np
        import torch

        collate, model, found = self.collator(learner), learner.model, []
        was_training = model.training
        model.eval()
        with torch.inference_mode():
            for at in range(0, len(general), MEASURED_BATCH):
                batch = collate(list(general[at : at + MEASURED_BATCH]))
                scores = model.scores({name: value.to(model.device) for name, value in batch.items()})
                answers = torch.arange(len(scores), device=scores.device)
                found += torch.nn.functional.cross_entropy(scores, answers, reduction="none").tolist()
        model.train(was_training)
        return forgetting.Losses(np.asarray(found), np.ones(len(found)))

    def answers(self, model: Any, example: Pair) -> torch.Tensor:
        """Return the vectors of the pair's texts."""
        batch = stacked([example], pad_id=0)
        placed = {name: value.to(model.device) for name, value in batch.items()}
        vectors: torch.Tensor = model.parts(placed)[0]
        return vectors

    def warnings(self, train: Sequence[Pair]) -> list[str]:
        """Say where batches cannot be kept apart."""
        size = self.job.hyperparameters.per_device_train_batch_size
        if size == 1:
            return ["With one pair in a batch there is nothing to tell it from: nothing is learnt."]
        return []

    def save(self, learner: Learner, folder: Path) -> None:
        """Write encoder or adapter and tokenizer, and for a whole model the layers after it."""
        learner.model.save_encoder(folder)
        learner.tokenizer.save_pretrained(folder)
        if self.job.is_adapter:
            return
        assert self.job.base is not None, "chains.spec asks for a base"
        copy_layers(Path(self.job.base), folder)

    def reload(self, folder: Path) -> Any:
        """Load the embedder, on its base where it is an adapter."""
        from tasks.training.pair_encoder import PairEncoder, load_embedder_to_train

        assert self.job.base is not None, "chains.spec asks for a base"
        encoder = load_embedder_to_train(Path(self.job.base) if self.job.is_adapter else folder)
        model = PairEncoder(encoder, scale=self.job.hyperparameters.scale)
        if self.job.is_adapter:
            from tasks.training.adapters import load_adapter

            model.encoder = load_adapter(model.encoder, folder)
        return model


def copy_layers(base: Path, folder: Path) -> None:
    """Describe the layers of an embedder as its base does, with the transformer in the folder itself."""
    modules = json.loads((base / "modules.json").read_bytes())
    transformer = base / modules[0]["path"]
    for module in modules[1:]:
        (folder / module["path"]).mkdir(parents=True, exist_ok=True)
        config = base / module["path"] / "config.json"
        if config.is_file():
            shutil.copyfile(config, folder / module["path"] / "config.json")
    modules[0]["path"] = ""
    (folder / "modules.json").write_text(json.dumps(modules, indent=2))
    for source, name in (
        (transformer, "sentence_bert_config.json"),
        (base, "config_sentence_transformers.json"),
    ):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def stacked(pairs: Sequence[Pair], *, pad_id: int) -> dict[str, torch.Tensor]:
    """Stack pairs: the first axis are pairs, the second anchor, positive and negative, the third tokens."""
    flat = padded([text for pair in pairs for text in pair.texts], pad_id=pad_id)
    return {name: value.view(len(pairs), -1, value.shape[-1]) for name, value in flat.items()}


def _load(path: str, tokenizer: Any, *, max_length: int) -> list[Pair]:
    import numpy as np

    lines: list[int] = []
    rows: list[tuple[str, ...]] = []
    shared: list[frozenset[str]] = []
    for number, row in read_rows(path):
        texts = _texts(path, number, row, parts=len(rows[0]) if rows else None)
        group = row.get("group")
        lines.append(number)
        rows.append(texts)
        shared.append(frozenset({*texts, *([f"group {group}"] if group is not None else [])}))
    if not rows:
        raise InputInvalid(f"{path} holds no training examples.", hint="Check the step that wrote it.")
    flat = tokenizer([text for texts in rows for text in texts], truncation=False, verbose=False)["input_ids"]
    parts = len(rows[0])
    encoded = [flat[at : at + parts] for at in range(0, len(flat), parts)]
    longest = [max(len(ids) for ids in texts) for texts in encoded]
    long = [(line, length) for line, length in zip(lines, longest, strict=True) if length > max_length]
    if long:
        raise too_long(path, long, count=len(rows), max_length=max_length)
    return [
        Pair(tuple(np.asarray(ids, dtype=np.int32) for ids in texts), common)
        for texts, common in zip(encoded, shared, strict=True)
    ]


def _texts(path: str, number: int, row: dict[str, Any], *, parts: int | None) -> tuple[str, ...]:
    names = ("anchor", "positive", "negative") if "negative" in row else ("anchor", "positive")
    texts = tuple(row.get(name) for name in names)
    if not all(isinstance(text, str) for text in texts):
        raise InputInvalid(
            f"{path}: line {number}: an example of embedding needs 'anchor' and 'positive' as texts; this "
            f"row has {sorted(row)!r:.200}."
        )
    if parts is not None and len(texts) != parts:
        raise InputInvalid(f"{path}: line {number}: 'negative' is in some rows and not in others.")
    return tuple(str(text) for text in texts)
