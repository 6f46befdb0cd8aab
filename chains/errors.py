"""All errors that Headrace raises, in one tree.

x HeadraceError
  + Transient                 the same thing may work later; a retry makes sense
    - ConnectionFailed        no connection, reset, DNS
    - TimedOut                connect, first byte, between chunks or total deadline
    - RateLimited             429
    - ServerFault             5xx, 408, 409, 425
    - InvalidBody             a 200 whose body is cut, not JSON, or not a completion
    - StoreBusy               the store is locked by another process
  + Terminal                  the same thing will fail again
    - ChainInvalid            one or more problems in a chain file
    - InputInvalid            a wrong input value, a bad row in a data file
    - EnvironmentLacks        a key, model, package, server or device that is not there
    - Refused                 what the machine's settings do not allow
    - CallRefused             400, 401, 403, 404, 422
      - ContextOverflow       the prompt is longer than the model's window
      - ContentFiltered       a refusal or a content filter
    - BudgetExceeded          the call would cost more than a budget leaves
    - OutputTruncated         the answer ended at max_tokens
    - OutputInvalid           the answer does not fit `output:`, also after re-asking
    - TemplateFailed          a template or expression failed on its values
    - StepFailed              a step's own work failed (a Python step, a metric)
      - GateNotMet            an evaluate or finetune step ran, and its gate says no
    - TrainingDiverged        the loss is NaN, infinite or exploding
    - CollectionMismatch      vectors that do not fit a collection
    - CollectionBusy          an embedded collection is open in another process
    - StoreDamaged            a blob or row that does not match its hash
    - StoreConflict           a row or folder that contradicts what is there already
    - StoreVersion            a store written by a newer Headrace
    - Cancelled               the run was stopped

Every class is `Transient` or `Terminal`: the retry policy is a type, never a match on a message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class HeadraceError(Exception):
    """Anything that goes wrong in a way a user can act on.

    `message` says what happened and where; `hint` says what to do. Where a step's work raises it, the other
    attributes carry what the failed record keeps: the values that the step read, the messages that it sent,
    what it had measured, its rows' own records, how each attempt ended, and what they came to (`tally` has
    `tokens_in`, `tokens_out` and `cost_micro`).
    """

    inputs: Mapping[str, Any] | None = None
    messages: list[dict[str, str]] | None = None
    output: dict[str, Any] | None = None
    row_records: Sequence[Any] = ()
    history: Sequence[str] = ()
    tally: Any = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class Transient(HeadraceError):
    """May work when tried again. `retry_after` is in seconds where the other side named it.

    `reached` is False where nothing at all came back from the other side, not even a refusal.
    """

    reached: bool = True

    def __init__(self, message: str, *, hint: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class Terminal(HeadraceError):
    """Will fail again in the same way."""


class ConnectionFailed(Transient):
    """No connection to the endpoint could be made or kept."""

    reached = False


class TimedOut(Transient):
    """A deadline of the call passed."""


class RateLimited(Transient):
    """The endpoint answered 429."""


class ServerFault(Transient):
    """The endpoint answered with a passing fault of its own."""


class InvalidBody(Transient):
    """The endpoint answered 200 with a body that is no answer."""


class StoreBusy(Transient):
    """The store is locked by another process."""


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """A place in a file; `line` and `column` count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding about a chain file: where, what, and what to do."""

    location: Location
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        text = f"{self.location}: {self.message}"
        return f"{text} {self.hint}" if self.hint else text


class ChainInvalid(Terminal):
    """A chain file has problems; all of them are in `problems`, in file order."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(problems, key=lambda problem: problem.location)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class InputInvalid(Terminal):
    """An input value or a row of a data file is wrong."""


class EnvironmentLacks(Terminal):
    """Something the chain needs is not on this machine."""


class Refused(Terminal):
    """The settings of this machine do not allow it."""


class CallRefused(Terminal):
    """The endpoint refused the request, and would refuse it again."""


class ContextOverflow(CallRefused):
    """The prompt does not fit the model's context window."""


class ContentFiltered(CallRefused):
    """The model or its filter declined to answer."""


class BudgetExceeded(Terminal):
    """The call was not made: it might have cost more than a budget leaves."""


class OutputTruncated(Terminal):
    """The answer stopped at the token limit."""


class OutputInvalid(Terminal):
    """The answer does not fit the step's `output:`."""


class TemplateFailed(Terminal):
    """A template or an expression failed on the values of this row."""


class StepFailed(Terminal):
    """A step could not do its own work."""


class GateNotMet(StepFailed):
    """The step ran and its `gate:` is false."""


class TrainingDiverged(Terminal):
    """Training stopped because its loss is NaN, infinite or exploding."""


class CollectionMismatch(Terminal):
    """Vectors or an embedder that do not fit the collection."""


class CollectionBusy(Terminal):
    """An embedded collection is held by another process."""


class StoreDamaged(Terminal):
    """What the store holds does not match its hash."""


class StoreConflict(Terminal):
    """A row whose parent is unknown or whose place is taken, or a folder that holds something else."""


class StoreVersion(Terminal):
    """The store was written by another version of Headrace."""


class Cancelled(Terminal):
    """The run was stopped before this was done."""
