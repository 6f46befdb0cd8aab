"""The command `headrace`: its commands, its exit codes and its one error border.

Exit codes: 0 ok, 1 the run failed, 2 usage, a bad chain or bad data, 3 the environment lacks something,
130 stopped by Ctrl-C. Each command imports what it needs when it runs, so that `--help` is instant.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from chains.errors import ChainInvalid, EnvironmentLacks, HeadraceError, InputInvalid, Refused, StoreVersion
from flows.cli import again, check, demo, doctor, read, run

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
app.command("run")(run.run)
app.command("resume")(again.resume)
app.command("retry")(again.retry)
app.command("runs")(read.runs)
app.command("show")(read.show)
app.command("models")(read.models)
app.command("verify")(read.verify)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)

USAGE_ERRORS = (ChainInvalid, InputInvalid, Refused)
ENVIRONMENT_ERRORS = (EnvironmentLacks, StoreVersion)


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    try:
        app()
    except HeadraceError as error:
        _fail(str(error), _code(error))
    except KeyboardInterrupt:
        _fail("Stopped.", 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)  # the reader of a pipe went away, as `head` does
    except Exception as error:
        import traceback

        traceback.print_exc()
        _fail(f"This is a fault of Headrace, not of your chain: {type(error).__name__}: {error}", 1)
    sys.exit(0)


def _code(error: HeadraceError) -> int:
    if isinstance(error, USAGE_ERRORS):
        return 2
    return 3 if isinstance(error, ENVIRONMENT_ERRORS) else 1


def _fail(message: str, code: int) -> NoReturn:
    from flows.cli.text import safe

    print(safe(message), file=sys.stderr)
    sys.exit(code)
