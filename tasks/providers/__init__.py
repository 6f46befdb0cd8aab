"""The models of one run: opened when first used, one instance and one gate per name under `models:`.

Owns what every provider can do (`Provider`) and their life. Knows nothing of how one of them works: each
kind is imported when a chain names it, so that a run on a remote model loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from chains.errors import HeadraceError, InputInvalid
from chains.spec import Model, Price
from chains.suggest import did_you_mean
from tasks.budgets import Reservations
from tasks.prices import prices_of
from tasks.providers.gate import Gate
from tasks.providers.hosted import STORED, found_hosted, hosted_model
from tasks.providers.rates import Rates, rate_name
from tasks.providers.reply import Completion, Reply

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from chains.settings import Settings
    from chains.store import Store
    from tasks.providers.http import Endpoint
    from tasks.providers.streams import OnText
    from tasks.providers.trust import Granted
    from tasks.providers.weights import Reach

__all__ = ["Completion", "Gate", "Provider", "Providers", "Reply"]


class Provider(Protocol):
    """One model as the steps see it. `send_*` tries once; the retry loop is tasks.attempts."""

    @property
    def name(self) -> str:
        """The name under `models:`."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides the answer, for value keys: who answers and how it samples; never a key."""
        ...

    @property
    def deterministic(self) -> bool:
        """Whether the same request gets the same answer."""
        ...

    @property
    def concurrency(self) -> int:
        """Calls in flight at once."""
        ...

    def chat_request(
        self,
        messages: list[dict[str, str]],
        *,
        schema: dict[str, Any] | None,
        sample: int,
        stream: bool = False,
    ) -> bytes:
        """Return exactly the bytes that go out; `stream` asks for an answer that comes in parts."""
        ...

    async def send_chat(self, request: bytes, *, timeout: float) -> Reply:
        """Send them, once."""
        ...

    async def stream_chat(self, request: bytes, *, timeout: float, on_text: OnText) -> Reply:
        """Send them, once, and tell the text while it comes."""
        ...

    def read_chat(self, reply: Reply) -> Completion:
        """Return what the model said."""
        ...

    def embed_request(self, texts: Sequence[str]) -> bytes:
        """Return exactly the bytes that go out."""
        ...

    async def send_embed(self, request: bytes, *, timeout: float) -> Reply:
        """Send them, once."""
        ...

    def read_embed(self, reply: Reply) -> np.ndarray:
        """Return float32 vectors, one row per text, in their order."""
        ...

    def count_tokens(self, text: str) -> int:
        """Count, or estimate, the tokens of a text."""
        ...

    async def aclose(self) -> None:
        """Let go of connections and weights."""
        ...


class Providers:
    """The models of one run, by name. Use it within one event loop.

    `folder` is the chain's: a local model's path counts from there, and leads out of it only where the
    machine's settings or the user (`granted`) say so. Without it paths are the caller's own.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        *,
        store: Store,
        settings: Settings,
        env: Mapping[str, str],
        granted: Granted | None = None,
        folder: Path | None = None,
    ) -> None:
        self._models = models
        self._store = store
        self._settings = settings
        self._env = env
        self._granted = granted
        self._folder = folder
        self.reservations = Reservations()
        self._open: dict[str, Provider] = {}
        self._hosted: dict[str, Model] = {}
        self._gates: dict[str, Gate] = {}
        self._stopped: HeadraceError | None = None
        self._rates: dict[str, Rates | None] = {}
        self._prices: dict[str, Price | None] = {}
        self._endpoints: dict[tuple[object, ...], Endpoint] = {}
        self._answered_as: set[tuple[str, str]] = set()

    def check(self, names: Iterable[str]) -> list[str]:
        """Return what keeps models from being used: missing keys and weights, hosts that are not allowed.

        A model of the store (`models:NAME@latest`) is left out: the run itself may publish it.
        """
        problems = self._wrong_prices()
        for name in dict.fromkeys(names):
            try:
                model = self._model(name)
                stored = (model.model or "").startswith(STORED)
                if model.provider == "openai" and not stored:
                    self._endpoint(name, model)
                elif not stored:
                    self.get(name)
            except HeadraceError as error:
                problems.append(str(error))
        return problems

    def get(self, name: str) -> Provider:
        """Return the model of this name, opened at the first call."""
        if name not in self._open:
            model = self._model(name)
            if model.provider == "openai" and (model.model or "").startswith(STORED):
                # From here on this run means this version, whatever is published meanwhile.
                model = self._hosted[name] = hosted_model(name, model, self._store)
            self._open[name] = self._opened(name, model)
        return self._open[name]

    def gate(self, name: str) -> Gate:
        """Return the gate that all callers of this model share."""
        if name not in self._gates:
            self._gates[name] = Gate(self._model(name).limits.concurrency)
            if self._stopped is not None:
                self._gates[name].shut(self._stopped)
        return self._gates[name]

    def stop(self, reason: HeadraceError) -> None:
        """Let no further call of any model begin; those that are under way come to their end."""
        self._stopped = reason
        for gate in self._gates.values():
            gate.shut(reason)

    def rates(self, name: str) -> Rates | None:
        """Return the rates that all callers of this model share, if it has any."""
        if name not in self._rates:
            limits, model = self._model(name).limits, self._model(name)
            limited = limits.requests_per_minute is not None or limits.tokens_per_minute is not None
            address = self._endpoint(name, model).base_url if model.provider == "openai" else "local"
            bucket = rate_name(address, model.model or model.provider)
            self._rates[name] = Rates(self._store, bucket, limits) if limited else None
        return self._rates[name]

    def price(self, name: str) -> Price | None:
        """Return what a model costs, or None where that is not known."""
        if name not in self._prices:
            model = self._model(name)
            host = self._endpoint(name, model).host if model.provider == "openai" else ""
            self._prices[name] = prices_of(self._settings.prices).of(model, host)
        return self._prices[name]

    def described(self, name: str) -> Model:
        """Return what the chain says of a model."""
        return self._model(name)

    def is_news(self, name: str, answered: str) -> bool:
        """Whether an endpoint now answers as another model than the chain names, and for the first time."""
        model, seen = self._model(name), (name, answered)
        if model.provider != "openai" or seen in self._answered_as:
            return False
        if answered.startswith(model.model or ""):
            return False  # gpt-5-mini answered as gpt-5-mini-2025-08-07 is no surprise
        self._answered_as.add(seen)
        return True

    async def aclose(self) -> None:
        """Close every model that was opened; the first error is raised when all had their turn."""
        opened, self._open = list(self._open.values()), {}
        self._gates.clear()
        self._rates.clear()
        failures = []
        for provider in opened:
            try:
                await provider.aclose()
            except (HeadraceError, OSError) as error:
                failures.append(error)
        self._endpoints.clear()
        if failures:
            raise failures[0]

    def _wrong_prices(self) -> list[str]:
        try:
            prices_of(self._settings.prices)
        except HeadraceError as error:
            return [str(error)]
        return []

    def _model(self, name: str) -> Model:
        if name not in self._models:
            raise InputInvalid(f"no model is named {name!r}.", hint=did_you_mean(name, self._models))
        model = self._hosted.get(name, self._models[name])
        if model.provider == "openai" and (model.model or "").startswith(STORED):
            # The run itself may publish it: until it is asked, there may be no such version.
            return found_hosted(model, self._store) or model
        return model

    def _opened(self, name: str, model: Model) -> Provider:
        match model.provider:
            case "openai":
                from tasks.providers.openai import OpenAIProvider

                return OpenAIProvider(name, model, self._endpoint(name, model))
            case "local":
                from tasks.providers.local import open_local

                return open_local(name, model, store=self._store, settings=self._settings, reach=self.reach)
            case "starter":
                from tasks.providers.starter import open_starter

                return open_starter(name, model, store=self._store, settings=self._settings)

    @property
    def reach(self) -> Reach:
        """Which folders the chain's local models may be in."""
        from tasks.providers.weights import Reach

        folders = self._granted.folders if self._granted is not None else frozenset()
        return Reach(self._folder, self._settings.read_outside, folders)

    def _endpoint(self, name: str, model: Model) -> Endpoint:
        """Return the connections to a model's address; models with the same address and key share them."""
        from tasks.providers.openai import open_endpoint
        from tasks.providers.trust import Trust

        trust = Trust.of(self._settings, self._env, self._granted)
        fresh = open_endpoint(name, model, settings=self._settings, trust=trust)
        return self._endpoints.setdefault(fresh.shared_by, fresh)
