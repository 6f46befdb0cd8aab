"""When a chain runs by itself: what `schedule:` may say.

Owns the forms of a schedule and whether a time rule can be read. Knows nothing of who starts the runs, and of
the chain's inputs (chains.check).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from chains.spec.parts import Duration, Part

_LONGEST_RULE = 6000
_RULES = ("cron", "interval", "rrule")


class Schedule(Part):
    """One time rule, and what each of its runs is given."""

    cron: str | None = Field(default=None, max_length=200)
    """Five fields: minute, hour, day of the month, month, day of the week."""
    interval: Duration | None = Field(default=None)
    """Time between two runs, from 1 s."""
    rrule: str | None = Field(default=None, max_length=_LONGEST_RULE)
    """A recurrence rule (RFC 5545), such as `FREQ=WEEKLY;BYDAY=MO,FR;BYHOUR=7`."""
    timezone: str = "UTC"
    """Where the clock hangs that the rule goes by, such as `Europe/Berlin`."""
    inputs: dict[str, Any] = {}
    """Values of inputs."""
    data: str | None = None
    """A data set to run over: a path on the worker's machine, relative to the chain's folder."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first rows of the data set."""
    active: bool = True
    """Whether it starts runs."""

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, value: str | None) -> str | None:
        if value is None:
            return value
        from cronsim import CronSim, CronSimError

        try:
            if len(value.split()) != 5:
                raise CronSimError("it has not five fields")
            CronSim(value, datetime(2000, 1, 1))
        except CronSimError as error:
            raise ValueError(
                f"{value!r} is no cron rule ({str(error).lower()}); write five fields, such as '0 7 * * 1-5'"
            ) from error
        return value

    @field_validator("interval")
    @classmethod
    def _is_long_enough(cls, value: float | None) -> float | None:
        if value is not None and value < 1:
            raise ValueError("'interval' is at least 1s")
        return value

    @field_validator("rrule")
    @classmethod
    def _is_rrule(cls, value: str | None) -> str | None:
        if value is None:
            return value
        from dateutil.rrule import rrulestr

        try:
            rrulestr(value)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(
                f"{value!r:.200} is no recurrence rule; write one such as 'FREQ=WEEKLY;BYDAY=MO'"
            ) from error
        return value

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{value!r:.100} is no time zone; write its IANA name, such as 'Europe/Berlin'"
            ) from error
        return value

    @model_validator(mode="after")
    def _has_one_rule(self) -> Schedule:
        given = [name for name in _RULES if getattr(self, name) is not None]
        if len(given) != 1:
            said = f"not {' and '.join(repr(name) for name in given)}" if given else "and this one has none"
            raise ValueError(f"a schedule has one of 'cron', 'interval' and 'rrule', {said}")
        if self.limit is not None and self.data is None:
            raise ValueError("'limit' needs 'data'")
        return self
