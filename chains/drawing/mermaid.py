"""A chain as a Mermaid flowchart, for Markdown that renders it.

Owns Mermaid's syntax; knows nothing of positions, which Mermaid finds itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from chains.graph import body_of, graph_of_file
from chains.spec import ChainStep, RepeatStep, kind_of, runs_once

if TYPE_CHECKING:
    from chains.loading import ChainFile


def mermaid(chain_file: ChainFile) -> str:
    """Return the flowchart: a once step has rounded ends, an order without data a dotted line."""
    return "\n".join(["flowchart TD", *_level(chain_file, "s", "  ")]) + "\n"


def _level(chain_file: ChainFile, prefix: str, indent: str) -> Iterator[str]:
    # Steps by number: a step may be called `end` or `graph`, which Mermaid keeps for itself.
    chain, graph = chain_file.chain, graph_of_file(chain_file)
    number = {step: f"{prefix}{index}" for index, step in enumerate(graph.order)}
    for step_id in graph.order:
        step = chain.steps[step_id]
        label = f'"{step_id}<br/>{kind_of(step)}"'
        inside = _inside(chain_file, step_id)
        if inside is not None:
            yield f"{indent}subgraph {number[step_id]}[{label}]"
            yield from _level(inside, f"{number[step_id]}_", indent + "  ")
            yield f"{indent}end"
        elif runs_once(step):
            yield f"{indent}{number[step_id]}([{label}])"
        else:
            yield f"{indent}{number[step_id]}[{label}]"
    for step_id in graph.order:
        for other in sorted(graph.needs[step_id], key=graph.order.index):
            arrow = "-->" if other in graph.reads[step_id] else "-.->"
            yield f"{indent}{number[other]} {arrow} {number[step_id]}"


def _inside(chain_file: ChainFile, step_id: str) -> ChainFile | None:
    """Return the steps inside a step as a chain of their own."""
    match chain_file.chain.steps[step_id]:
        case RepeatStep() as step:
            return body_of(chain_file, step)
        case ChainStep() as step:
            return chain_file.chains.get(step.chain)
        case _:
            return None
