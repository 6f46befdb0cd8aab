"""What is told of a training while it runs, and when it is stopped: asked to, or because the loss runs away.

Owns the callback that every trainer gets. Knows nothing of pipes: it reports through a function and asks
another one whether to stop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chains.errors import TrainingDiverged
from tasks.training.fitting import VALIDATION_LOSS

EXPLODED = 3.0
FIRST_LOSSES = 5


@dataclass(frozen=True, slots=True)
class Watch:
    """How the loop talks to whoever started it."""

    report: Callable[[dict[str, Any]], None]
    should_stop: Callable[[], bool]


def memory_mb() -> int:
    """Return the most memory that the training has held, in MB: the device's, or the process's on CPU."""
    import resource

    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated() // 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def watcher(watch: Watch, *, guessing: float) -> Any:
    """Make the callback; `guessing` is the loss of a model that finds every token equally likely."""
    from transformers import TrainerCallback

    # transformers is not followed by mypy, so its classes are Any there.
    class Watcher(TrainerCallback):  # type: ignore[misc]
        """Reports each step, stops when asked to, and raises when the loss runs away."""

        def __init__(self) -> None:
            self.first: list[float] = []
            self.saved: int | None = None

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.saved = state.global_step
            watch.report({"event": "checkpoint", "step": state.global_step})

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in (logs or {}):
                self._check(state.global_step, logs)
                watch.report(
                    {
                        "event": "step",
                        "step": state.global_step,
                        "total": state.max_steps,
                        "loss": float(logs["loss"]),
                        "learning_rate": float(logs.get("learning_rate", 0.0)),
                        "grad_norm": float(logs.get("grad_norm", 0.0)),
                        "tokens": int(state.num_input_tokens_seen),
                        "memory_mb": memory_mb(),
                    }
                )
            elif VALIDATION_LOSS in (logs or {}):
                loss = float(logs[VALIDATION_LOSS])
                watch.report({"event": "validation", "step": state.global_step, "loss": loss})

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if watch.should_stop():
                control.should_training_stop = True
                control.should_save = True

        def _kept(self) -> str:
            none = "No checkpoint had been written before."
            return none if self.saved is None else f"The checkpoint of step {self.saved} is kept."

        def _check(self, step: int, logs: dict[str, Any]) -> None:
            loss, rate = float(logs["loss"]), float(logs.get("learning_rate", 0.0))
            norm = float(logs.get("grad_norm", 0.0))
            self.first = self.first if len(self.first) >= FIRST_LOSSES else [*self.first, loss]
            # A base that knows the task starts near zero: only what is worse than guessing has run away.
            exploded = loss > max(EXPLODED * max(self.first), guessing)
            if not math.isfinite(loss) or not math.isfinite(norm) or exploded:
                raise TrainingDiverged(
                    f"Training diverged at step {step}: loss {loss:.4g}, gradient norm {norm:.4g}, "
                    f"learning rate {rate:.3g}.",
                    hint="Lower learning_rate, raise warmup_steps, or look for broken rows in the data. "
                    f"{self._kept()}",
                )

    return Watcher()
