"""The five workflow patterns that ship as chains, each run against an endpoint whose answers are chosen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.launch import Running, start

from chains.loading import find_chain, load
from chains.settings import Settings
from chains.store import open_store
from flows.executor import execute
from flows.prepared import prepare
from flows.request import RunRequest
from flows.units import Direct

Play = Callable[..., tuple[dict[str, Any], list[str]]]


def says(text: Any, *, match: str, **rule: Any) -> dict[str, Any]:
    """Return a rule by which a request that holds `match` is answered with a text, or a value as JSON."""
    answer = text if isinstance(text, str) else json.dumps(text)
    return {"match": match, "fault": "changed", "text": answer, **rule}


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    """Run a shipped chain for one row; return what the run ended with, and the last message of each call."""
    servers: list[Running] = []

    def run(name: str, *script: dict[str, Any], **inputs: Any) -> tuple[dict[str, Any], list[str]]:
        folder = tmp_path / str(len(servers))
        folder.mkdir()
        servers.append(start(folder, script))
        models = load(find_chain(name)).chain.models
        request = RunRequest(
            chain=name,
            inputs=inputs,
            models=tuple(f"{model}=openai:test-model" for model in models),
            base_url=servers[-1].url,
        )
        with open_store(folder / "store") as store:
            prepared = prepare(request, store=store, settings=Settings(store=str(store.path)))
            done = asyncio.run(execute(prepared, Direct()))
        asked = [json.loads(line["raw"])["messages"][-1]["content"] for line in servers[-1].ledger()]
        assert done["status"] == "ok", done
        return done, asked

    yield run
    for server in servers:
        server.stop()


def test_prompt_chaining_goes_on_only_from_an_outline_that_is_long_enough(play: Play) -> None:
    outline = says({"points": ["rain", "mills"]}, match="Write an outline")
    article = says("Rain drives mills.", match="Write a short article")
    done, asked = play("chaining", outline, article, says("Mills", match="a title"), topic="water", points=2)
    assert done["outputs"] == {
        "outline": ["rain", "mills"],
        "title": "Mills",
        "article": "Rain drives mills.",
    }
    assert "1. rain" in asked[1] and "2. mills" in asked[1] and "Rain drives mills." in asked[2]
    done, asked = play("chaining", outline, topic="water", points=3)
    assert done["outputs"] == {"outline": ["rain", "mills"], "title": "", "article": ""}
    assert len(asked) == 1


@pytest.mark.parametrize("kind", ["complaint", "question", "other"])
def test_routing_answers_with_the_prompt_of_the_kind(play: Play, kind: str) -> None:
    sorted_as = says({"kind": kind}, match="Is this message")
    done, asked = play("routing", sorted_as, says("So be it.", match="Where is it"), message="Where is it?")
    assert done["outputs"] == {"kind": kind, "answer": "So be it."}
    assert len(asked) == 2
    begins = {"complaint": "Answer this complaint", "question": "Answer this question", "other": "Thank for"}
    assert asked[1].startswith(begins[kind])


def test_sectioning_looks_from_each_side_and_joins_the_findings(play: Play) -> None:
    sides = [says({"problems": [f"bad {side}"]}, match=f"for {side} and") for side in ("tone", "facts")]
    sum_up = says("Two problems.", match="Sum up")
    done, asked = play("sectioning", *sides, sum_up, text="It is.", sides=["tone", "facts"])
    assert done["outputs"] == {"findings": [["bad tone"], ["bad facts"]], "summary": "Two problems."}
    assert len(asked) == 3 and "- bad tone\n- bad facts" in asked[2].replace("\n\n", "\n")


def test_voting_takes_what_most_of_five_say(play: Play) -> None:
    refused = says({"verdict": "refuse"}, match="Does this post", times=2)
    published = says({"verdict": "publish"}, match="Does this post")
    done, asked = play("voting", refused, published, post="Hello.")
    assert done["outputs"] == {"verdict": "publish", "agreement": 0.6}
    assert len(asked) == 5


def test_the_orchestrator_joins_what_the_workers_could_do(play: Play) -> None:
    plan = says({"parts": ["walls", "roof", "door"]}, match="Split this task")
    failed = {"match": "nothing else: roof", "fault": "status", "status": 400}
    workers = [says(f"{part} are up", match=f"nothing else: {part}") for part in ("walls", "door")]
    done, asked = play(
        "orchestrator", plan, failed, *workers, says("A house.", match="Make one"), task="Build."
    )
    assert done["outputs"] == {"parts": ["walls", "roof", "door"], "answer": "A house."}
    assert "walls are up" in asked[-1] and "door are up" in asked[-1] and "part 3" not in asked[-1]


def test_the_optimizer_writes_again_until_the_judge_is_content(play: Play) -> None:
    again = says("a better poem", match="What was wrong with it: too short")
    poor = says({"score": 3, "feedback": "too short"}, match="The text: a poem")
    good = says({"score": 9, "feedback": "fine"}, match="The text: a better poem")
    done, asked = play(
        "optimizer", again, poor, good, says("a poem", match="A poem, please."), request="A poem, please."
    )
    assert done["outputs"] == {"text": "a better poem", "score": 9, "drafts": 2, "good_enough": True}
    assert len(asked) == 4
