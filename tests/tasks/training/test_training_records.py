"""What a training leaves for people: the picture of its losses and the licence of its base.

Run with: pytest tests/tasks/training/test_training_records.py
"""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tasks.providers.starter import starter_weights
from tasks.training import Hyperparameters, TrainingJob, TrainingResult
from tasks.training.card import Origin, write_card
from tasks.training.licence import licence_of
from tasks.training.pictures import losses_svg

SVG = "{http://www.w3.org/2000/svg}"


def points(picture: str) -> list[int]:
    found = ElementTree.fromstring(picture).iter(f"{SVG}polyline")
    return [len(line.attrib["points"].split()) for line in found]


def test_losses_are_drawn_with_a_line_for_each_kind() -> None:
    curve = [{"step": step, "loss": 3 / step, "learning_rate": 1e-3} for step in range(1, 31)]
    history = [
        {"step": step, "train_loss": 3 / step, "validation_loss": 4 / step} for step in range(10, 31, 10)
    ]
    picture = losses_svg(curve, history)
    assert picture is not None and points(picture) == [30, 3, 3]
    words = [item.text for item in ElementTree.fromstring(picture).iter(f"{SVG}text")]
    assert {"loss of each step", "training examples", "validation examples", "step 30", "3"} <= set(words)
    alone = losses_svg(curve, [])
    assert alone is not None and points(alone) == [30]


def test_a_loss_that_is_no_number_is_left_out_and_one_point_is_no_curve() -> None:
    curve = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": math.nan}, {"step": 3, "loss": 1.0}]
    picture = losses_svg(curve, [])
    assert picture is not None and points(picture) == [2] and "nan" not in picture
    assert losses_svg(curve[:2], []) is None and losses_svg([], []) is None


@pytest.mark.parametrize(
    ("files", "licence"),
    [
        ({"README.md": "---\ntags: [a]\nlicense: mit\n---\n# A model\n"}, "mit"),
        ({"README.md": "---\nlicense: other\nlicense_name: llama4\n---\n"}, "llama4"),
        ({"README.md": "---\nlicense: [mit, gpl]\n---\n"}, None),
        ({"README.md": '---\nlicense: "mit\\ntags: [evil]"\n---\n'}, None),
        ({"README.md": "---\nlicense: : :\n---\n"}, None),
        ({"README.md": "# no front matter\nlicense: mit\n"}, None),
        ({"LICENSE": "\n            Apache License\n        Version 2.0, January 2004\n"}, "apache-2.0"),
        ({"README.md": "# none\n", "LICENSE.txt": "MIT License\n\nCopyright"}, "mit"),
        ({"LICENSE": "All rights reserved."}, None),
        ({}, None),
    ],
)
def test_the_licence_of_a_base_is_what_its_folder_says(
    files: dict[str, str], licence: str | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert licence_of(tmp_path) == licence


def test_the_card_of_a_model_states_the_licence_of_its_base_and_hands_it_on(tmp_path: Path) -> None:
    folder = starter_weights().folder
    job = TrainingJob("lora", "train.jsonl", Hyperparameters(learning_rate=1e-3), base=str(folder))
    result = TrainingResult(3, 1.0, None, 30, 1.0, 100, 10)
    origin = Origin("starter", {"train": "0" * 64}, "c", "s", {}, licence=licence_of(folder))
    card = write_card("tuned", job, result, origin)
    assert "\nlicense: apache-2.0\n---\n" in card and "| licence of the base | apache-2.0 |" in card
    (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path) == "apache-2.0", "what is trained on this model says so, too"
    unknown = write_card("tuned", job, result, Origin("x", {}, "c", "s", {}))
    assert "license:" not in unknown and "| licence of the base | not known |" in unknown
