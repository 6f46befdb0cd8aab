"""A local server that speaks the fine-tuning API (files, fine_tuning/jobs) and keeps a ledger.

    python tests/servers/finetuning_server.py --port 0 --ledger ledger.jsonl

It prints its URL (up to and including `/v1`) on the first line. Each POST is one JSON line of the ledger, on
disk before the answer. Jobs go on by one state each time that they are looked at, so no test waits for a
clock: validating_files, queued, running (`--looks` times), then succeeded. A job fails where its training
file holds the word `poison`, as the service does when it refuses a file late. Chat completions answer with
the name of the model that was asked, and only for models that a job has made or that begin with `base`.

Faults, by `--fault`: `lose-files` and `lose-jobs` close the connection after the file or job is made, the
first time; `no-filter` gives all jobs whatever the query asks; `busy` answers every third look with 503.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from aiohttp import web

RUNNING = ("validating_files", "queued", "running")
BEGAN = 1_750_000_000


class Service:
    """Files, jobs and their events in memory; the ledger is on disk."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.ledger = Path(options.ledger)
        self.files: dict[str, dict[str, Any]] = {}
        self.contents: dict[str, bytes] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.looks: dict[str, int] = {}
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.lost: set[str] = set()
        self.gets = 0

    def note(self, **line: Any) -> None:
        with self.ledger.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def lose(self, request: web.Request, what: str) -> bool:
        """Close the connection after what was asked for is done, the first time."""
        if self.options.fault != f"lose-{what}" or what in self.lost:
            return False
        self.lost.add(what)
        assert request.transport is not None
        request.transport.close()
        return True

    async def post_file(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        field = form["file"]
        assert isinstance(field, web.FileField)
        content = field.file.read()
        number = len(self.files) + 1
        file = {
            "id": f"file-{number}",
            "object": "file",
            "bytes": len(content),
            "created_at": BEGAN,
            "filename": field.filename,
            "purpose": form["purpose"],
            "status": "processed",
        }
        self.files[file["id"]] = file
        self.contents[file["id"]] = content
        self.note(what="file", id=file["id"], name=field.filename, sha256=hashlib.sha256(content).hexdigest(),
                  key=request.headers.get("Authorization"))  # fmt: skip
        if self.lose(request, "files"):
            raise asyncio.CancelledError
        return web.json_response(file)

    async def post_job(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        if asked.get("training_file") not in self.files:
            return complaint(400, f"invalid training_file: {asked.get('training_file')}")
        number = len(self.jobs) + 1
        job = {
            "id": f"ftjob-{number}",
            "object": "fine_tuning.job",
            "created_at": BEGAN + number,
            "finished_at": None,
            "model": asked["model"],
            "fine_tuned_model": None,
            "organization_id": "org-test",
            "status": "validating_files",
            "training_file": asked["training_file"],
            "validation_file": asked.get("validation_file"),
            "hyperparameters": {"n_epochs": "auto"},
            "method": asked.get("method"),
            "result_files": [],
            "trained_tokens": None,
            "error": None,
            "seed": asked.get("seed", 0),
            "metadata": asked.get("metadata"),
            "suffix": asked.get("suffix"),
        }
        self.jobs[job["id"]] = job
        self.looks[job["id"]] = 0
        self.events[job["id"]] = []
        self.tell(job["id"], f"Created fine-tuning job: {job['id']}")
        self.note(what="job", id=job["id"], asked=asked)
        if self.lose(request, "jobs"):
            raise asyncio.CancelledError
        return web.json_response(shown(job))

    async def post_cancel(self, request: web.Request) -> web.Response:
        job = self.jobs[request.match_info["job"]]
        job |= {"status": "cancelled", "finished_at": BEGAN + 100}
        self.note(what="cancel", id=job["id"])
        return web.json_response(shown(job))

    async def get_job(self, request: web.Request) -> web.Response:
        if self.busy():
            return complaint(503, "busy")
        job = self.jobs.get(request.match_info["job"])
        if job is None:
            return complaint(404, "no such job")
        self.go_on(job)
        return web.json_response(shown(job))

    async def get_jobs(self, request: web.Request) -> web.Response:
        if self.busy():
            return complaint(503, "busy")
        jobs = list(reversed(self.jobs.values()))
        if self.options.fault != "no-filter":
            wanted = {key[9:-1]: value for key, value in request.query.items() if key.startswith("metadata[")}
            jobs = [job for job in jobs if wanted.items() <= (job["metadata"] or {}).items()]
        return page([shown(job) for job in jobs], request)

    async def get_files(self, request: web.Request) -> web.Response:
        return page(list(reversed(self.files.values())), request)

    async def get_events(self, request: web.Request) -> web.Response:
        return page(list(reversed(self.events[request.match_info["job"]])), request)

    async def post_chat(self, request: web.Request) -> web.Response:
        asked = await request.json()
        known = {job["fine_tuned_model"] for job in self.jobs.values()}
        self.note(what="chat", model=asked["model"])
        if asked["model"] not in known and not asked["model"].startswith("base"):
            return complaint(404, f"The model `{asked['model']}` does not exist")
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": asked["model"]},
            "finish_reason": "stop",
        }
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        answer = {"id": "c", "object": "chat.completion", "created": BEGAN, "model": asked["model"]}
        return web.json_response({**answer, "choices": [choice], "usage": usage})

    def busy(self) -> bool:
        self.gets += 1
        return self.options.fault == "busy" and self.gets % 3 == 0

    def tell(self, job: str, message: str, **data: Any) -> None:
        number = len(self.events[job]) + 1
        event = {
            "id": f"ftevent-{job}-{number:03}",
            "object": "fine_tuning.job.event",
            "created_at": BEGAN + number,
            "level": "info",
            "message": message,
            "type": "metrics" if data else "message",
            "data": data,
        }
        self.events[job].append(event)

    def go_on(self, job: dict[str, Any]) -> None:
        """Take the job one state further."""
        if job["status"] not in RUNNING:
            return
        looks = self.looks[job["id"]] = self.looks[job["id"]] + 1
        poisoned = b"poison" in self.contents[job["training_file"]]
        if looks == 2 and poisoned:
            error = {
                "code": "invalid_training_file",
                "message": "The file was refused.",
                "param": "training_file",
            }
            job |= {"status": "failed", "error": error, "finished_at": BEGAN + 50}
            self.tell(job["id"], "Job failed: the file was refused")
        elif looks <= 2:
            job["status"] = RUNNING[looks]
            self.tell(job["id"], f"Job is {job['status']}")
        elif looks <= 2 + self.options.looks:
            step, total = looks - 2, self.options.looks
            losses = {"train_loss": round(2.0 / step, 3), "full_valid_loss": round(2.5 / step, 3)}
            self.tell(job["id"], f"Step {step}/{total}", step=step, total_steps=total, **losses)
        else:
            suffix = f":{job['suffix']}" if job["suffix"] else ""
            tokens = len(self.contents[job["training_file"]]) // 4
            name = f"ft:{job['model']}:org{suffix}:{job['id'].removeprefix('ftjob-')}"
            job |= {"status": "succeeded", "fine_tuned_model": name, "trained_tokens": tokens}
            job |= {"finished_at": job["created_at"] + 60}
            self.tell(job["id"], "The job has successfully completed")


def shown(job: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in job.items() if name != "suffix"}


def page(items: list[dict[str, Any]], request: web.Request) -> web.Response:
    """Return a part of a list, the newest first."""
    start = 0
    if "after" in request.query:
        start = 1 + next(at for at, item in enumerate(items) if item["id"] == request.query["after"])
    # Pages are short here, so that whoever reads only the first one is found out.
    size = min(int(request.query.get("limit", 20)), 3 if "events" not in request.path else 100)
    found = items[start : start + size]
    return web.json_response({"object": "list", "data": found, "has_more": start + size < len(items)})


def complaint(status: int, message: str) -> web.Response:
    fault = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return web.json_response({"error": fault}, status=status)


async def serve(options: argparse.Namespace) -> None:
    service = Service(options)
    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/files", service.post_file)
    app.router.add_get("/v1/files", service.get_files)
    app.router.add_post("/v1/fine_tuning/jobs", service.post_job)
    app.router.add_get("/v1/fine_tuning/jobs", service.get_jobs)
    app.router.add_get("/v1/fine_tuning/jobs/{job}", service.get_job)
    app.router.add_get("/v1/fine_tuning/jobs/{job}/events", service.get_events)
    app.router.add_post("/v1/fine_tuning/jobs/{job}/cancel", service.post_cancel)
    app.router.add_post("/v1/chat/completions", service.post_chat)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", options.port).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ledger", required=True)
    parser.add_argument("--looks", type=int, default=2)
    parser.add_argument("--fault", default="none")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
