"""Puts a value into the text of a chain file and leaves everything else in it as it is, comments too.

Owns where a value ends and how a new one is written: as JSON, on one line, so that what stands below keeps
its place as far as may be. Knows nothing of what keys mean.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

from chains.source.marks import YamlPath


def with_value(text: str, path: YamlPath, value: Any) -> str:
    """Return the text of a YAML file with `value` at `path`; mappings that are missing on the way are made.

    Raises KeyError where the path leads through something that is no mapping (or list) or is not there.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert root is not None  # a file without a value is no chain file
    node, depth = root, 0
    key_node: yaml.Node | None = None
    while depth < len(path):
        found = _child(node, path[depth])
        if found is None:
            break
        key_node, node = found
        depth += 1
    if depth == len(path):
        return _replaced(text, key_node, node, value)
    if isinstance(path[depth], int):
        raise KeyError(path[depth])
    for name in reversed(path[depth + 1 :]):
        value = {name: value}
    if isinstance(node, yaml.MappingNode):
        return _inserted(text, node, str(path[depth]), value)
    if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null") and key_node is not None:
        return _replaced(text, key_node, node, {path[depth]: value})
    raise KeyError(path[depth])


def _child(node: yaml.Node, name: str | int) -> tuple[yaml.Node | None, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == name:
                return key, value
    if isinstance(node, yaml.SequenceNode) and isinstance(name, int) and name < len(node.value):
        return None, node.value[name]
    return None


def _replaced(text: str, key: yaml.Node | None, node: yaml.Node, value: Any) -> str:
    end = _end(text, node)
    if key is None:
        return text[: node.start_mark.index] + written(value) + text[end:]
    # From the key on: what was a block may stand where a value on one line may not.
    return text[: key.end_mark.index] + ": " + written(value) + text[max(end, _after_colon(text, key)) :]


def _after_colon(text: str, key: yaml.Node) -> int:
    return text.index(":", key.end_mark.index) + 1


def _inserted(text: str, node: yaml.MappingNode, name: str, value: Any) -> str:
    """Put a new key before the first one, where its indentation is known."""
    entry = f"{written_key(name)}: {written(value)}"
    start = node.start_mark.index
    if node.flow_style:
        return text[: start + 1] + entry + (", " if node.value else "") + text[start + 1 :]
    first: yaml.Mark = node.value[0][0].start_mark
    return text[: first.index] + entry + "\n" + " " * first.column + text[first.index :]


def _end(text: str, node: yaml.Node) -> int:
    """Return where a node's own text ends, without the blank lines and comments that follow a block."""
    if isinstance(node, yaml.ScalarNode):
        end = int(node.end_mark.index)
        return len(text[:end].rstrip()) if node.style in ("|", ">") else end
    assert isinstance(node, yaml.CollectionNode)
    if node.flow_style or not node.value:
        return int(node.end_mark.index)
    pairs = isinstance(node, yaml.MappingNode)
    return max(_end(text, child) for item in node.value for child in (item if pairs else (item,)))


def written(value: Any) -> str:
    """Return a value as JSON that YAML reads as the same value."""
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quoted(str(key))}: {written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(written(item) for item in value) + "]"
    return json.dumps(value)


def written_key(name: str) -> str:
    """Return a key: a name as it is, anything else quoted."""
    return name if name.replace("_", "a").replace("-", "a").isalnum() and name[0].isalpha() else _quoted(name)


def _quoted(text: str) -> str:
    """Quote a text: JSON's escapes are YAML's, but for what YAML does not take as it is."""
    found = []
    for char in json.dumps(text, ensure_ascii=False):
        if char.isprintable():
            found.append(char)
        else:
            code = ord(char)
            found.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return "".join(found)
