"""What a call costs: a dated table of list prices, a machine's own table before it, a model's `price:` first.

Owns the tables and the arithmetic. Knows nothing of budgets. Invariant: what is not known is None, never 0;
cached input is counted at the full price, so a cost is never told too low.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import orjson
from pydantic import ValidationError

from chains.errors import EnvironmentLacks
from chains.spec import Model, Part, Price

SHIPPED = Path(__file__).with_name("prices.json")
FREE = Price(input=0.0, output=0.0)
_DATED = re.compile(r"-20\d\d-?[01]\d-?[0-3]\d$")


class _Table(Part):
    """A file of prices. `hosts` are those whose prices they are; empty: any endpoint's."""

    as_of: str = ""
    source: str = ""
    hosts: tuple[str, ...] = ()
    models: dict[str, Price]


@dataclass(frozen=True, slots=True)
class Prices:
    """The tables that hold on this machine, in the order in which they are asked."""

    tables: tuple[_Table, ...]

    def of(self, model: Model, host: str) -> Price | None:
        """Return the price of a model at an endpoint; None where it is not known."""
        if model.price is not None:
            return model.price
        if model.provider != "openai":
            return FREE
        name = model.model or ""
        for table in self.tables:
            if table.hosts and host not in table.hosts:
                continue
            # A dated snapshot costs what its name without the date costs.
            found = table.models.get(name) or table.models.get(_DATED.sub("", name))
            if found is not None:
                return found
        return None


def prices_of(path: str | None) -> Prices:
    """Return the shipped table, after the machine's own (HEADRACE_PRICES) where there is one."""
    return Prices((*([_read(Path(path))] if path else []), _shipped()))


def cost_micro(price: Price | None, tokens_in: int | None, tokens_out: int | None) -> int | None:
    """Return micro-dollars: dollars per million tokens are micro-dollars per token."""
    if price is None:
        return None
    total = 0.0
    for each, tokens in ((price.input, tokens_in), (price.output, tokens_out)):
        if each:
            if tokens is None:
                return None
            total += each * tokens
    return round(total)


@cache
def _shipped() -> _Table:
    return _read(SHIPPED)


def _read(path: Path) -> _Table:
    hint = 'Write {"models": {"NAME": {"input": 0.25, "output": 2.0}}}, in US dollars per million tokens.'
    try:
        content: Mapping[str, object] = orjson.loads(path.read_bytes())
        return _Table.model_validate(content)
    except OSError as error:
        raise EnvironmentLacks(
            f"the prices in {str(path)!r} cannot be read ({error.strerror}).", hint="Correct HEADRACE_PRICES."
        ) from error
    except (orjson.JSONDecodeError, ValidationError) as error:
        said = error.errors(include_url=False)[0] if isinstance(error, ValidationError) else None
        what = f"{'.'.join(map(str, said['loc']))}: {said['msg']}" if said else str(error)
        raise EnvironmentLacks(f"the prices in {str(path)!r} are wrong: {what[:200]}.", hint=hint) from error
