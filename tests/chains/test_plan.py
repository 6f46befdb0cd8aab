"""A plan says the order, shards, bounds and reuse of a run before anything is paid for."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chains.loading import ChainFile, load
from chains.plan import Plan, PlannedStep, make_plan
from chains.settings import Settings
from chains.spec import Budget
from chains.store import RunRow, open_store

CHAIN = """
chain: sample
inputs: {ticket: {type: string}}
models:
  writer: {provider: openai, model: gpt-5-mini, temperature: 0.2}
  judge: {provider: openai, model: gpt-5, temperature: 0}
  free: {provider: openai, model: gpt-5}
  small: {provider: starter, pool: gpu}
  mini: {provider: local, model: some/embedder}
collections: {handbook: {embedder: mini}}
defaults: {model: writer}
steps:
  score: {evaluate: {prediction: "{{ triage.intent }}", reference: "{{ row.intent }}"}}
  index: {embed: data/*.md, into: handbook}
  triage: {prompt: "Sort: {{ inputs.ticket }}", output: {intent: string}, reask: 2}
  passages: {retrieve: handbook, query: "{{ inputs.ticket }}", when: triage.intent == "refund"}
  grade: {prompt: "Grade {{ passages.hits | default([]) }}", model: judge}
  free: {prompt: "Hi", model: free}
  local: {prompt: "Hi", model: small}
  often: {prompt: "Hi", samples: 5, quorum: 3}
  code: {python: "work.py:run"}
  vector: {embed: "{{ inputs.ticket }}", model: mini, pool: gpu}
  summary: {prompt: "{{ triage | map(attribute='intent') | list }}", once: true}
"""


@pytest.fixture
def chain_file(tmp_path: Path) -> ChainFile:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.md").write_text("A passage.")
    (tmp_path / "work.py").write_text("def run():\n    return {}\n")
    (tmp_path / "chain.yaml").write_text(CHAIN)
    return load(tmp_path / "chain.yaml")


def plan_of(chain_file: ChainFile, rows: int = 600) -> Plan:
    return make_plan(
        chain_file, rows=rows, inputs_sample={"ticket": "x" * 40}, settings=Settings(), store=None
    )


def step_of(plan: Plan, name: str) -> PlannedStep:
    return next(step for step in plan.steps if step.id == name)


def test_steps_come_after_what_they_need(chain_file: ChainFile) -> None:
    plan = plan_of(chain_file)
    seen: set[str] = set()
    for step in plan.steps:
        assert set(step.needs) <= seen
        seen.add(step.id)
    assert seen == set(chain_file.chain.steps)
    assert step_of(plan, "passages").needs == ("index", "triage")


def test_calls_are_bounded_with_re_asks(chain_file: ChainFile) -> None:
    plan = plan_of(chain_file)
    calls = {step.id: step.calls for step in plan.steps}
    assert calls == {
        "triage": 1800,
        "passages": 600,
        "grade": 600,
        "free": 600,
        "local": 600,
        "often": 3000,
        "vector": 600,
        "summary": 1,
        "index": None,
        "score": 0,
        "code": 0,
    }


def test_tokens_are_estimated_from_templates_and_inputs(chain_file: ChainFile) -> None:
    # "Sort: {{ inputs.ticket }}" is 25 bytes and the sample 40: 65 bytes, 17 tokens.
    assert step_of(plan_of(chain_file), "triage").tokens_in_estimate == 600 * 17
    assert step_of(plan_of(chain_file), "index").tokens_in_estimate is None


def test_reuse_is_said_with_its_reason(chain_file: ChainFile) -> None:
    plan = plan_of(chain_file)
    assert step_of(plan, "triage").reuse == "asked anew: sampled at temperature 0.2"
    assert step_of(plan, "grade").reuse.startswith("deterministic: reused")
    assert step_of(plan, "local").reuse.startswith("deterministic: reused")
    assert "temperature: 0" in step_of(plan, "free").reuse
    assert step_of(plan, "code").reuse.startswith("called anew")


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("always", "reused when the same was asked before"),
        ("run", "asked once"),
        ("never", "asked anew: `cache: never`"),
        ("refresh", "later runs may use it"),
    ],
)
def test_what_the_step_says_of_reuse_goes_before_what_its_model_would_do(
    chain_file: ChainFile, mode: str, said: str
) -> None:
    steps = dict(chain_file.chain.steps)
    for name in ("triage", "grade", "vector"):
        steps[name] = steps[name].model_copy(update={"cache": mode})
    plan = plan_of(replace(chain_file, chain=chain_file.chain.model_copy(update={"steps": steps})))
    assert all(said in step_of(plan, name).reuse for name in ("triage", "grade", "vector"))


def test_a_budget_is_noted(chain_file: ChainFile) -> None:
    chain = chain_file.chain.model_copy(update={"budget": Budget(usd=2, tokens=400_000)})
    notes = plan_of(replace(chain_file, chain=chain)).notes
    assert "the run stops before it uses more than 2.00 USD or 400,000 tokens" in notes


def test_models_and_pools_are_named(chain_file: ChainFile) -> None:
    plan = plan_of(chain_file)
    assert step_of(plan, "triage").model == "writer (openai gpt-5-mini)"
    assert step_of(plan, "local").model == "small (starter)"
    assert step_of(plan, "passages").model == "mini (local some/embedder)"
    assert step_of(plan, "code").model is None
    assert (step_of(plan, "local").pool, step_of(plan, "vector").pool) == ("gpu", "gpu")


def test_notes_say_what_waits_and_where_it_runs(chain_file: ChainFile) -> None:
    assert plan_of(chain_file).notes == [
        "the rows run in 3 shards of up to 256",
        "score runs once, when triage ended for all rows",
        "summary runs once, when triage ended for all rows",
        "local and vector name pool 'gpu': runs on its workers where Prefect has such a pool, "
        "else in this process",
        "calls are upper bounds: a model is asked again only when its answer does not fit",
        "often asks 5 times for each row: the answer that most gave, at least 3 of them",
        "passages: only for rows where `when` holds",
        "tokens are estimated from templates and inputs, without what earlier steps answer",
    ]


@given(st.integers(0, 3000), st.integers(1, 700))
def test_shards_hold_every_row_once_and_in_order(rows: int, size: int) -> None:
    source = b"chain: a\nmodels: {m: {provider: starter}}\nsteps: {s: {prompt: Hi, model: m}}\n"
    from chains.loading import load_source

    plan = make_plan(
        load_source(source, "chain.yaml"),
        rows=rows,
        inputs_sample=None,
        settings=Settings(shard_rows=size),
        store=None,
    )
    assert [row for shard in plan.shards for row in shard] == list(range(rows))
    assert all(0 < len(shard) <= size for shard in plan.shards)


def test_an_earlier_run_of_the_same_chain_and_data_is_named(chain_file: ChainFile, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    try:
        for place, (name, data, status) in enumerate(
            [("old", "d1", "ok"), ("new", "d1", "failed"), ("other", "d2", "ok"), ("on", "d1", "running")]
        ):
            store.put(
                RunRow(
                    id=name,
                    chain="sample",
                    chain_hash=chain_file.hash,
                    source=chain_file.source,
                    data_sha256=data,
                    status=status,  # type: ignore[arg-type]
                    started_at=float(place),
                )
            )
        plan = make_plan(
            chain_file, rows=1, inputs_sample=None, settings=Settings(), store=store, data_sha256="d1"
        )
        assert plan.notes[0].startswith("run new (failed) had the same chain and data")
        alone = make_plan(
            chain_file, rows=1, inputs_sample=None, settings=Settings(), store=store, data_sha256="d3"
        )
        assert not any(note.startswith("run ") for note in alone.notes)
    finally:
        store.close()


def test_a_plan_is_json(chain_file: ChainFile) -> None:
    plan = plan_of(chain_file)
    again = json.loads(json.dumps(plan.to_dict()))
    assert again == plan.to_dict()
    assert again["shards"] == [[0, 256], [256, 512], [512, 600]]
    assert again["steps"][0].keys() == {
        *("id", "kind", "once", "pool", "needs", "calls", "tokens_in_estimate", "model", "reuse")
    }
