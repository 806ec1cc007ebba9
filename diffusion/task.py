"""The training task of the diffusion model: to remove noise from latents, given a caption."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from data.grid import grid
from data.latents import LatentsInfo
from data.store import Store
from diffusion.condition import CaptionCache
from diffusion.latents import latents, magnitude_bound
from diffusion.loss import bits_per_dimension, diffusion_loss
from diffusion.model import DiffusionModel, DiffusionModelConfig
from diffusion.options import DiffusionTrainingConfig
from diffusion.text import caption_ids, resolve_text_config
from tokenizer.image_tokenizer import ImageTokenizer, require_matching_grid
from tokenizer.text import TextTokenizer
from training.batches import Batch
from training.pretrained import start_from
from training.task import Draw, Loss, Task


def resolve_config(
    config: DiffusionModelConfig, text: TextTokenizer, tokenizer: ImageTokenizer, trained: Store[LatentsInfo]
) -> tuple[DiffusionModelConfig, nn.Module | None]:
    """Fill in what the tokenizers and the training latents decide; also return the frozen text encoder, if any.

    Raises `BadInput` where the config sets another grid.
    """
    require_matching_grid(config, tokenizer.config.grid)
    text_config, encoder = resolve_text_config(config.text, text)
    return dataclasses.replace(
        config, text=text_config, channels=tokenizer.config.quantizer.dim, grid=tokenizer.config.grid,
        latent_bound=magnitude_bound(trained), latents_id=tokenizer.latents_id,
        text_id="" if text_config.kind == "transformers" else text.text_id,
    ), encoder  # fmt: skip


class DiffusionTask(Task):
    """Trains a diffusion model from a resolved config. It draws validation captions from time to time."""

    def __init__(
        self, config: DiffusionTrainingConfig, validation: Store[LatentsInfo], text: TextTokenizer,
        tokenizer: ImageTokenizer, draw: Draw, encoder: nn.Module | None = None,
    ) -> None:  # fmt: skip
        self.config, self.validation, self.text, self.tokenizer, self.draw = config, validation, text, tokenizer, draw
        self.model = DiffusionModel(config.model)
        if encoder is not None:
            self.model.text.encoder.load_state_dict(encoder.state_dict())
        if config.init:
            start_from(self.model, config.init, free={"latent_bound"})  # it is measured on the training pictures
        super().__init__(self.model, config.optimizer, tokens=config.model.grid**2)

    def losses(self, batch: Batch, step: int) -> Iterator[Loss]:
        """Yield the loss of `latents` (B, C, h, w) with caption ids `text` (B, S)."""
        denoise = functools.partial(self.modules["model"], text=batch["text"])
        yield Loss("model", diffusion_loss(denoise, self.model.process, batch["latents"]), {})

    @torch.no_grad()
    def evaluate(self, average: DiffusionModel, file: Path) -> dict[str, float]:
        """Draw the first validation captions above the true pictures; return the validation loss and bound."""
        process, some = self.model.process, range(min(256, len(self.validation)))
        captions = [self.validation.captions(i)[0] for i in some]
        pictures = torch.stack([latents(self.validation, i) for i in some]).to(next(average.parameters()).device)
        generator = torch.Generator().manual_seed(0)
        figures = {"validation_loss": 0.0, "validation_bits_per_dimension": 0.0}
        for share, ids, x_0 in self.parts(caption_ids(self.config.model.text, self.text, captions), pictures):
            denoise = functools.partial(average, text=CaptionCache(ids.to(x_0.device)))
            figures["validation_loss"] += diffusion_loss(denoise, process, x_0, generator).item() * share
            bits = bits_per_dimension(denoise, process, x_0, generator, times=16).mean()
            figures["validation_bits_per_dimension"] += bits.item() * share
        drawn = [*self.draw(average, captions[:12]), *self.tokenizer.decode_latents(pictures[:12])]
        grid(drawn, captions[:12] * 2, columns=12).save(file, format="PNG")
        return figures
