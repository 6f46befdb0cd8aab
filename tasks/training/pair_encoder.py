"""An embedder in training: the vectors of a batch of pairs, and how well each anchor finds its positive.

Owns the model that the loop trains for pairs. The loss itself is sentence-transformers'. Knows nothing of
examples, methods or loops.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from chains.errors import InputInvalid
from tasks.training.encoder import Encoder, Pooled, load_encoder


class PairEncoder(Pooled):
    """The pooled encoder of an embedder, with the loss over a batch of pairs."""

    def __init__(self, encoder: Encoder, *, scale: float) -> None:
        super().__init__(encoder)
        self.normalise = encoder.normalise
        self.scale = scale

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        # transformers' Trainer asks a model without labels for its loss in this way.
        return_loss: bool = True,
    ) -> dict[str, torch.Tensor]:
        """Return the mean loss over the pairs."""
        parts = self.parts({"input_ids": input_ids, "attention_mask": attention_mask})
        answers = torch.arange(len(parts), device=parts.device)
        return {"loss": self.ranking(list(parts.unbind(1)), answers)}

    def parts(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return vectors as pairs by parts by width."""
        flat = {name: value.flatten(0, 1) for name, value in batch.items()}
        vectors = self.vectors(flat["input_ids"], flat["attention_mask"]).float()
        vectors = nn.functional.normalize(vectors, dim=1) if self.normalise else vectors
        return vectors.view(len(batch["input_ids"]), -1, vectors.shape[-1])

    def scores(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the scaled cosine of each anchor with every positive, and then with every negative."""
        anchors, *others = (nn.functional.normalize(part, dim=1) for part in self.parts(batch).unbind(1))
        return self.scale * anchors @ torch.cat(others).T

    def ranking(self, parts: list[torch.Tensor], answers: torch.Tensor) -> torch.Tensor:
        """Compute MultipleNegativesRankingLoss (arXiv 1705.00652) from vectors."""
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        # It never asks its model for anything when it is given vectors.
        loss = MultipleNegativesRankingLoss(nn.Identity(), scale=self.scale)
        found: torch.Tensor = loss.compute_loss_from_embeddings(parts, answers)
        return found


def load_embedder_to_train(folder: Path) -> Encoder:
    """Load a sentence embedder's encoder; InputInvalid where the folder is none."""
    if not (folder / "modules.json").is_file():
        raise InputInvalid(
            f"The base in {str(folder)!r} is no sentence embedder (its folder has no modules.json).",
            hint="Take one such as sentence-transformers/all-MiniLM-L6-v2.",
        )
    return load_encoder(folder)
