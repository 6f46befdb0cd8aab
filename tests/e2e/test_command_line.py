"""The border of the command line: exit codes, pipes, signals, and output that a program can read."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chains.store import open_store

pytestmark = pytest.mark.e2e

ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
HELP = Path(__file__).with_name("help.txt")
COMMANDS = ("check", "plan", "graph", "schema", "run", "replay", "resume", "retry", "cancel", "runs")
COMMANDS += ("show", "deploy", "up", "call", "result")
COMMANDS += ("why", "diff", "testcase", "ui", "models", "verify", "prune", "export", "doctor", "demo")


def test_the_help_of_every_command_is_as_it_was_agreed(desk) -> None:
    desk.environment |= {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}
    pages = [desk.headrace("--help").out]
    pages += [desk.headrace(command, "--help").out for command in COMMANDS]
    text = "\n".join(pages)
    if "UPDATE_HELP" in os.environ:
        HELP.write_text(text)
    assert text == HELP.read_text(), "run this test with UPDATE_HELP=1 where the change is meant"


def test_the_exact_form_of_the_readme_sends_no_temperature_and_no_limit_of_tokens(desk) -> None:
    text = desk.chain.read_text()
    starter = re.sub(r"writer: \{.*\}", "writer: {provider: starter, max_tokens: 60}", text)
    desk.chain.write_text(starter)
    desk.environment |= {"OPENAI_BASE_URL": desk.server.url, "OPENAI_API_KEY": "k"}
    data = desk.tickets(2)
    asked = ("run", str(desk.chain), "--data", str(data), "--out", "replies.jsonl")
    done = desk.headrace(*asked, "--model", "openai:gpt-5-mini", "--direct")
    assert done.code == 0, done.err
    sent = [json.loads(line["raw"]) for line in desk.server.ledger()]
    assert len(sent) == 4
    for body in sent:
        assert body["model"] == "gpt-5-mini"
        assert not {"temperature", "max_tokens", "max_completion_tokens", "seed", "stop"} & body.keys()
    # The endpoint samples: a second run asks again, unless the chain says `cache: always`.
    desk.chain.write_text(starter.replace("    reask: 1", "    reask: 1\n    cache: always"))
    for _ in range(2):
        assert desk.headrace(*asked, "--model", "openai:gpt-5-mini", "--direct").code == 0
    asked_again = [json.loads(line["raw"]) for line in desk.server.ledger()][4:]
    kinds = ["Tone:" in json.dumps(body) for body in asked_again]
    assert kinds.count(True) == 4 and kinds.count(False) <= 2


def test_a_python_step_that_prints_does_not_spoil_the_json(desk) -> None:
    functions = desk.chain.parent / "functions.py"
    functions.write_text(
        'print("imported")\n' + functions.read_text().replace("    return", '    print("hi")\n    return')
    )
    done = desk.headrace("run", str(desk.chain), "-i", "ticket=my refund", "--direct", "--json")
    assert done.code == 0, done.err
    assert done.json()["status"] == "ok"
    assert "imported" in done.err and "hi" in done.err


@pytest.mark.slow
def test_json_holds_numbers_times_and_booleans(desk) -> None:
    assert desk.headrace("run", str(desk.chain), "--data", str(desk.tickets(2)), "--direct").code == 0
    (run,) = desk.headrace("runs", "--json").json()
    shown = desk.headrace("show", "last", "--json").json()
    for facts in (run, shown):
        assert ISO.fullmatch(facts["started_at"]) and ISO.fullmatch(facts["finished_at"])
        assert isinstance(facts["seconds"], float) and facts["rows"] == 2 and len(facts["version"]) == 64
    for step in shown["steps"]:
        assert isinstance(step["seconds"], float | None) and isinstance(step["tokens_in"], int)
        assert step["cost_micro"] is None or isinstance(step["cost_micro"], int)
    listed = desk.headrace("show", "last", "--step", "triage", "--json").json()
    assert [line["row"] for line in listed] == [0, 1]
    assert listed[0]["reused"] is False and listed[0]["error"] is None
    assert listed[0]["output"]["intent"] == "refund" and isinstance(listed[0]["seconds"], float)
    record = desk.headrace("show", "last", "--step", "triage", "--row", "0", "--json").json()
    assert ISO.fullmatch(record["started_at"]) and ISO.fullmatch(record["attempts"][0]["finished_at"])
    plan = desk.headrace("plan", str(desk.chain), "--data", str(desk.tickets(2)), "--json").json()
    assert plan["rows"] == 2 and "the same chain and data" in plan["notes"][0]
    models = desk.headrace("models", "--json")
    assert models.code == 0 and models.json() == []


@pytest.mark.slow
def test_a_plan_checks_what_a_run_checks(desk) -> None:
    data = desk.folder / "other.csv"
    data.write_text("body\none refund\ntwo delivery\nthree question\n")
    chain = str(desk.chain)
    wrong = {
        ("-i", "tiket=x"): "ticket",
        ("-i", "ticket=x", "-i", "tone=loud"): "tone",
        ("--data", str(data)): "ticket",
        ("--map", "ticket=body"): "--map needs --data",
        ("--model", "starter:foo"): "takes no name",
        ("--base-url", "http://x/v1"): "--base-url needs",
    }
    for options, said in wrong.items():
        done = desk.headrace("plan", chain, *options)
        assert done.code == 2 and said in done.err, (options, done.err)
    mapped = ("--data", str(data), "--map", "ticket=body", "--limit", "2", "--model", "openai:other")
    plan = desk.headrace("plan", chain, *mapped, "--json").json()
    assert plan["rows"] == 2
    assert "other" in next(step["model"] for step in plan["steps"] if step["id"] == "triage")
    assert not desk.store.exists()


def test_check_names_a_refusal_before_a_missing_key(desk) -> None:
    path = desk.folder / "foreign.yaml"
    text = """chain: foreign
models:
  far: {provider: openai, model: x, base_url: "https://elsewhere.example/v1"}
  own: {provider: openai, model: x, base_url: "https://llm.example/v1", api_key: "{{ env.MY_KEY }}"}
steps:
  a: {prompt: x, model: far}
  b: {prompt: x, model: own}
"""
    path.write_text(text)
    desk.environment.pop("OPENAI_API_KEY", None)
    said = desk.headrace("check", str(path))
    assert said.code == 0 and "MY_KEY, which is not set" in said.err
    assert "OPENAI_API_KEY belongs to api.openai.com and is not sent to 'elsewhere.example'" in said.err
    assert "variable OPENAI_API_KEY" not in said.err, "setting it would not help"
    found = desk.headrace("check", str(path), "--json").json()
    assert len(found["refused"]) == 1 and found["missing_environment"] == ["MY_KEY"]
    path.write_text(text.replace("elsewhere.example", "api.openai.com"))
    found = desk.headrace("check", str(path), "--json").json()
    assert found["refused"] == [] and found["missing_environment"] == ["MY_KEY", "OPENAI_API_KEY"]


def test_inputs_of_the_command_line(desk) -> None:
    chain = str(desk.chain)
    wrong = {
        ("-i", "ticket=a", "-i", "ticket=b"): "twice",
        ("-i", "ticket"): "NAME=VALUE",
        ("-i", "ticket=@missing.txt"): "missing.txt",
    }
    for options, said in wrong.items():
        done = desk.headrace("run", chain, *options, "--direct")
        assert done.code == 2 and said in done.err, (options, done.err)
    done = subprocess.run(
        [*(part.encode() for part in desk.command("run", chain, "--direct", "-i")), b"ticket=\xff\xfe"],
        capture_output=True,
        cwd=desk.folder,
        env=desk.environment,
    )
    assert done.returncode == 2 and b"not UTF-8" in done.stderr and b"Traceback" not in done.stderr
    assert desk.sent() == 0
    assert desk.headrace("run", chain, "-i", "ticket=@@home refund", "--direct").code == 0
    assert "@home refund" in desk.server.ledger()[0]["body"]
    assert "@@" not in desk.server.ledger()[0]["body"]


@pytest.mark.slow
def test_names_that_are_not_there(desk) -> None:
    missing = str(desk.folder / "nowhere")
    for command in (("resume", "last"), ("run", "--resume", "x"), ("runs",), ("verify",)):
        done = desk.headrace(*command, "--store", missing)
        assert done.code == 3 and "there is no store" in done.err, done.err
    assert not Path(missing).exists()
    assert desk.headrace("run", str(desk.chain), "-i", "ticket=a refund", "--direct").code == 0
    assert "No runs of a chain 'nosuch'" in desk.headrace("runs", "--chain", "nosuch").out
    done = desk.headrace("resume", "nosuch", "--direct")
    assert done.code == 2 and "no run 'nosuch'" in done.err
    huge = desk.headrace("show", "last", "--step", "triage", "--row", "99999999999999999999")
    assert huge.code == 2 and "Traceback" not in huge.err
    for store, said in (("/etc/passwd", "not a folder"), ("/etc/passwd/x", "cannot be made")):
        done = desk.headrace("doctor", "--store", store, "--json")
        found = {finding["what"]: finding for finding in done.json()}
        assert done.code == 3 and found["store"]["state"] == "lacks" and said in found["store"]["text"]


def test_a_run_goes_on_from_another_folder(make_desk: Callable) -> None:
    desk = make_desk({"match": "Ticket 1:", "fault": "status", "status": 400, "times": 1})
    data = desk.tickets(2)
    done = desk.headrace("run", "desk/chain.yaml", "--data", data.name, "--direct")
    assert done.code == 1, done.err
    elsewhere = desk.folder / "elsewhere"
    elsewhere.mkdir()
    again = subprocess.run(
        desk.command("resume", "last", "--direct"), capture_output=True, cwd=elsewhere, env=desk.environment
    )
    assert again.returncode == 0, again.stderr.decode()


def test_an_embedder_that_nothing_uses_keeps_no_run_from_running(desk) -> None:
    text = desk.chain.read_text()
    text = text.replace("models:\n", "models:\n  nowhere: {provider: local, model: ./nowhere}\n")
    text = text.replace("\ndefaults:", "\ncollections:\n  unused: {embedder: nowhere}\n\ndefaults:")
    desk.chain.write_text(text)
    done = desk.headrace("run", str(desk.chain), "-i", "ticket=my refund", "--direct")
    assert done.code == 0, done.err


def test_a_reader_that_goes_away_is_no_error(desk) -> None:
    assert desk.headrace("run", str(desk.chain), "-i", "ticket=my refund", "--direct").code == 0
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as gone:
        done = subprocess.run(
            desk.command("runs", "--json"),
            stdout=gone,
            stderr=subprocess.PIPE,
            cwd=desk.folder,
            env=desk.environment,
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_ctrl_c_before_the_first_call_says_so_and_leaves_no_running_run(desk) -> None:
    # A python module that takes long to import keeps the run in its first step.
    functions = desk.chain.parent / "functions.py"
    functions.write_text("import time\ntime.sleep(30)\n" + functions.read_text())
    process = desk.start(
        "run", str(desk.chain), "-i", "ticket=my refund"
    )  # without --direct: a server starts
    for _ in range(200):
        if (desk.store / "prefect" / "prefect-server.log").exists():
            break
        time.sleep(0.05)
    time.sleep(1.0)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err.decode()
    assert "Stopped." in err.decode() and "Traceback" not in err.decode()
    store = open_store(desk.store)
    try:
        assert [run.status for run in store.runs()] in ([], ["cancelled"])
    finally:
        store.close()


def test_what_an_endpoint_says_reaches_a_terminal_only_written_out(make_desk: Callable) -> None:
    evil = "\x1b[2J\x9b31m\x7f\u202e refund"
    desk = make_desk({"match": "Tone:", "fault": "changed", "text": evil})
    done = desk.headrace("run", str(desk.chain), "-i", "ticket=my refund", "--direct", "--json")
    assert done.code == 0, done.err
    assert done.json()["outputs"]["reply"] == evil
    for arguments in (
        ("show", "last", "--json"),
        ("show", "last", "--step", "reply", "--json"),
        ("show", "last"),
    ):
        out = desk.headrace(*arguments).out
        assert not [char for char in out if char != "\n" and not char.isprintable()], arguments


def test_raw_bytes_go_to_a_file_or_a_pipe_and_never_to_a_terminal(desk) -> None:
    assert desk.headrace("run", str(desk.chain), "-i", "ticket=my refund", "--direct").code == 0
    leader, follower = pty.openpty()
    arguments = desk.command("show", "last", "--step", "triage", "--raw")
    done = subprocess.run(
        arguments, stdout=follower, stderr=subprocess.PIPE, cwd=desk.folder, env=desk.environment
    )
    os.close(follower)
    os.close(leader)
    assert done.returncode == 2 and b"a terminal would obey" in done.stderr
