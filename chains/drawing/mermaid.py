"""A chain as a Mermaid flowchart, for Markdown that renders it.

Owns Mermaid's syntax; knows nothing of positions, which Mermaid finds itself.
"""

from __future__ import annotations

from chains.graph import Graph
from chains.spec import Chain, kind_of, runs_once


def mermaid(chain: Chain, graph: Graph) -> str:
    """Return the flowchart: a once step has rounded ends, an order without data a dotted line."""
    # Steps by number: a step may be called `end` or `graph`, which Mermaid keeps for itself.
    number = {step: f"s{index}" for index, step in enumerate(graph.order)}
    lines = ["flowchart TD"]
    for step in graph.order:
        label = f'"{step}<br/>{kind_of(chain.steps[step])}"'
        once = runs_once(chain.steps[step])
        lines.append(f"  {number[step]}([{label}])" if once else f"  {number[step]}[{label}]")
    for step in graph.order:
        for other in sorted(graph.needs[step], key=graph.order.index):
            arrow = "-->" if other in graph.reads[step] else "-.->"
            lines.append(f"  {number[other]} {arrow} {number[step]}")
    return "\n".join(lines) + "\n"
