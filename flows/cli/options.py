"""Options that several commands take, and how their texts are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chains.errors import EnvironmentLacks, InputInvalid
from chains.suggest import shown
from flows.request import RunRequest

ChainArgument = Annotated[
    str, typer.Argument(metavar="CHAIN", help="A chain file, or the name of a shipped chain.")
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, its first letters, or `last`.")]
StepArgument = Annotated[str, typer.Argument(metavar="STEP", help="A step of the run.")]
InputsOption = Annotated[
    list[str] | None,
    typer.Option("-i", "--input", metavar="NAME=VALUE", help="An input; @FILE reads a file, @@ is @."),
]
DataOption = Annotated[Path | None, typer.Option("--data", help="Run over a JSONL, CSV or Parquet file.")]
MapOption = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="INPUT=COLUMN", help="The column that an input takes."),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model", metavar="[NAME=]PROVIDER:MODEL", help="Use another model, such as openai:gpt-5-mini."
    ),
]
BaseUrlOption = Annotated[
    str | None, typer.Option("--base-url", help="Endpoint for --model openai:..., up to /v1.")
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Run only the first N rows.")]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out bad rows of the data, and list them.")
]
OutOption = Annotated[Path | None, typer.Option("--out", help="Write each row's outputs as JSONL.")]
DirectOption = Annotated[bool, typer.Option("--direct", help="Run without Prefect.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="FOLDER", help="The store. Default: HEADRACE_STORE, else .headrace."),
]


def request_of_options(
    chain: str,
    *,
    inputs: list[str] | None,
    data: Path | None,
    mapping: list[str] | None,
    models: list[str] | None,
    base_url: str | None,
    limit: int | None,
    skip_bad: bool,
    shards_on: str | None = None,
) -> RunRequest:
    """Return what the options of `run` and `plan` ask for."""
    return RunRequest(
        chain=chain,
        inputs=read_inputs(inputs),
        data=str(data) if data is not None else None,
        mapping=named_values(mapping, flag="--map"),
        models=tuple(models or ()),
        base_url=base_url,
        skip_bad=skip_bad,
        limit=limit,
        shards_on=shards_on,
        from_text=True,
    )


def named_values(texts: list[str] | None, *, flag: str) -> dict[str, str]:
    """Split `NAME=VALUE` texts; raise InputInvalid for one without `=`, twice the same name, or no UTF-8."""
    found: dict[str, str] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise InputInvalid(f"{flag} {shown(text)} is not NAME=VALUE.", hint=f"Write {flag} name=value.")
        if name in found:
            raise InputInvalid(f"{flag} names {shown(name)} twice.", hint="Give one value for each name.")
        # Python keeps bytes of the command line that are no UTF-8 as lone surrogates.
        if any("\ud800" <= char <= "\udfff" for char in text):
            raise InputInvalid(f"{flag} {shown(name)} is not UTF-8.", hint="Correct its encoding.")
        found[name] = value
    return found


def read_inputs(texts: list[str] | None) -> dict[str, str]:
    """Return the inputs of the command line: `@FILE` is the file's text, `@@text` is `@text`."""
    return {
        name: text_or_file(value, flag=f"-i {name}") for name, value in named_values(texts, flag="-i").items()
    }


def text_or_file(value: str, *, flag: str) -> str:
    """Return a value of the command line: `@FILE` is the file's text, `@@text` is `@text`."""
    if value.startswith("@@"):
        return value[1:]
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputInvalid(f"{flag}=@…: cannot read {shown(value[1:])}: {error}.") from error


def no_store(location: str) -> EnvironmentLacks:
    """Return the error for a store that must be there and is not."""
    return EnvironmentLacks(
        f"there is no store at {shown(location)}.", hint="Name one with --store or HEADRACE_STORE."
    )
