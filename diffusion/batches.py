"""Training batches of the diffusion model."""

import numpy as np
import torch
from numpy.typing import NDArray

from data.latents import LatentsInfo
from data.store import Store
from diffusion.latents import latents
from diffusion.options import DiffusionTrainingConfig
from diffusion.text import caption_ids
from tokenizer.text import TextTokenizer
from training.batches import Batch
from training.group_sampler import GroupSampler


class LatentBatches:
    """Makes batches from stores of latents. It can be pickled, for the workers of a data loader."""

    def __init__(
        self, trained: Store[LatentsInfo], validation: Store[LatentsInfo], text: TextTokenizer,
        config: DiffusionTrainingConfig,
    ) -> None:  # fmt: skip
        self.origin = {"train": trained.info.origin, "validation": validation.info.origin}
        self._groups = GroupSampler(trained.array("group"))
        self._trained, self._text, self._reader = trained, text, config.model.text
        self._caption_dropout = config.caption_dropout

    def __len__(self) -> int:
        return len(self._groups)

    def __call__(self, indices: NDArray[np.int64], generator: torch.Generator) -> Batch:
        """Make a batch of the groups `indices`, with a random view and a random caption, or the null caption, of each.

        Returns `text` (B, S) int64 caption ids, and `latents` (B, C, h, w) float32.
        """
        captions: list[str | None] = []
        views = []
        for group in map(int, indices):
            where, which, view, drop = torch.rand(4, generator=generator).tolist()
            i = self._groups.example(group, where)
            choice = self._trained.captions(i)
            captions.append(None if drop < self._caption_dropout else choice[int(which * len(choice))])
            views.append(latents(self._trained, i, int(view * self._trained.info.views)))
        return {"text": caption_ids(self._reader, self._text, captions), "latents": torch.stack(views)}
