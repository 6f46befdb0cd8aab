"""From a request to a run that may begin: everything that can be wrong is found here, before any call.

Owns binding of inputs and data to a chain, model overrides, resume, and the run's first row in the store.
Knows nothing of Prefect and of how steps are started.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chains.clock import Clock
from chains.errors import EnvironmentLacks, InputInvalid
from chains.spec import Chain, Model, PrepareStep, PromptStep, runs_once
from tasks.scopes import RowSource

if TYPE_CHECKING:
    from chains.data import Dataset
    from chains.graph import Graph
    from chains.loading import ChainFile
    from chains.plan import Plan
    from chains.settings import Settings
    from chains.store import RunRow, Store
    from tasks.collection import Collections
    from tasks.providers import Providers


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What somebody asked for; plain JSON values, so that it travels through Prefect and the store."""

    chain: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    base_url: str | None = None
    skip_bad: bool = False
    limit: int | None = None
    from_text: bool = False

    def options(self) -> dict[str, Any]:
        """Return what a resume needs to ask for the same again."""
        return {
            "chain": self.chain,
            "mapping": dict(self.mapping),
            "models": list(self.models),
            "base_url": self.base_url,
            "skip_bad": self.skip_bad,
            "limit": self.limit,
        }


@dataclass(slots=True)
class PreparedRun:
    """A checked run: its chain, rows, providers and place in the store."""

    run_id: str
    chain_file: ChainFile
    graph: Graph
    rows: RowSource
    store: Store
    settings: Settings
    clock: Clock
    providers: Providers
    collections: Collections
    plan: Plan
    resumed: bool = False
    skipped_rows: list[str] = field(default_factory=list)

    @property
    def chain(self) -> Chain:
        """The chain that runs, with overrides applied."""
        return self.chain_file.chain

    @property
    def once(self) -> frozenset[str]:
        """The steps that run once over all rows."""
        return frozenset(name for name, step in self.chain.steps.items() if runs_once(step))


def prepare(
    request: RunRequest,
    *,
    store: Store,
    settings: Settings,
    resume: str | None = None,
) -> PreparedRun:
    """Check a request against its chain, data, machine and store, and open the run.

    Raises ChainInvalid or InputInvalid for what the user wrote, EnvironmentLacks for a missing key or model.
    """
    from chains.graph import graph_of
    from chains.loading import find_chain, load

    clock = Clock()
    earlier = _earlier(store, resume)
    if earlier is not None:
        request = _request_again(earlier)
    chain_file = load(find_chain(request.chain), settings=settings)
    if earlier is not None and earlier.chain_hash != chain_file.hash:
        raise InputInvalid(
            f"the chain {str(chain_file.path)!r} has changed since run {earlier.id}.",
            hint="Start a new run; steps that did not change are reused from the store.",
        )
    chain_file = replace(
        chain_file, chain=override_models(chain_file.chain, request.models, request.base_url)
    )
    dataset = _open_data(request, earlier)
    rows, bad = bind_rows(chain_file.chain, request, dataset)
    refuse_per_row_inputs(chain_file, rows)
    providers, collections = _services(chain_file, store, settings)
    return PreparedRun(
        run_id=_open_run(store, clock, chain_file, request, rows, dataset, earlier),
        chain_file=chain_file,
        graph=graph_of(chain_file.chain, _prompt_sources(chain_file)),
        rows=rows,
        store=store,
        settings=settings,
        clock=clock,
        providers=providers,
        collections=collections,
        plan=_plan(chain_file, rows, settings, store, dataset),
        resumed=earlier is not None,
        skipped_rows=bad,
    )


def override_models(chain: Chain, models: tuple[str, ...], base_url: str | None) -> Chain:
    """Apply `--model [NAME=]PROVIDER:MODEL` and `--base-url`; without a name, to the default model."""
    changed: dict[str, Model] = dict(chain.models)
    for text in models:
        name, _, target = text.rpartition("=")
        name = name or chain.defaults.model or ""
        if name not in changed:
            raise InputInvalid(
                f"--model {text!r}: the chain has no model {name!r}."
                if name
                else f"--model {text!r}: the chain has no default model.",
                hint=f"Name one of {', '.join(sorted(chain.models))}, as in --model NAME=openai:gpt-5-mini.",
            )
        changed[name] = _other_model(changed[name], target, base_url)
    if base_url and not models:
        raise InputInvalid("--base-url needs --model.", hint="Write --model openai:NAME --base-url URL.")
    return chain.model_copy(update={"models": changed})


def _other_model(old: Model, target: str, base_url: str | None) -> Model:
    provider, _, model = target.partition(":")
    if provider not in ("openai", "local", "starter") or (provider != "starter" and not model):
        raise InputInvalid(
            f"--model {target!r} names no model.",
            hint="Write openai:NAME, local:HUB_ID_OR_FOLDER or starter.",
        )
    kept = {"max_tokens": old.max_tokens, "stop": old.stop, "seed": old.seed, "limits": old.limits}
    # A deterministic step stays so: the starter is greedy by default, an endpoint only when told.
    temperature = (
        old.temperature if old.temperature is not None else (0.0 if old.provider != "openai" else None)
    )
    return Model.model_validate(
        {
            "provider": provider,
            "model": model or None,
            "base_url": base_url,
            "temperature": temperature,
            **kept,
        }
    )


def bind_rows(chain: Chain, request: RunRequest, dataset: Dataset | None) -> tuple[RowSource, list[str]]:
    """Give every row its typed inputs; also return what was wrong with the rows that were left out."""
    from chains.data import map_columns, validate_rows
    from chains.inputs import bind_inputs

    if dataset is None:
        if request.mapping:
            raise InputInvalid("--map needs --data.", hint="Name the data set with --data FILE.")
        inputs = bind_inputs(chain, request.inputs, from_text=request.from_text)
        return RowSource(shared=inputs, inputs=[inputs]), []
    mapping = {
        name: column
        for name, column in map_columns(chain, dataset.columns, request.mapping).items()
        if name not in request.inputs
    }
    rest = chain.model_copy(update={"inputs": {k: v for k, v in chain.inputs.items() if k not in mapping}})
    shared = bind_inputs(rest, request.inputs, from_text=request.from_text)
    bound = validate_rows(chain, dataset, mapping, skip_bad=request.skip_bad)
    kept = list(bound.rows) if request.limit is None else list(bound.rows)[: request.limit]
    if not kept:
        raise InputInvalid(
            f"the data set {str(dataset.path)!r} has no rows to run.", hint="Give it at least one row."
        )
    return (
        RowSource(
            shared=shared,
            inputs=[{**shared, **row.inputs} for row in kept],
            columns=[row.columns for row in kept],
        ),
        [str(bad) for bad in bound.bad],
    )


def refuse_per_row_inputs(chain_file: ChainFile, rows: RowSource) -> None:
    """Refuse a once step that reads an input which differs from row to row."""
    from chains.graph import templates_of
    from chains.references import references

    differing = set(chain_file.chain.inputs) - set(rows.shared)
    for step_id, step in chain_file.chain.steps.items():
        if not runs_once(step) or not differing:
            continue
        for path, source, bare, may_read_row in templates_of(step_id, chain_file):
            if may_read_row or (isinstance(step, PrepareStep) and "completion" in path):
                continue
            for found in references(source, bare=bare):
                if found.root == "inputs" and found.path and found.path[0] in differing:
                    raise InputInvalid(
                        f"step {step_id!r} runs once, but input {found.path[0]!r} comes from the data and "
                        "differs between rows.",
                        hint=f"Give one value for all rows: -i {found.path[0]}=...",
                    )


def _earlier(store: Store, resume: str | None) -> RunRow | None:
    if resume is None:
        return None
    earlier = store.run(resume)
    if earlier is None:
        raise InputInvalid(
            f"there is no run {resume!r} in the store {str(store.path)!r}.", hint="See `headrace runs`."
        )
    return earlier


def _request_again(earlier: RunRow) -> RunRequest:
    options = json.loads(earlier.options or b"{}")
    return RunRequest(
        chain=options["chain"],
        inputs=json.loads(earlier.inputs or b"{}"),
        data=earlier.data_path,
        mapping=options["mapping"],
        models=tuple(options["models"]),
        base_url=options["base_url"],
        skip_bad=options["skip_bad"],
        limit=options["limit"],
    )


def _open_data(request: RunRequest, earlier: RunRow | None) -> Dataset | None:
    from chains.data import open_dataset

    if request.data is None:
        return None
    dataset = open_dataset(Path(request.data), skip_bad=request.skip_bad)
    if earlier is not None and earlier.data_sha256 != dataset.sha256:
        raise InputInvalid(
            f"the data set {request.data!r} has changed since run {earlier.id}.",
            hint="Start a new run; answers that still fit are reused from the store.",
        )
    return dataset


def _services(chain_file: ChainFile, store: Store, settings: Settings) -> tuple[Providers, Collections]:
    from tasks.collection import Collections
    from tasks.providers import Providers

    chain = chain_file.chain
    providers = Providers(chain.models, store=store, settings=settings, env=os.environ)
    missing = providers.check(_models_in_use(chain))
    if missing:
        raise EnvironmentLacks("\n".join(missing))
    return providers, Collections(chain.collections, store=store, providers=providers, settings=settings)


def _models_in_use(chain: Chain) -> list[str]:
    names = {collection.embedder for collection in chain.collections.values()}
    for step in chain.steps.values():
        name = getattr(step, "model", None)
        if name is None and isinstance(step, PromptStep):
            name = chain.defaults.model
        if name is not None:
            names.add(name)
    return sorted(names)


def _prompt_sources(chain_file: ChainFile) -> dict[str, list[str]]:
    from chains.prompts import prompt_parts

    return {
        step_id: [source for _, source in prompt_parts(chain_file, step_id)]
        for step_id, step in chain_file.chain.steps.items()
        if isinstance(step, PromptStep)
    }


def _plan(  # noqa: PLR0917 - what a plan is made of
    chain_file: ChainFile, rows: RowSource, settings: Settings, store: Store, dataset: Dataset | None
) -> Plan:
    from chains.plan import make_plan

    return make_plan(
        chain_file,
        rows=len(rows),
        inputs_sample=rows.inputs[0],
        settings=settings,
        store=store,
        data_sha256=dataset.sha256 if dataset is not None else None,
    )


def _open_run(  # noqa: PLR0917 - one row, each argument a part of it
    store: Store,
    clock: Clock,
    chain_file: ChainFile,
    request: RunRequest,
    rows: RowSource,
    dataset: Dataset | None,
    earlier: RunRow | None,
) -> str:
    from chains.store import RunRow

    if earlier is not None:
        store.close_lost(earlier.id, "interrupted")
        store.put(
            replace(earlier, status="running", finished_at=None, pid=os.getpid(), heartbeat_at=clock.now())
        )
        return earlier.id
    files = {path: store.put_blob(content) for path, content in chain_file.files.items()}
    options = request.options() | {"chain": str(chain_file.path)}
    run = RunRow(
        id=clock.new_id(),
        chain=chain_file.chain.chain,
        chain_hash=chain_file.hash,
        source=chain_file.source,
        files=json.dumps(files).encode(),
        inputs=json.dumps(dict(rows.shared), ensure_ascii=False).encode("utf-8", "surrogatepass"),
        data_path=str(dataset.path.resolve()) if dataset is not None else None,
        data_sha256=dataset.sha256 if dataset is not None else None,
        rows=len(rows),
        status="running",
        started_at=clock.now(),
        host=socket.gethostname(),
        pid=os.getpid(),
        options=json.dumps(options).encode(),
        heartbeat_at=clock.now(),
    )
    store.put(run)
    return run.id


def note_flow_run(run: PreparedRun, flow_run_id: str) -> None:
    """Write down which Prefect flow run carries this run."""
    row = run.store.run(run.run_id)
    if row is not None:
        run.store.put(replace(row, prefect_flow_run_id=flow_run_id))
