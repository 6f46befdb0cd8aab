"""transformers' Trainer with an order of its own and checkpoints that can be trusted.

Owns the order of the examples and what a checkpoint holds: all trained weights under their own names, since
PEFT's files leave out what it needs no longer (the network of a p-tuning, the ranks that AdaLoRA set aside)
and a training could not go on from them. Knows nothing of methods, pipes or reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tasks.training.checkpoints import seal
from tasks.training.rank_allocation import recall, remembered

TRAINED = "trained.safetensors"
_ALLOCATION = "allocation:"


def trainer_class(base: Any, *, order: Callable[[int, int], Iterable[int]] | None = None) -> Any:
    """Return a subclass of a Trainer; `order` makes the sampler from batch size and seed."""

    # transformers is not followed by mypy, so its classes are Any there.
    class OrderedTrainer(base):  # type: ignore[misc]
        """Takes its order of examples from (seed, epoch), and seals its checkpoints."""

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            if order is None:
                return super()._get_train_sampler(train_dataset)
            return order(self.args.train_batch_size, self.args.seed)

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            # Of an encoder under a head the base class would write all weights, the frozen ones too.
            if not getattr(self.model, "wraps_encoder", False):
                super()._save(output_dir, state_dict)
            if self.keeps_trained():
                keep_trained(self.model, folder)

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            super()._save_checkpoint(model, trial)
            seal(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            if not self.keeps_trained():
                super()._load_from_checkpoint(resume_from_checkpoint, model)
                return
            load_trained(self.model, Path(resume_from_checkpoint))

        def _load_best_model(self) -> None:
            if not self.keeps_trained():
                super()._load_best_model()
                return
            load_trained(self.model, Path(self.state.best_model_checkpoint))

        def keeps_trained(self) -> bool:
            """Whether the base class would store and load less, or much more, than what is trained."""
            return hasattr(self.model, "peft_config") or getattr(self.model, "wraps_encoder", False)

    return OrderedTrainer


def keep_trained(model: Any, folder: Path) -> None:
    """Write every trained weight, and what AdaLoRA remembers."""
    from safetensors.torch import save_file

    tensors = {
        name: value.detach().contiguous().cpu()
        for name, value in model.named_parameters()
        if value.requires_grad
    }
    save_file(
        tensors | {f"{_ALLOCATION}{name}": value for name, value in remembered(model).items()},
        folder / TRAINED,
    )


def load_trained(model: Any, folder: Path) -> None:
    """Put back what `keep_trained` wrote."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(folder / TRAINED)
    allocation = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_ALLOCATION)}
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in tensors.items():
            parameters[name].copy_(value)
    recall(model, {name.removeprefix(_ALLOCATION): value for name, value in allocation.items()})
