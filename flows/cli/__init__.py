"""The command `headrace`: its commands, its exit codes and its one error border.

Exit codes: 0 ok, 1 the run failed, 2 usage, a bad chain or bad data, 3 the environment lacks something,
130 stopped by Ctrl-C. Each command imports what it needs when it runs, so that `--help` is instant.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer
import typer.main

from chains.errors import ChainInvalid, EnvironmentLacks, HeadraceError, InputInvalid, Refused, StoreVersion
from flows.cli import (
    again,
    approve,
    call,
    check,
    demo,
    deploy,
    diff,
    doctor,
    graph,
    harness,
    keep,
    models,
    read,
    replay,
    run,
    show,
    testcase,
    ui,
    up,
    why,
    worker,
)

app = typer.Typer(
    name="headrace",
    help="LLM chains as Prefect flows, with every prompt and response kept.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("check")(check.check)
app.command("plan")(check.plan)
app.command("graph")(graph.graph)
app.command("schema")(graph.schema)
app.command("run")(run.run)
app.command("resume")(again.resume)
app.command("retry")(again.retry)
app.command("replay")(replay.replay)
app.command("cancel")(again.cancel)
app.command("approve")(approve.approve)
app.command("runs")(read.runs)
app.command("show")(show.show)
app.command("why")(why.why)
app.command("diff")(diff.diff)
app.command("testcase")(testcase.testcase)
app.command("ui")(ui.ui)
app.add_typer(models.app, name="models")
app.command("verify")(keep.verify)
app.command("prune")(keep.prune)
app.command("export")(keep.export)
app.command("deploy")(deploy.deploy)
app.command("up")(up.up)
app.command("call")(call.call)
app.command("result")(call.result)
app.command("worker")(worker.worker)
app.command("harness")(harness.harness)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)

USAGE_ERRORS = (ChainInvalid, InputInvalid, Refused)
ENVIRONMENT_ERRORS = (EnvironmentLacks, StoreVersion)


_UsageError = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
"""What a wrong option raises; typer brings a click of its own or takes the installed one."""


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    code = 0
    try:
        # Not `app()`: it ends silently on Ctrl-C, and with 1 when the reader of a pipe went away.
        command = typer.main.get_command(app)
        with command.make_context("headrace", sys.argv[1:]) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as ended:
        code = ended.exit_code
    except typer.Abort:
        _fail("Stopped.", 130)
    except HeadraceError as error:
        _fail(str(error), _code(error))
    except KeyboardInterrupt:
        _fail("Stopped.", 130)
    except BrokenPipeError:
        _leave_pipe()
    except Exception as error:
        if isinstance(error, _UsageError):
            error.show()  # type: ignore[attr-defined]  # a ClickException
            sys.exit(2)
        import traceback

        traceback.print_exc()
        _fail(f"This is a fault of Headrace, not of your chain: {type(error).__name__}: {error}", 1)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_pipe()
    sys.exit(code)


def _leave_pipe() -> NoReturn:
    """End quietly: the reader of a pipe went away, as `head` does. What is buffered goes nowhere."""
    sink = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(sink, stream.fileno())
    sys.exit(0)


def _code(error: HeadraceError) -> int:
    if isinstance(error, USAGE_ERRORS):
        return 2
    return 3 if isinstance(error, ENVIRONMENT_ERRORS) else 1


def _fail(message: str, code: int) -> NoReturn:
    from flows.cli.text import safe

    print(safe(message), file=sys.stderr)
    sys.exit(code)
