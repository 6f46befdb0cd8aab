"""Giving a text one of the labels in the data: an encoder under a head that begins as a linear probe.

Owns the labelled texts, their batches and the probe (arXiv 2202.10054). Knows nothing of methods, checkpoints
or processes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chains.errors import Cancelled, InputInvalid
from tasks.training import forgetting
from tasks.training.batches import LengthGroupedOrder
from tasks.training.examples import read_rows, too_long
from tasks.training.job import TrainingJob
from tasks.training.learner import Learner

if TYPE_CHECKING:
    import numpy as np
    import torch

FEW_OF_A_LABEL = 5
PROBE_BATCH = 64
PROBE_STEPS = 1000


@dataclass(frozen=True, slots=True)
class LabelledText:
    """Token ids of a text and the number of its label."""

    input_ids: np.ndarray
    label: int


@dataclass(frozen=True, slots=True)
class Classification:
    """Cross-entropy over labels."""

    job: TrainingJob

    def untrained(self, work: Path) -> Learner:
        """Load the encoder and put a new head on it, or go on with the head of the same labels."""
        from tasks.training.encoder import TextClassifier, load_classifier, load_encoder
        from tasks.training.learner import check_window

        assert self.job.base is not None, "chains.spec asks for a base"
        base, labels = Path(self.job.base), labels_in(self.job.train)
        if known_labels(base) == labels:
            model, tokenizer = load_classifier(base, None)
        else:
            encoder = load_encoder(base)
            model, tokenizer = TextClassifier(encoder, labels), encoder.tokenizer
        check_window(model.encoder, tokenizer, max_length=self.job.hyperparameters.max_length)
        return Learner(model.train(), tokenizer, [])

    def examples(
        self, learner: Learner
    ) -> tuple[list[LabelledText], list[LabelledText] | None, list[LabelledText]]:
        """Encode the texts of each file; labels are those of the training data."""
        numbers = {label: number for number, label in enumerate(learner.model.labels)}

        def load(path: str) -> list[LabelledText]:
            return _load(path, learner.tokenizer, numbers, max_length=self.job.hyperparameters.max_length)

        return load(self.job.train), load(self.job.validation) if self.job.validation else None, []

    def order(self, train: Sequence[LabelledText]) -> Callable[[int, int], Iterable[int]]:
        """Put texts of similar length into one batch."""
        lengths = [len(example.input_ids) for example in train]
        return lambda batch_size, seed: LengthGroupedOrder(lengths, batch_size=batch_size, seed=seed)

    def collator(self, learner: Learner) -> Callable[[list[LabelledText]], dict[str, Any]]:
        """Pad to the longest of the batch."""
        padding = learner.tokenizer.pad_token_id or 0

        def collate(examples: list[LabelledText]) -> dict[str, Any]:
            import torch

            batch = padded([example.input_ids for example in examples], pad_id=padding)
            return {**batch, "labels": torch.tensor([example.label for example in examples])}

        return collate

    def trainer_options(self) -> dict[str, Any]:
        """Measure accuracy beside the loss."""
        return {
            "preprocess_logits_for_metrics": lambda logits, _: logits.argmax(-1),
            "compute_metrics": lambda said: {"accuracy": float((said.predictions == said.label_ids).mean())},
        }

    def guessing(self, learner: Learner) -> float:
        """Return the loss of equally likely labels."""
        return math.log(len(learner.model.labels))

    def begin(self, learner: Learner, train: Sequence[LabelledText], should_stop: Callable[[], bool]) -> None:
        """Fit the head to the vectors of the untrained encoder; a head of the same labels stays."""
        assert self.job.base is not None, "chains.spec asks for a base"
        given = self.job.hyperparameters
        if given.head == "random" or known_labels(Path(self.job.base)) == learner.model.labels:
            return
        self.fit_probe(learner, train, should_stop)

    def fit_probe(
        self, learner: Learner, train: Sequence[LabelledText], should_stop: Callable[[], bool]
    ) -> None:
        """Fit the head by multinomial logistic regression, with the encoder as it is."""
        import torch
        from sklearn.linear_model import LogisticRegression

        vectors = _vectors(learner, train, self.collator(learner), should_stop)
        fit = LogisticRegression(C=self.job.hyperparameters.C, max_iter=PROBE_STEPS).fit(
            vectors, [example.label for example in train]
        )
        weight, bias = torch.from_numpy(fit.coef_).float(), torch.from_numpy(fit.intercept_).float()
        if len(weight) == 1:  # of two labels scikit-learn keeps the difference
            weight, bias = torch.cat([-weight / 2, weight / 2]), torch.cat([-bias / 2, bias / 2])
        with torch.no_grad():
            learner.model.classifier.weight.copy_(weight)
            learner.model.classifier.bias.copy_(bias)

    def measured(self, learner: Learner, examples: Sequence[LabelledText]) -> tuple[float, float]:
        """Return the mean loss and the accuracy over examples, in evaluation mode."""
        nats, right = self._each(learner, examples)
        return round(float(nats.mean()), 6), round(float(right.mean()), 6)

    def losses(self, learner: Learner, general: Sequence[LabelledText]) -> forgetting.Losses:
        """Measure the loss of each text, in evaluation mode."""
        import numpy as np

        nats, _ = self._each(learner, general)
        return forgetting.Losses(nats, np.ones(len(nats)))

    def _each(self, learner: Learner, examples: Sequence[LabelledText]) -> tuple[np.ndarray, np.ndarray]:
        """Return the loss of each example, and whether its label is the likeliest."""
        import numpy as np
        import torch

        collate, model = self.collator(learner), learner.model
        nats: list[float] = []
        right: list[bool] = []
        was_training = model.training
        model.eval()
        with torch.inference_mode():
            for at in range(0, len(examples), PROBE_BATCH):
                collated = collate(list(examples[at : at + PROBE_BATCH]))
                batch = {name: value.to(model.device) for name, value in collated.items()}
                logits = model(batch["input_ids"], batch["attention_mask"])["logits"]
                labels = batch["labels"]
                nats += torch.nn.functional.cross_entropy(logits, labels, reduction="none").tolist()
                right += (logits.argmax(-1) == labels).tolist()
        model.train(was_training)
        return np.asarray(nats), np.asarray(right)

    def answers(self, model: Any, example: LabelledText) -> torch.Tensor:
        """Return the logits of the labels."""
        batch = padded([example.input_ids], pad_id=0)
        logits: torch.Tensor = model(**{name: value.to(model.device) for name, value in batch.items()})[
            "logits"
        ]
        return logits

    def warnings(self, train: Sequence[LabelledText]) -> list[str]:
        """Name labels with few examples."""
        counts = Counter(example.label for example in train)
        few = sum(count < FEW_OF_A_LABEL for count in counts.values())
        if not few:
            return []
        return [
            f"{few} of {len(counts)} labels have fewer than {FEW_OF_A_LABEL} examples and are hardly learnt. "
            "More examples of these labels would help, or one label for what belongs together."
        ]

    def save(self, learner: Learner, folder: Path) -> None:
        """Write encoder or adapter, head, labels and tokenizer."""
        learner.model.save(folder)
        learner.tokenizer.save_pretrained(folder)

    def reload(self, folder: Path) -> Any:
        """Load the classifier, on its base where it is an adapter."""
        from tasks.training.encoder import load_classifier

        base = Path(self.job.base) if self.job.is_adapter and self.job.base else None
        return load_classifier(folder, base)[0]


def known_labels(folder: Path) -> list[str] | None:
    """Return the labels of a folder that is a classifier."""
    from tasks.classifiers import CLASSIFIER, read_classifier

    return list(read_classifier(folder).labels) if (folder / CLASSIFIER).is_file() else None


def labels_in(path: str) -> list[str]:
    """Return the labels of a file of training examples, sorted; there must be two."""
    found = sorted({_labelled(path, number, row)[1] for number, row in read_rows(path)})
    if len(found) < 2:
        raise InputInvalid(
            f"{path}: there {'is one label' if found else 'are no labels'}: nothing is to be told apart.",
            hint="Give rows with 'text' and 'label', of two labels or more.",
        )
    return found


def padded(rows: Sequence[np.ndarray], *, pad_id: int) -> dict[str, torch.Tensor]:
    """Stack rows of tokens, padded at the end."""
    import torch

    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = torch.from_numpy(row)
        mask[at, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _labelled(path: str, number: int, row: dict[str, Any]) -> tuple[str, str]:
    text, label = row.get("text"), row.get("label")
    if not isinstance(text, str) or not isinstance(label, str | int) or label == "":
        raise InputInvalid(
            f"{path}: line {number}: an example of classification needs 'text' and 'label'; this row has "
            f"{sorted(row)!r:.200}."
        )
    return text, str(label)


def _load(path: str, tokenizer: Any, numbers: dict[str, int], *, max_length: int) -> list[LabelledText]:
    import numpy as np

    lines, texts, labels = [], [], []
    for number, row in read_rows(path):
        text, label = _labelled(path, number, row)
        if label not in numbers:
            raise InputInvalid(
                f"{path}: line {number}: the label {label!r:.100} is not in the training data.",
                hint="Split the rows with `stratify`, or give examples of it.",
            )
        lines.append(number)
        texts.append(text)
        labels.append(numbers[label])
    if not texts:
        raise InputInvalid(f"{path} holds no training examples.", hint="Check the step that wrote it.")
    rows = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
    long = [(line, len(row)) for line, row in zip(lines, rows, strict=True) if len(row) > max_length]
    if long:
        raise too_long(path, long, count=len(rows), max_length=max_length)
    return [
        LabelledText(np.asarray(row, dtype=np.int32), label) for row, label in zip(rows, labels, strict=True)
    ]


def _vectors(
    learner: Learner,
    examples: Sequence[LabelledText],
    collate: Callable[[list[LabelledText]], dict[str, Any]],
    should_stop: Callable[[], bool],
) -> np.ndarray:
    """Return the encoder's vector of each text, in the order of the examples."""
    import numpy as np
    import torch

    model = learner.model
    was_training = model.training
    model.eval()
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].input_ids))
    found = np.empty((len(examples), model.classifier.in_features), dtype=np.float32)
    with torch.inference_mode():
        for at in range(0, len(order), PROBE_BATCH):
            if should_stop():
                raise Cancelled("Training was stopped before its first step.")
            chosen = order[at : at + PROBE_BATCH]
            batch = collate([examples[index] for index in chosen])
            vectors = model.vectors(
                batch["input_ids"].to(model.device), batch["attention_mask"].to(model.device)
            )
            found[chosen] = vectors.float().cpu().numpy()
    model.train(was_training)
    return found
