"""The messages of a prompt step: from the chain file to a list of role and text.

Owns the order of parts and where their text comes from (the chain's files, else the text itself). Roles are
structure: each part is rendered alone and once, so no value can open a role or be read as a template.
Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from chains.errors import InputInvalid
from chains.spec import PromptStep, kind_of
from chains.suggest import shown
from chains.templates import render

if TYPE_CHECKING:
    from chains.loading import ChainFile


def prompt_parts(chain_file: ChainFile, step_id: str) -> list[tuple[str, str]]:
    """Return the role and the template source of each message; a bare text or file is one user message."""
    step = chain_file.chain.steps[step_id]
    if not isinstance(step, PromptStep):
        raise InputInvalid(f"step {shown(step_id)} is of kind {kind_of(step)!r} and has no messages.")
    if isinstance(step.prompt, str):
        return [("user", _source(step.prompt, chain_file.files))]
    return [
        (role, _source(text, chain_file.files)) for message in step.prompt for role, text in message.items()
    ]


def render_messages(parts: Sequence[tuple[str, str]], scope: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the messages for one row."""
    return [{"role": role, "content": render(source, scope)} for role, source in parts]


def _source(text: str, files: Mapping[str, bytes]) -> str:
    """Return the content of the chain's file of that name, else the text itself."""
    content = files.get(text)
    return text if content is None else content.decode("utf-8-sig")
