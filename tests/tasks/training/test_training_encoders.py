"""Classifiers and embedders over an encoder: each method learns, where it should, and is kept as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from chains.errors import Cancelled, InputInvalid
from chains.spec.finetuning import METHODS_OF
from tasks.training import Hyperparameters, TrainingJob, TrainingResult
from tasks.training.counting import count
from tasks.training.embedding import ApartOrder, Embedding
from tasks.training.learner import Learner
from tasks.training.loop import run
from tasks.training.objective import objective_of
from tasks.training.watching import Watch

# PEFT 0.21 asks transformers 5.23 for a property by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

WIDTH, INNER, BLOCKS, LABELS, VOCABULARY, POSITIONS = 32, 64, 2, 4, 27, 32
BLOCK = 4 * (WIDTH * WIDTH + WIDTH) + 2 * WIDTH * INNER + INNER + WIDTH + 2 * 2 * WIDTH
TOTAL = (VOCABULARY + POSITIONS + 2) * WIDTH + 2 * WIDTH + BLOCKS * BLOCK
HEAD = LABELS * (WIDTH + 1)
TOPICS = ("refund", "delivery", "question", "invoice")
FILLERS = ("my parcel", "the card is late", "help now please", "where is my money", "lost again today")

METHODS: dict[str, tuple[dict[str, Any], int]] = {
    # what is set, and how many parameters of the encoder that trains (by the papers' formulas)
    "full": ({"learning_rate": 3e-3, "max_steps": 60}, TOTAL),
    "transfer": ({"train_last": 1, "learning_rate": 1e-2}, BLOCK),
    "lora": ({"r": 4, "learning_rate": 1e-2}, BLOCKS * 4 * (4 * 2 * WIDTH + 2 * (WIDTH + INNER))),
    "adapter": ({"bottleneck_size": 8, "learning_rate": 2e-2}, BLOCKS * 2 * (2 * 8 * WIDTH + WIDTH + 8)),
    "ia3": ({"learning_rate": 1e-1}, BLOCKS * (3 * WIDTH + INNER)),
}
CASES = [("classification", method) for method in METHODS] + [("embedding", method) for method in METHODS]
each_case = pytest.mark.parametrize(("task", "method"), CASES, ids=[f"{task}-{name}" for task, name in CASES])


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Twenty texts of four topics."""
    return written(
        tmp_path / "labelled.jsonl",
        [{"text": f"{filler} {topic}", "label": topic} for topic in TOPICS for filler in FILLERS],
    )


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Sixteen pairs of texts about one topic."""
    rows = [
        {"anchor": f"{one} {topic}", "positive": f"{topic} {other}", "group": topic}
        for topic in TOPICS
        for one, other in pairwise(FILLERS)
    ]
    return written(tmp_path / "pairs.jsonl", rows)


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


Order = Callable[..., TrainingJob]


@pytest.fixture
def order(tiny_encoder: Path, labelled: Path, pairs: Path) -> Order:
    def make(task: str, method: str, *, validation: Path | None = None, **changed: Any) -> TrainingJob:
        given = METHODS[method][0] if method in METHODS else {"learning_rate": 1.0}
        values: dict[str, Any] = {
            "max_steps": 30, "per_device_train_batch_size": 4, "max_length": 32, "save_steps": 1000,
            **({"head": "random"} if task == "classification" else {}), **given, **changed,
        }  # fmt: skip
        return TrainingJob(
            method=method,  # type: ignore[arg-type]
            task=task,  # type: ignore[arg-type]
            train=str(labelled if task == "classification" else pairs),
            validation=str(validation) if validation else None,
            base=str(tiny_encoder),
            hyperparameters=Hyperparameters(**values),
            threads=1,
        )

    return make


def trained(job: TrainingJob, work: Path, watch: Watch | None = None) -> TrainingResult:
    work.mkdir(exist_ok=True)
    return run(job, work, watch or Watch(lambda _: None, lambda: False))


def loss(job: TrainingJob, learner: Learner) -> float:
    """Mean loss over the training examples, in the order of an evaluation."""
    objective = objective_of(job)
    examples = objective.examples(learner)[0]
    return float(objective.losses(learner, examples).nats.mean())


@each_case
def test_a_method_learns_trains_what_it_should_and_gives_the_same_when_loaded(
    task: str, method: str, order: Order, tiny_encoder: Path, tmp_path: Path
) -> None:
    job = order(task, method)
    objective = objective_of(job)
    untrained = objective.untrained(tmp_path)
    before = loss(job, untrained)
    result = trained(job, tmp_path / "work")

    model = objective.reload(tmp_path / "work" / "model")
    after = loss(job, Learner(model, untrained.tokenizer, []))
    assert after < before - 0.2, f"loss {before:.3f} before, {after:.3f} after"
    head = HEAD if task == "classification" else 0
    assert result.parameters_trained == METHODS[method][1] + head == count(job).trained

    original = load_file(tiny_encoder / "model.safetensors")
    encoder = model.encoder.get_base_model() if job.is_adapter else model.encoder
    inside = {name.replace("base_layer.", ""): value for name, value in encoder.state_dict().items()}
    changed = {name for name, value in inside.items() if name in original and not value.equal(original[name])}
    # A softmax over keys does not see what is added to all of them.
    expected = {name for name in original if not name.startswith("pooler.") and "key.bias" not in name}
    if method == "transfer":
        expected = {name for name in expected if ".layer.1." in name}
    assert {name for name in changed if "key.bias" not in name} == (set() if job.is_adapter else expected)


@each_case
def test_resumed_weights_equal_those_of_a_training_that_never_stopped(
    task: str, method: str, order: Order, tmp_path: Path
) -> None:
    job = order(task, method, max_steps=6, save_steps=2)
    whole = trained(job, tmp_path / "whole")
    steps: list[int] = [0]
    watch = Watch(lambda event: steps.append(event.get("step", 0)), lambda: max(steps) >= 3)
    with pytest.raises(Cancelled):
        trained(job, tmp_path / "cut", watch)
    resumed = trained(job, tmp_path / "cut")
    assert resumed.resumed_from_step == 4
    assert resumed.train_loss == whole.train_loss
    for path in (tmp_path / "whole" / "model").glob("*.safetensors"):
        one, two = load_file(path), load_file(tmp_path / "cut" / "model" / path.name)
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_the_cases_are_all_methods_of_their_tasks() -> None:
    assert METHODS_OF["classification"] == METHODS.keys() | {"linear_probe"}
    assert METHODS_OF["embedding"] == METHODS.keys()


def test_a_linear_probe_is_a_logistic_regression_on_frozen_vectors(
    order: Order, tiny_encoder: Path, labelled: Path, tmp_path: Path
) -> None:
    from sklearn.linear_model import LogisticRegression

    from tasks.embedders import load_embedder
    from tasks.providers.weights import Weights

    job = order("classification", "linear_probe", validation=labelled, C=2.0)
    result = trained(job, tmp_path / "work")
    assert (result.parameters_trained, result.steps) == (HEAD, 1)
    assert result.validation_accuracy == 1.0 and result.gap == 0.0

    rows = [json.loads(line) for line in labelled.read_text().splitlines()]
    model = objective_of(job).reload(tmp_path / "work" / "model")
    embedder = load_embedder(Weights(tiny_encoder, None, "tiny"), name="t", dtype="float32", device="cpu")
    texts = [row["text"] for row in rows]
    ids = embedder.tokenize(texts)
    with torch.inference_mode():
        vectors = torch.cat([model.vectors(torch.tensor([one]), torch.ones(1, len(one))) for one in ids])
    embedded = torch.from_numpy(embedder.encode(ids, texts))
    assert torch.allclose(torch.nn.functional.normalize(vectors, dim=1), embedded, atol=1e-6)
    fit = LogisticRegression(C=2.0, max_iter=1000).fit(vectors.numpy(), [row["label"] for row in rows])
    assert model.labels == fit.classes_.tolist()
    assert torch.allclose(model.classifier.weight, torch.from_numpy(fit.coef_).float(), atol=1e-4)


def test_a_head_that_begins_as_a_probe_knows_the_labels_before_the_first_step(
    order: Order, tmp_path: Path
) -> None:
    first = {
        head: trained(
            order("classification", "full", head=head, max_steps=1, learning_rate=1e-6), tmp_path / head
        )
        for head in ("probe", "random")
    }
    assert first["probe"].train_loss < 0.65 * first["random"].train_loss


def test_a_classifier_of_the_same_labels_goes_on_with_its_head(
    order: Order, tmp_path: Path, tiny_encoder: Path
) -> None:
    from dataclasses import replace

    made = trained(order("classification", "full", max_steps=60), tmp_path / "first")
    job = replace(
        order("classification", "full", max_steps=1, learning_rate=1e-6),
        base=str(tmp_path / "first" / "model"),
    )
    assert trained(job, tmp_path / "second").train_loss < made.train_loss + 0.2


def test_two_labels_are_enough_for_a_probe(order: Order, tmp_path: Path) -> None:
    job = order("classification", "linear_probe", C=100.0)
    rows = [row for row in Path(job.train).read_text().splitlines() if "refund" in row or "invoice" in row]
    Path(job.train).write_text("\n".join(rows))
    assert trained(job, tmp_path / "work").train_loss < 0.4


def test_pairs_of_one_group_or_with_one_text_are_not_in_one_batch(order: Order, tmp_path: Path) -> None:
    job = order("embedding", "full")
    learner = objective_of(job).untrained(tmp_path)
    found = Embedding(job).examples(learner)[0]
    for epoch in range(5):
        sampler = ApartOrder(found, batch_size=4, seed=epoch)
        sampler.set_epoch(epoch)
        indexes = list(sampler)
        assert sorted(indexes) == list(range(len(found)))
        for at in range(0, len(indexes), 4):
            shared = [found[index].shared for index in indexes[at : at + 4]]
            assert sum(map(len, shared)) == len(frozenset().union(*shared))


def test_the_loss_of_pairs_is_that_of_sentence_transformers(
    order: Order, tiny_encoder: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    job = order("embedding", "full")
    objective = objective_of(job)
    learner = objective.untrained(tmp_path)
    rows = [json.loads(line) for line in Path(job.train).read_text().splitlines()][:4]
    batch = objective.collator(learner)(objective.examples(learner)[0][:4])
    theirs = SentenceTransformer(str(tiny_encoder), device="cpu").eval()
    features = [theirs.preprocess([row[name] for row in rows]) for name in ("anchor", "positive")]
    with torch.inference_mode():
        expected = MultipleNegativesRankingLoss(theirs)(features, torch.arange(4))
        assert learner.model.eval()(**batch)["loss"].item() == pytest.approx(expected.item(), abs=1e-5)
        scores = learner.model.scores(batch)
        again = torch.nn.functional.cross_entropy(scores, torch.arange(4))
    assert again.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_tuned_embedder_is_served_as_it_was_trained(method: str, order: Order, tmp_path: Path) -> None:
    from tasks.embedders import load_embedder
    from tasks.providers.weights import Weights, find_weights
    from tasks.training.classification import padded

    job = order("embedding", method, max_steps=4)
    trained(job, tmp_path / "work")
    folder = tmp_path / "work" / "model"
    weights = (
        Weights(folder, Path(str(job.base)), sha256=str(tmp_path))
        if job.is_adapter
        else find_weights(str(folder), revision=None, store=None)  # type: ignore[arg-type]
    )
    assert weights.is_embedder and not weights.is_classifier
    served = load_embedder(weights, name="tuned", dtype="float32", device="cpu")
    model = objective_of(job).reload(folder).eval()
    for text in ("my parcel refund", "where is my invoice please help now"):
        ids = served.tokenize([text])
        batch = padded([np.asarray(ids[0], dtype=np.int32)], pad_id=0)
        with torch.inference_mode():
            ours = model.parts({name: value[None] for name, value in batch.items()})[0, 0]
        assert torch.allclose(torch.from_numpy(served.encode(ids, [text])[0]), ours, atol=1e-5)


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("classification", {"text": "a"}, "line 21: an example of classification needs 'text' and 'label'"),
        ("classification", {"text": "my " * 40, "label": "refund"}, "line 21 .42 tokens"),
        ("embedding", {"anchor": "a"}, "line 17: an example of embedding needs 'anchor' and 'positive'"),
        (
            "embedding",
            {"anchor": "a", "positive": "b", "negative": "c"},
            "line 17: 'negative' is in some rows and not in others",
        ),
    ],
)
def test_rows_of_another_form_are_named(
    task: str, row: dict[str, Any], message: str, order: Order, tmp_path: Path
) -> None:
    job = order(task, "full")
    with Path(job.train).open("a") as lines:
        lines.write(json.dumps(row) + "\n")
    with pytest.raises(InputInvalid, match=message):
        trained(job, tmp_path / "work")


def test_a_label_that_is_not_in_the_training_data_is_named(order: Order, tmp_path: Path) -> None:
    other = written(tmp_path / "validation.jsonl", [{"text": "my card", "label": "other"}])
    with pytest.raises(InputInvalid, match="line 1: the label 'other' is not in the training data"):
        trained(order("classification", "full", validation=other), tmp_path / "work")


def test_one_label_is_nothing_to_learn(order: Order, tmp_path: Path) -> None:
    job = order("classification", "full")
    written(Path(job.train), [{"text": "a", "label": "refund"}])
    with pytest.raises(InputInvalid, match="there is one label"):
        trained(job, tmp_path / "work")


def test_an_embedder_learns_from_a_sentence_embedder_only(
    order: Order, tiny_encoder: Path, tmp_path: Path
) -> None:
    import shutil
    from dataclasses import replace

    plain = shutil.copytree(tiny_encoder, tmp_path / "plain")
    (plain / "modules.json").unlink()
    with pytest.raises(InputInvalid, match="is no sentence embedder"):
        trained(replace(order("embedding", "full"), base=str(plain)), tmp_path / "work")


def test_forgetting_of_an_embedder_is_measured_on_general_pairs(
    order: Order, pairs: Path, tmp_path: Path
) -> None:
    from dataclasses import replace

    job = replace(order("embedding", "full"), general=str(pairs))
    result = trained(job, tmp_path / "work")
    assert result.forgetting is not None and result.general_before is not None
    # It is trained on these very pairs, so it knows them better than before.
    assert result.forgetting["high"] < 0 and result.general_before["n"] == 16


def test_labels_with_few_examples_are_warned_of(order: Order, tmp_path: Path) -> None:
    job = order("classification", "linear_probe")
    with Path(job.train).open("a") as lines:
        lines.write(json.dumps({"text": "my app", "label": "app"}) + "\n")
    assert any("1 of 5 labels" in one for one in trained(job, tmp_path / "work").warnings)


@pytest.mark.parametrize("task", ["classification", "embedding"])
def test_training_in_bfloat16_leaves_a_model_that_is_as_it_was_saved(
    task: str, order: Order, tmp_path: Path
) -> None:
    # The saved model is compared in float32 with the one in memory, which would fail within mixed precision.
    result = trained(order(task, "lora", max_steps=8, bf16=True), tmp_path / "work")
    assert result.steps == 8
