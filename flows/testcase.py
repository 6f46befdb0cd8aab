"""A recorded prompt step as a test: the chain of today, and the answers of that time.

Owns the case (what was read, asked and said), the text of the test file, and the replay: the step runs as in
any run, against an endpoint on this machine that gives the recorded responses in their order. Nothing else
is called. Knows nothing of pytest but how a test is written.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from chains.errors import InputInvalid
from chains.spec import Model, PromptStep, Retry

if TYPE_CHECKING:
    from chains.diff import RecordedRun
    from chains.loading import ChainFile
    from chains.store import RecordRow, Store

_SAMPLING = ("temperature", "top_p", "max_tokens", "seed", "stop")
_NO_MORE = b'{"error": {"message": "The case has no more recorded responses: more was asked than then."}}'


@dataclass(frozen=True, slots=True)
class Case:
    """What a prompt step read, asked, was told and gave, for one row."""

    run: str
    step: str
    row: int
    scope: Mapping[str, Any]
    messages: Sequence[Mapping[str, str]]
    responses: Sequence[Mapping[str, Any]]
    output: Mapping[str, Any]

    @classmethod
    def read(cls, text: str) -> Case:
        """Return the case of a test file."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the step asks and gives today."""

    messages: list[dict[str, str]]
    output: dict[str, Any]


def case_of(store: Store, recorded: RecordedRun, record: RecordRow) -> Case:
    """Return the case of a record; raise InputInvalid where it is none of a prompt that was answered."""
    step = recorded.chain_file.chain.steps.get(record.step)
    if not isinstance(step, PromptStep) or record.row < 0:
        raise InputInvalid(
            f"step {record.step!r} is no prompt that runs for each row.",
            hint="Only such steps have recorded responses.",
        )
    if record.status != "ok" or record.messages is None or record.output is None:
        raise InputInvalid(
            f"step {record.step!r} has no answer in row {record.row}: it is {record.status}.",
            hint="Name a row that ended ok with --row.",
        )
    attempts = _attempts(store, record)
    if not attempts:
        raise InputInvalid(
            f"the responses of record {record.id} are not in the store.",
            hint="They went with the run that it was reused from, or the database was rebuilt without them.",
        )
    return Case(
        run=record.run_id,
        step=record.step,
        row=record.row,
        scope=_scope(store, recorded, record),
        messages=json.loads(record.messages),
        responses=attempts,
        output=json.loads(record.output),
    )


def _attempts(store: Store, record: RecordRow) -> list[dict[str, Any]]:
    """Return the responses that were read: the answer, and those that it was asked again for."""
    while record.reused_from is not None:
        source = store.record_by_id(record.reused_from)
        if source is None:
            return []
        record = source
    return [
        {"status": attempt.status or 200, "body": attempt.response.decode("utf-8", "replace")}
        for attempt in store.attempts(record.id)
        if attempt.response is not None and (attempt.status or 200) == 200
    ]


def _scope(store: Store, recorded: RecordedRun, record: RecordRow) -> dict[str, Any]:
    """Return what the templates can read: inputs as far as they were read, and the outputs upstream."""
    variables: dict[str, Any] = json.loads(record.inputs or b"{}")
    inputs = {
        name.removeprefix("inputs."): value
        for name, value in variables.items()
        if name.startswith("inputs.") and name.count(".") == 1
    }
    scope: dict[str, Any] = {"inputs": variables.get("inputs", inputs)}
    for name in sorted(recorded.graph.reads[record.step]):
        row = -1 if name in recorded.once else record.row
        upstream = store.record(record.run_id, name, row)
        if upstream is not None and upstream.status == "ok" and upstream.output is not None:
            scope[name] = json.loads(upstream.output)
    return scope


def written(case: Case, chain: Path, folder: Path | None) -> str:
    """Return the test's text; the chain's path is relative where the test lies in a `folder`."""
    # ' is escaped so that no recorded text can end the literal.
    data = json.dumps(asdict(case), indent=1).replace("'", "\\u0027")
    place = repr(str(chain))
    if folder is not None:
        place = f"Path(__file__).parent / {os.path.relpath(chain, folder)!r}"
    start = "from pathlib import Path\n\n" if folder is not None else ""
    return (
        f'"""Step {case.step!r} of run {case.run}, row {case.row}: the answers are the recorded ones."""\n\n'
        f"{start}from flows.testcase import Case, replay\n\n"
        f"CHAIN = {place}\n"
        f"CASE = Case.read(r'''{data}''')\n\n\n"
        f"def test_{case.step}_of_row_{case.row}_asks_and_gives_what_it_did() -> None:\n"
        "    found = replay(CASE, CHAIN)\n"
        "    assert found.messages == CASE.messages\n"
        "    assert found.output == CASE.output\n"
    )


def replay(case: Case, chain: str | Path) -> Replayed:
    """Run the case's step as the chain says it today, with the recorded responses.

    Raises what the step raises, and InputInvalid where the chain has no such prompt.
    """
    from chains.loading import load

    chain_file = load(chain)
    step = chain_file.chain.steps.get(case.step)
    if not isinstance(step, PromptStep):
        raise InputInvalid(f"the chain {str(chain)!r} has no prompt step {case.step!r}.")
    with _endpoint(case.responses) as url:
        return asyncio.run(_run(case, _pointed(chain_file, step, url), step))


def _pointed(chain_file: ChainFile, step: PromptStep, url: str) -> ChainFile:
    """Return the chain with the step's model behind another address; one answer is one try."""
    chain = chain_file.chain
    name = step.model or chain.defaults.model or ""
    fields = chain.models[name].model_dump(include=set(_SAMPLING), exclude_none=True)
    model = Model.model_validate(fields | {"provider": "openai", "model": "recorded", "base_url": url})
    defaults = chain.defaults.model_copy(update={"retry": Retry(attempts=1)})
    return replace(
        chain_file,
        chain=chain.model_copy(update={"models": {**chain.models, name: model}, "defaults": defaults}),
    )


async def _run(case: Case, chain_file: ChainFile, step: PromptStep) -> Replayed:
    from chains.clock import Clock
    from chains.settings import get_settings
    from chains.store import RecordRow, RunRow, StepRow, open_store
    from tasks.collection import Collections
    from tasks.context import RowJob, StepContext
    from tasks.prompt import run_row
    from tasks.providers import Providers

    settings, clock = get_settings(), Clock()
    step = step.model_copy(update={"retry": None, "cache": "never", "budget": None})
    with TemporaryDirectory() as folder, open_store(folder) as store:
        run = RunRow(id="replay", chain="replay", chain_hash="", source=b"", started_at=clock.now())
        opening = RecordRow(
            id=clock.new_id(), run_id="replay", step=case.step, row=case.row, started_at=clock.now()
        )
        store.put(run, StepRow(run_id="replay", id=case.step, kind="prompt"))
        settings = settings.model_copy(update={"allowed_hosts": None})
        providers = Providers(
            chain_file.chain.models, store=store, settings=settings, env={}, folder=chain_file.folder
        )
        collections = Collections(
            chain_file.chain.collections, store=store, providers=providers, settings=settings
        )
        ctx = StepContext(
            run_id="replay",
            step_id=case.step,
            step=step,
            chain_file=chain_file,
            store=store,
            clock=clock,
            settings=settings,
            providers=providers,
            collections=collections,
        )
        try:
            result = await run_row(ctx, RowJob(case.row, opening.id, case.scope, opening))
        finally:
            await providers.aclose()
    return Replayed(messages=list(result.messages or []), output=result.output)


@contextmanager
def _endpoint(responses: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Serve the responses on this machine, one for each request."""
    left = iter(responses)

    class Recorded(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the name is http.server's
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = next(left, None)
            body = _NO_MORE if found is None else str(found["body"]).encode()
            self.send_response(410 if found is None else int(found["status"]))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing: the test's own output is what counts."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorded)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
