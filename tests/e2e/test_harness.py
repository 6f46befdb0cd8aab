"""`headrace harness`: tasks of lm-eval over a local file, on the starter model and on an endpoint.

Run with: pytest tests/e2e/test_harness.py (those marked slow need the extra `harness`)
"""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest

from chains.errors import EnvironmentLacks, StepFailed
from chains.spec import Model
from tasks.harness import Asked, figures_of, run_task

pytestmark = pytest.mark.e2e
needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="needs the extra `harness` (lm-eval)"
)
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{q}}}}"
doc_to_target: "{{{{a}}}}"
metadata: {{version: 1}}
{more}
"""
CHOICES = "doc_to_choice: [red, green, blue, black]\nmetric_list: [{metric: acc}]"
SAYS = "generation_kwargs: {until: ['@'], max_gen_toks: 8}\nmetric_list: [{metric: exact_match}]"


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    data = tmp_path / "rows.jsonl"
    rows = [{"q": f"Say {word}.", "a": word} for word in ("red", "green", "blue", "black")]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, kind, more in (("pick", "multiple_choice", CHOICES), ("say", "generate_until", SAYS)):
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, kind=kind, more=more, data=data))
    gone = TASK.format(name="gone", kind="generate_until", more=SAYS, data=tmp_path / "none.jsonl")
    (folder / "gone.yaml").write_text(gone)
    return folder


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    nobody: Any = None
    with pytest.raises(EnvironmentLacks, match="is not installed") as caught:
        run_task(Asked("say"), Model(provider="starter"), store=nobody)
    assert caught.value.hint == "Install `headrace[harness]`."


def test_each_metric_has_its_interval_over_rows() -> None:
    rows: list[dict[str, Any]] = [
        {"metrics": ["acc", "bleu"], "acc": float(n < 15), "bleu": ("said", "right")} for n in range(20)
    ]
    rows += [{"metrics": ["acc"], "acc": 1.0, "filter": "strict"}] * 20
    [loose, strict] = figures_of({"t": rows})
    assert (loose["metric"], loose["filter"], loose["value"], loose["n"]) == ("acc", "none", 0.75, 20)
    assert loose["low"] < 0.75 < loose["high"]
    assert (strict["filter"], strict["value"], strict["high"]) == ("strict", 1.0, 1.0)
    assert strict["low"] < 0.9, "twenty of twenty is not certain"


def test_a_score_that_is_no_number_is_never_averaged() -> None:
    with pytest.raises(StepFailed, match="'acc' of a row is not a finite number"):
        figures_of({"t": [{"metrics": ["acc"], "acc": 1.0}, {"metrics": ["acc"], "acc": math.nan}]})


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_harness
def test_a_task_over_a_local_file_runs_on_the_starter_and_on_an_endpoint(desk: Any, tasks: Path) -> None:
    out = desk.folder / "all.json"
    picked = desk.headrace("harness", "pick", "--tasks", str(tasks), "--json", "--out", str(out))
    assert picked.code == 0, picked.err
    [figure] = json.loads(picked.out)["figures"]
    assert (figure["task"], figure["metric"], figure["n"]) == ("pick", "acc", 4)
    assert len(json.loads(out.read_text())["samples"]["pick"]) == 4
    model = ("--model", "openai:m", "--base-url", desk.server.url)
    said = desk.headrace("harness", "say", "--tasks", str(tasks), "--limit", "3", *model)
    assert said.code == 0, said.err
    assert "exact_match" in said.out and said.out.rstrip().endswith("3")
    calls = [line for line in desk.server.ledger() if line["path"].endswith("/chat/completions")]
    assert len(calls) == 3


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_harness
def test_what_is_not_here_is_named_and_not_fetched(desk: Any, tasks: Path) -> None:
    gone = desk.headrace("harness", "gone", "--tasks", str(tasks))
    assert gone.code == 3 and "Nothing is downloaded here" in gone.err
    unknown = desk.headrace("harness", "nothing", "--tasks", str(tasks))
    assert unknown.code == 2 and "lm-eval has no task 'nothing'" in unknown.err
