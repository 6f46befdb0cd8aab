"""What a chain uses: environment variables that are missing, and parts that nothing reads.

Owns neither problem nor cure: a missing variable is the machine's lack, an unused part a remark.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from chains.errors import Problem
from chains.graph import collections_of, models_of, nested_templates, templates_of
from chains.inside import every_step
from chains.references import Reference, references
from chains.source.marks import YamlPath
from chains.spec import Chain, EmbedStep, Model, PromptStep
from chains.templates import has_expression

if TYPE_CHECKING:
    from chains.loading import ChainFile


def missing_environment(chain: Chain, env: Mapping[str, str], *, without: Collection[str] = ()) -> list[str]:
    """Return the environment variables that the models and collections in use need and that are not set.

    `without` names models that are left out.
    """
    names, collections = in_use(chain)
    names -= set(without)
    parts: list[Any] = [chain.models[name] for name in chain.models if name in names]
    parts += [chain.collections[name] for name in chain.collections if name in collections]
    wanted: dict[str, None] = {}
    for part in parts:
        texts = [value for _, value in part if isinstance(value, str)]
        texts += part.headers.values() if isinstance(part, Model) else []
        for reference in (reference for text in texts for reference in references(text)):
            if reference.root == "env" and len(reference.path) == 1 and not reference.guarded:
                wanted[reference.path[0]] = None
        if isinstance(part, Model) and _needs_default_key(part, env):
            wanted["AZURE_OPENAI_API_KEY" if part.api_version else "OPENAI_API_KEY"] = None
    return sorted(name for name in wanted if not env.get(name))


def warnings(chain_file: ChainFile) -> list[Problem]:
    """Return what is allowed and probably not meant: unused parts, and samples that are all the same."""
    chain = chain_file.chain
    models, collections = in_use(chain)
    inputs = _inputs_read(chain_file)
    unused: list[YamlPath] = [("models", name) for name in chain.models if name not in models]
    unused += [("collections", name) for name in chain.collections if name not in collections]
    if "*" not in inputs:
        unused += [("inputs", name) for name in chain.inputs if name not in inputs]
    problems = [
        Problem(chain_file.where(*path), f"{str(path[0])[:-1]} {path[1]!r} is used by no step")
        for path in unused
    ]
    for found in every_step(chain):
        step, step_id = found.step, found.name
        if isinstance(step, PromptStep) and step.samples > 1 and _answers_the_same(step, chain):
            words = f"the samples of step {step_id!r} are all the same: its model has `temperature: 0`"
            problems.append(Problem(chain_file.where(*found.path, "samples"), words))
    return sorted(problems, key=lambda problem: problem.location)


def in_use(chain: Chain) -> tuple[set[str], set[str]]:
    """Return the models (for finetune: the base as written) and the collections that some step uses."""
    models = {name for step in chain.steps.values() for name in models_of(step, chain)}
    collections = {
        name
        for step in chain.steps.values()
        for name in [*collections_of(step), step.into if isinstance(step, EmbedStep) else None]
        if name is not None
    }
    return models, collections


def _inputs_read(chain_file: ChainFile) -> set[str]:
    chain = chain_file.chain
    found: list[Reference] = []
    for step_id in chain.steps:
        for _, source, bare, _ in templates_of(step_id, chain_file):
            found += references(source, bare=bare)
    for template in nested_templates(("outputs",), chain.outputs):
        found += references(template.source)
    return {reference.path[0] if reference.path else "*" for reference in found if reference.root == "inputs"}


def _answers_the_same(step: PromptStep, chain: Chain) -> bool:
    model = chain.models.get(step.model or chain.defaults.model or "")
    if model is None:
        return False
    # Models of this machine sample only where they are told to.
    return model.temperature == 0 or (model.temperature is None and model.provider != "openai")


def _needs_default_key(model: Model, env: Mapping[str, str]) -> bool:
    """Whether a model falls back to the usual variable; a server on this machine mostly wants no key."""
    if model.provider != "openai" or model.api_key is not None:
        return False
    url = model.base_url or env.get("OPENAI_BASE_URL") or ""
    if has_expression(url):
        return False
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return not (host == "localhost" or host.startswith("127.") or host == "::1")
