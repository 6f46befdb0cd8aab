"""`headrace graph` and `headrace schema`: a chain as a picture, and the form of chain files for editors."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from flows.cli.options import ChainArgument


class Format(StrEnum):
    """How a chain is drawn."""

    MERMAID = "mermaid"
    SVG = "svg"


def graph(
    chain: ChainArgument,
    form: Annotated[Format, typer.Option("--format", help="For Markdown, or a picture.")] = Format.MERMAID,
) -> None:
    """Draw the steps of a chain and what each needs."""
    from chains.drawing import draw_file, mermaid, svg
    from chains.loading import find_chain, load
    from chains.settings import get_settings

    chain_file = load(find_chain(chain), settings=get_settings())
    text = mermaid(chain_file) if form == Format.MERMAID else svg(draw_file(chain_file))
    sys.stdout.buffer.write(text.encode("utf-8"))


def schema() -> None:
    """Print the JSON Schema of chain files, for editors that check YAML."""
    from chains.file_schema import file_schema
    from flows.cli.text import print_json

    print_json(file_schema())
