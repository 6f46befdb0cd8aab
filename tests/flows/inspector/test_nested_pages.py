"""The pages of a run of a chain that runs another for each item: what lies inside what, and what came from where."""

# ruff: noqa: E501 - addresses

from __future__ import annotations

import asyncio
from pathlib import Path

from served import Served
from servers.launch import start

from chains.settings import Settings
from chains.store import open_store
from flows.executor import execute
from flows.prepared import prepare
from flows.request import RunRequest
from flows.units import Direct

MODELS = 'models: {{writer: {{provider: openai, model: m, temperature: 0, base_url: "{url}"}}}}\ndefaults: {{model: writer}}\n'
OUTER = """chain: outer
inputs: {topic: {type: string}}
steps:
  polite: {map: [anna, bert], as: who, chain: inner.yaml, inputs: {name: "{{ who }} on {{ inputs.topic }}"}}
"""
INNER = """chain: inner
inputs: {name: {type: string}}
steps:
  greet: {prompt: "Greet {{ inputs.name }}"}
  close: {prompt: "Close after {{ greet.text }}"}
outputs: {text: "{{ close.text }}"}
"""


def test_steps_of_another_chain_lead_to_each_other_and_their_inputs_to_the_step_that_gave_them(
    tmp_path: Path,
) -> None:
    endpoint = start(tmp_path)
    models = MODELS.format(url=endpoint.url)
    (tmp_path / "outer.yaml").write_text(OUTER + models)
    (tmp_path / "inner.yaml").write_text(INNER + models)
    with open_store(tmp_path / "store") as store:
        asked = RunRequest(chain=str(tmp_path / "outer.yaml"), inputs={"topic": "rain"})
        result = asyncio.run(execute(prepare(asked, store=store, settings=Settings()), Direct()))
        assert result["status"] == "ok", result
        (tmp_path / "inner.yaml").unlink()
        steps = f"/runs/{result['run_id']}/steps"
        served = Served(store)
        try:
            inside = served.ask(f"{steps}/polite/0.json").json()["within"]
            assert [one["place"] for one in inside] == [
                "item 0", "item 1",
                "polite[item 0] · greet", "polite[item 0] · close", "polite[item 1] · greet", "polite[item 1] · close",
            ]  # fmt: skip
            assert all(served.ask(one["href"]).status == 200 for one in inside)
            of_item = served.ask(f"{steps}/polite/0.json?item=1").json()["within"]
            assert [one["place"] for one in of_item] == ["polite[item 1] · greet", "polite[item 1] · close"]
            first, last = (one["href"].replace("/0?", "/0.json?") for one in of_item)
            greet, close = served.ask(first).json(), served.ask(last).json()
            assert greet["template"] == [{"role": "user", "text": "Greet {{ inputs.name }}"}]
            assert greet["sources"] == {"inputs.name": f"{steps}/polite/0"}
            assert close["sources"] == {"greet.text": of_item[0]["href"]}
            assert [stretch["variable"] for stretch in close["messages"][0]["stretches"]] == [
                None,
                "greet.text",
            ]
            assert served.ask(f"{steps}/polite.greet.json").json()["number"] == 2
        finally:
            served.close()
            endpoint.stop()
