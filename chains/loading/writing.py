"""From a `Chain` back to YAML that loads as the same chain.

Owns quoting: a text that a plain scalar would turn into something else is quoted. Writes only what was set.
"""

from __future__ import annotations

from typing import Any

import yaml

from chains.source.scalars import ScalarRefused, plain_value
from chains.spec import Chain


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True  # a chain file has none

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style: str | None = None
    if "\n" in text and not any(line.endswith((" ", "\t")) for line in text.split("\n")):
        style = "|"
    elif not _stays_text(text):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _stays_text(text: str) -> bool:
    try:
        return isinstance(plain_value(text), str) and text != "<<"
    except ScalarRefused:
        return False


_Dumper.add_representer(str, _represent_text)


def to_yaml(chain: Chain) -> str:
    """Write a chain as YAML."""
    values = chain.model_dump(mode="json", exclude_unset=True, by_alias=True)
    text: str = yaml.dump(
        values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, default_flow_style=False
    )
    return text
