"""A fork of an earlier run: what is edited, what runs because of it, and what is taken over.

Owns the fork's chain (the source's own bytes with the edits in them, or a newer file), the steps that run,
and the links to the source's records. Nothing is written here and nothing is called. Knows nothing of how a
run is opened, nor of what it may cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from chains.changes import Changes, compare, inputs_read, step_hashes, with_dependents
from chains.errors import InputInvalid
from chains.graph import Graph, body_of, graph_of_file
from chains.inputs import WrongValue, value_of
from chains.inside import every_step
from chains.loading import find_chain, load, restore_edited
from chains.replay import Edited, Reach, Selection, Start, reach_of, selection_of, with_edits
from chains.spec import Model, RepeatStep, runs_once
from chains.store import Link
from chains.suggest import did_you_mean
from flows.overriding import inner_overrides, other_model, override_budget, override_models
from flows.recorded import kept_chain, with_code
from flows.request import Replay, RunRequest, request_of
from flows.resuming import find_run, is_dead

if TYPE_CHECKING:
    from chains.loading import ChainFile
    from chains.settings import Settings
    from chains.store import RunRow, Store


@dataclass(frozen=True, slots=True)
class Fork:
    """A fork that can be made: its source, the request that it runs, its chain, and what of it runs.

    `edited` names for each step, by its whole name, what was edited; `changes` are all differences from the
    source's chain.
    """

    source: RunRow
    request: RunRequest
    start: Selection | None
    before: ChainFile
    chain_file: ChainFile
    graph: Graph
    reach: Mapping[str, Reach]
    edited: Mapping[str, list[str]]
    inputs: Mapping[str, Any]
    changes: Changes
    inside: Mapping[str, frozenset[str]]
    """For a repeat that runs only because of steps inside it: those that run again in its first turn."""

    @property
    def once(self) -> frozenset[str]:
        """The steps that run once over all rows."""
        return _once(self.chain_file)

    @property
    def changed_by_file(self) -> Changes:
        """What another chain file has changed, apart from what was edited here."""
        return Changes(
            tuple(step for step in self.changes.changed if step not in _of_level(self.edited)),
            self.changes.added,
            self.changes.removed,
        )

    @property
    def links(self) -> list[Link]:
        """What is taken over: whole steps, and the rows of others that do not run again."""
        found = []
        for step in self.graph.order:
            reach = self.reach.get(step)
            start = self.start if self.start is not None and self.start.step == step else Selection(step)
            again = self.inside.get(step)
            if reach is None:
                found.append(Link(step))
            elif reach.rows is not None or again is not None or (start.items, start.turn) != (None, None):
                found.append(Link(step, reach.rows, start.items, start.turn, again))
        return found


def plan_fork(store: Store, asked: Replay, settings: Settings) -> Fork:
    """Return the fork that a replay asks for.

    Raises InputInvalid where the run, the step or an edit is not what can be replayed, ChainInvalid for what
    the edits have made wrong in the chain.
    """
    source = _source(store, asked.run)
    request = request_of(source)
    kept = kept_chain(store, source)
    base = with_code(store, kept) if asked.chain is None else load(find_chain(asked.chain), settings=settings)
    before, base = _overridden(kept, request), _overridden(base, request)
    models = {step: _model(base, step, name) for step, name in asked.models.items()}
    start = selection_of(asked.start) if asked.start is not None else None
    edits = {**_asked_anew(base, start, asked), **asked.edits}
    edited = with_edits(base, edits, models, from_text=asked.from_text)
    if asked.fresh:  # that no earlier answer is used is no edit of anybody's
        edited.steps = {
            step: names for step, names in edited.steps.items() if names != ["cache"] or step in asked.edits
        }
    chain_file = base
    if edited.source != base.source:
        chain_file = with_code(store, restore_edited(edited.source, base, settings))
        chain_file = _overridden(chain_file, request)
    inputs = _inputs(chain_file, edited.inputs, request, from_text=asked.from_text)
    budget = {**(request.budget or {}), **(asked.budget or {})} or None
    graph = graph_of_file(chain_file)
    changes = compare(step_hashes(before), step_hashes(chain_file))
    starts = _starts(chain_file, changes, _of_level(edited.steps), inputs, start, fresh=asked.fresh)
    _check_start(chain_file, graph, source, start, starts, store)
    _check_inputs(chain_file, inputs, start)
    request = replace(
        request,
        chain=str(chain_file.path.absolute()),
        inputs={**request.inputs, **inputs},
        budget=budget,
        shards_on=None,
        fork=_said(asked, edited.steps, inputs),
    )
    reach = reach_of(graph, _once(chain_file), starts)
    return Fork(
        source=source,
        request=request,
        start=start,
        before=before,
        chain_file=inner_overrides(
            replace(chain_file, chain=override_budget(chain_file.chain, budget)), request
        ),
        graph=graph,
        reach=reach,
        edited=edited.steps,
        inputs=inputs,
        changes=changes,
        inside=_inside(chain_file, graph, reach, edited, start),
    )


def _source(store: Store, name: str) -> RunRow:
    source = find_run(store, name)
    if is_dead(source):
        store.close_lost(source.id, "interrupted")
        source = find_run(store, source.id)
    if source.status == "running":
        raise InputInvalid(
            f"run {source.id} is running, and a run is replayed when it has ended.",
            hint=f"Wait for it, or stop it with `headrace cancel {source.id}`.",
        )
    return source


def _overridden(chain_file: ChainFile, request: RunRequest) -> ChainFile:
    """Apply the models that the source was given in place of the chain's own."""
    return replace(chain_file, chain=override_models(chain_file.chain, request.models, request.base_url))


def _model(chain_file: ChainFile, step_id: str, name: str) -> Model | str:
    """Return the model that a step is given: one of the chain's by its name, or PROVIDER:MODEL."""
    chain = chain_file.chain
    if name in chain.models or (":" not in name and name != "starter"):
        return name
    step = chain.steps.get(step_id)
    now = chain.models.get(getattr(step, "model", None) or chain.defaults.model or "")
    if now is None:
        raise InputInvalid(f"--model {step_id}={name}: step {step_id!r} asks no model.")
    return other_model(now, name, None)


def _asked_anew(chain_file: ChainFile, start: Selection | None, asked: Replay) -> dict[str, Any]:
    """Return the edits that ask a step anew: no earlier answer is used for it, where it could be."""
    if not asked.fresh and asked.samples is None:
        return {}
    if start is None:
        raise InputInvalid(
            "it is not said which step is to be asked.", hint="Write --from STEP --fresh, or --samples 5."
        )
    name = start.step if start.inside is None else f"{start.step}.{start.inside}"
    step = next((found.step for found in every_step(chain_file.chain) if found.name == name), None)
    edits: dict[str, Any] = {}
    if asked.samples is not None:
        edits[f"{name}.samples"] = str(asked.samples) if asked.from_text else asked.samples
    if asked.fresh and hasattr(step, "cache"):
        edits[f"{name}.cache"] = "refresh"
    return edits


def _inputs(
    chain_file: ChainFile, edited: Mapping[str, Any], request: RunRequest, *, from_text: bool
) -> dict[str, Any]:
    """Return the inputs that get another value, with it."""
    found = {}
    for name, value in edited.items():
        try:
            new = value_of(chain_file.chain.inputs[name], value, from_text=from_text)
        except WrongValue as error:
            raise InputInvalid(f"input {name!r} {error}") from error
        if name not in request.inputs or request.inputs[name] != new:
            found[name] = new
    return found


def _starts(  # noqa: PLR0917 - all that may differ
    chain_file: ChainFile,
    changes: Changes,
    edited: Mapping[str, list[str]],
    inputs: Mapping[str, Any],
    start: Selection | None,
    *,
    fresh: bool,
) -> dict[str, Start]:
    """Return the steps that run for a reason of their own."""
    rows = start.rows if start is not None else None
    found: dict[str, Start] = {}
    below = _at_or_below(chain_file, start)
    for step in chain_file.chain.steps:
        read = sorted(inputs_read([step], chain_file) & inputs.keys()) if step in below else []
        if step in edited:
            found[step] = Start(rows, f"edited: {', '.join(edited[step])}")
        elif step in changes.added:
            found[step] = Start(rows, "new in the chain file")
        elif step in changes.changed:
            found[step] = Start(rows, "changed in the chain file")
        elif read:
            found[step] = Start(rows, f"reads {', '.join(f'inputs.{name}' for name in read)}")
        elif fresh and start is not None and step == start.step:
            found[step] = Start(rows, "asked anew")
    return found


def _of_level(edited: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return what was edited by the steps of the chain's own level; what lies inside one is the step's."""
    found: dict[str, list[str]] = {}
    for name, fields in edited.items():
        step, _, inside = name.partition(".")
        found.setdefault(step, []).extend(f"{inside}.{field}" if inside else field for field in fields)
    return found


def _inside(  # noqa: PLR0917 - a chain, and what of it runs
    chain_file: ChainFile,
    graph: Graph,
    reach: Mapping[str, Reach],
    edited: Edited,
    start: Selection | None,
) -> dict[str, frozenset[str]]:
    """Return for each repeat that runs only because of steps inside it those that run in its first turn."""
    found = {}
    for name in reach:
        step = chain_file.chain.steps[name]
        inside = {other.split(".")[1] for other in edited.steps if other.startswith(f"{name}.")}
        if start is not None and start.step == name and start.inside is not None:
            inside.add(start.inside.split(".")[0])
        above = graph.needs[name] & reach.keys() or inputs_read([name], chain_file) & edited.inputs.keys()
        if isinstance(step, RepeatStep) and inside and not above and name not in edited.steps:
            body = graph_of_file(body_of(chain_file, step))
            found[name] = with_dependents(frozenset(inside), body)
    return found


def _at_or_below(chain_file: ChainFile, start: Selection | None) -> frozenset[str]:
    """Return the steps that an edited input reaches: with a start, those from there on."""
    if start is None or start.step not in chain_file.chain.steps:
        return frozenset(chain_file.chain.steps)
    return with_dependents(frozenset({start.step}), graph_of_file(chain_file))


def _check_start(  # noqa: PLR0917 - a place, and what it has to fit
    chain_file: ChainFile,
    graph: Graph,
    source: RunRow,
    start: Selection | None,
    starts: Mapping[str, Start],
    store: Store,
) -> None:
    """Refuse a step and rows that the run does not have, and edits before the step."""
    if start is None:
        return
    if start.step not in chain_file.chain.steps:
        hint = did_you_mean(start.step, chain_file.chain.steps)
        raise InputInvalid(f"run {source.id} has no step {start.step!r}.", hint=hint)
    known = {found.name for found in every_step(chain_file.chain)}
    if start.inside is not None and f"{start.step}.{start.inside}" not in known:
        hint = did_you_mean(f"{start.step}.{start.inside}", known)
        raise InputInvalid(f"step {start.step!r} has no step {start.inside!r} inside.", hint=hint)
    if start.turn is not None and not isinstance(chain_file.chain.steps[start.step], RepeatStep):
        raise InputInvalid(f"step {start.step!r} has no `repeat`, and so no turns.", hint="Leave them out.")
    if start.items is not None:
        _check_items(chain_file, source, start, store)
    if start.rows is not None:
        if start.step in _once(chain_file):
            raise InputInvalid(
                f"step {start.step!r} runs once over all rows, so no rows of it can be replayed alone.",
                hint=f"Write --from {start.step}.",
            )
        last = store.last_row(source.id)
        if beyond := sorted(row for row in start.rows if row > last):
            raise InputInvalid(
                f"run {source.id} has no row {beyond[0]}: its last one is row {last}.",
                hint="Rows are counted from 0.",
            )
    below = with_dependents(frozenset({start.step}), graph)
    if outside := [step for step in graph.order if step in starts and step not in below]:
        raise InputInvalid(
            f"step {outside[0]!r} is changed, and does not come after {start.step!r}.",
            hint=f"Replay from {outside[0]}, or leave --from out: it is worked out from the edits.",
        )


def _check_inputs(chain_file: ChainFile, inputs: Mapping[str, Any], start: Selection | None) -> None:
    """Refuse another value of an input that nothing reads from the step on: the edit would do nothing."""
    if start is None:
        return
    read = inputs_read(sorted(_at_or_below(chain_file, start)), chain_file)
    if unread := sorted(inputs.keys() - read):
        raise InputInvalid(
            f"neither {start.step!r} nor a step after it reads inputs.{unread[0]}.",
            hint="Leave --from out: what has to run is worked out from the edits.",
        )


def _check_items(chain_file: ChainFile, source: RunRow, start: Selection, store: Store) -> None:
    """Refuse items of a step that maps no list, or that none of its rows has."""
    if getattr(chain_file.chain.steps[start.step], "map", None) is None:
        raise InputInvalid(f"step {start.step!r} has no `map`, and so no items.", hint="Name its rows alone.")
    rows = sorted(start.rows) if start.rows is not None and len(start.rows) <= 100 else None
    records = store.records(source.id, start.step, rows=rows, payloads=False, within=True)
    last = max((record.item for record in records), default=-1)
    if beyond := sorted(item for item in start.items or () if item > last):
        raise InputInvalid(
            f"step {start.step!r} has no item {beyond[0]} there: the last one is item {last}.",
            hint="Items are counted from 0.",
        )


def _said(asked: Replay, edited: Mapping[str, list[str]], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the fork's row says of how it came about."""
    return {
        "from": asked.start,
        "edited": {step: list(names) for step, names in edited.items()},
        "inputs": sorted(inputs),
        "models": dict(asked.models),
        "fresh": asked.fresh,
        "samples": asked.samples,
    }


def _once(chain_file: ChainFile) -> frozenset[str]:
    return frozenset(name for name, step in chain_file.chain.steps.items() if runs_once(step))
