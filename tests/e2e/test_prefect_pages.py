"""What people look at in the Prefect UI, read over its API: bars of long steps, links, and what was made."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from servers.prefect_api import artifacts, ask, flow_run

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]

CHAIN = """chain: made
inputs: {{ticket: {{type: string}}}}
models: {{mini: {{provider: openai, model: embedder, base_url: "{url}"}}}}
collections: {{handbook: {{embedder: mini}}}}
steps:
  index: {{embed: handbook/*.md, into: handbook}}
  examples:
    prepare: train.jsonl
    split: {{train: 1, validation: 0, test: 0}}
  tune:
    finetune: scratch
    data: {{train: "{{{{ examples.train }}}}"}}
    architecture:
      {{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
       num_key_value_heads: 1, vocab_size: 320, max_position_embeddings: 64}}
    max_steps: 400
    max_length: 64
    learning_rate: 0.001
    publish: tiny
"""


@pytest.fixture
def maker(make_tuned_desk: Callable) -> Any:
    """A desk whose chain fills a collection, prepares a data set and trains a model for some seconds."""
    desk = make_tuned_desk("gpu")
    desk.environment["HEADRACE_UI_URL"] = "http://desk.example:4300"
    folder = desk.chain.parent
    (folder / "handbook").mkdir()
    (folder / "handbook" / "refunds.md").write_text("# Refunds\n\nWithin ten days.\n")
    desk.chain.write_text(CHAIN.format(url=desk.server.url))
    return desk


def events(url: str, name: str, key: str) -> list[dict[str, Any]]:
    about = {"event": {"name": [name]}, "resource": {"id": [key]}}
    for _ in range(150):
        if found := ask(url, "events/filter", {"filter": about})["events"]:
            return found
        time.sleep(0.2)
    return []


def test_a_training_shows_a_bar_and_what_a_run_made_is_an_asset_with_what_it_was_made_from(
    maker: Any, prefect_url: str
) -> None:
    done = maker.headrace("run", str(maker.chain), "-i", "ticket=x", "--json")
    assert done.code == 0, done.err
    run_id = done.json()["run_id"]
    flow = flow_run(prefect_url, run_id)
    left = {artifact["key"]: artifact for artifact in artifacts(prefect_url, flow["id"])}

    bar = left["made-tune-progress"]
    assert bar["data"] == 100.0 and "step 400/400, loss " in bar["description"]
    assert bar["task_run_id"] is not None
    link = f"http://desk.example:4300/runs/{run_id}"
    assert link in left["made-inspector"]["data"]
    assert f"[Open in the inspector]({link}/steps/tune/once)" in left["made-tune"]["data"]

    folder = maker.chain.parent.resolve()
    wanted = {
        "headrace://collections/handbook": [f"file://{folder}/handbook"],
        "headrace://datasets/made/examples": [f"file://{folder}/train.jsonl"],
        "headrace://models/tiny": ["headrace://datasets/made/examples"],
    }
    for key, sources in wanted.items():
        [event] = [
            found
            for found in events(prefect_url, "prefect.asset.materialization.succeeded", key)
            if found["payload"]["run"] == run_id
        ]
        roles = {found["prefect.resource.role"]: found["prefect.resource.id"] for found in event["related"]}
        assert [
            found["prefect.resource.id"]
            for found in event["related"]
            if found["prefect.resource.role"] == "asset"
        ] == sources
        assert roles["flow-run"] == f"prefect.flow-run.{flow['id']}"
        assert roles["asset-materialized-by"] == "headrace"
        assert event["resource"]["prefect.asset.url"].startswith(f"{link}/steps/")
    assert json.dumps(event["payload"]).count("train_loss") == 1

    # Found again in the store: nothing is made, and nothing is told.
    again = maker.headrace("run", str(maker.chain), "-i", "ticket=x", "--json")
    assert again.code == 0, again.err
    flow = flow_run(prefect_url, again.json()["run_id"])
    assert events(prefect_url, "prefect.flow-run.Completed", f"prefect.flow-run.{flow['id']}")
    told = events(prefect_url, "prefect.asset.materialization.succeeded", "headrace://models/tiny")
    assert again.json()["run_id"] not in {event["payload"]["run"] for event in told}
