"""Trains the diffusion model: `accelerate launch diffusion/train.py --config FILE --out RUN`."""

import dataclasses
import functools
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.grid import grid
from data.store import Store
from diffusion.latents import LatentsInfo, bound, encode_once, latent_folder, latents
from diffusion.loss import bits_per_dimension, diffusion_loss
from diffusion.model import DiffusionModel
from diffusion.options import DiffusionTrainingConfig
from diffusion.text import caption_ids, resolved
from sampling.bundle import BundleOptions, assemble
from sampling.options import DiffusionOptions
from sampling.pipeline import Bundle
from tokenizer.image_tokenizer import ImageTokenizer, require_own_grid
from tokenizer.text import CaptionCut, TextTokenizer
from training.cli import command
from training.loop import Batch, accelerator_for, train
from training.pretrained import exported, start_from
from training.run import RunFolder
from training.turns import Turns

_LATENTS_AT_ONCE = 2**14
"""Of how many latents evaluation makes one pass: all of its pictures where they have 64."""


class LatentBatches:
    """Makes the batches of a diffusion model from a store of latents. It can be pickled, for a loader's workers."""

    def __init__(self, trained: Store[LatentsInfo], text: TextTokenizer, config: DiffusionTrainingConfig) -> None:
        self.turns = Turns(trained.array("group"))
        self._trained, self._text, self._reader = trained, text, config.model.text
        self._caption_dropout = config.caption_dropout

    def __call__(self, indices: NDArray[np.int64], generator: torch.Generator) -> Batch:
        """Of the turns `indices`: a view's latents, and a caption or none."""
        captions: list[str | None] = []
        views = []
        for turn in map(int, indices):
            where, which, view, drop = torch.rand(4, generator=generator).tolist()
            i = self.turns.example(turn, where)
            choice = self._trained.captions(i)
            captions.append(None if drop < self._caption_dropout else choice[int(which * len(choice))])
            views.append(latents(self._trained, i, int(view * self._trained.info.views)))
        return {"text": caption_ids(self._reader, self._text, captions), "latents": torch.stack(views)}


def main(config: DiffusionTrainingConfig) -> None:
    """Builds data, model and loss, and trains."""
    accelerator = accelerator_for(config)
    text = TextTokenizer.from_pretrained(config.text)
    tokenizer = ImageTokenizer.from_pretrained(config.tokenizer, device=accelerator.device)
    run = RunFolder(config)
    encode_once(config, run, tokenizer)
    trained, unseen = (Store(latent_folder(config, split), LatentsInfo) for split in ("train", "validation"))
    if config.verify:
        for store in (trained, unseen):
            store.verify()
    require_own_grid(config.model, tokenizer.config.grid)
    text_config, encoder = resolved(config.model.text, text)
    config.model = dataclasses.replace(
        config.model, text=text_config, channels=tokenizer.config.codebook_dim, grid=tokenizer.config.grid,
        latent_bound=bound(trained), codes_id=tokenizer.codes_id,
        text_id="" if text_config.kind == "transformers" else text.text_id,
    )  # fmt: skip
    warnings.simplefilter("ignore", CaptionCut)  # a long caption in the corpus is cut at every epoch
    model = DiffusionModel(config.model)
    process = model.process
    if encoder is not None and model.text is not None:
        model.text.encoder.load_state_dict(encoder.state_dict())

    if config.init:
        start_from(model, config.init, free={"latent_bound"})  # it is measured on the pictures at hand

    batches = LatentBatches(trained, text, config)

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return diffusion_loss(lambda x, t: model(x, t, batch["text"]), process, batch["latents"]), {}

    @torch.no_grad()
    def evaluate(model: DiffusionModel, file: Path) -> dict[str, float]:
        """Draws the first validation captions over the true pictures; loss and bound on validation pictures."""
        some = range(min(256, len(unseen)))
        captions = [unseen.captions(i)[0] for i in some]
        pictures = torch.stack([latents(unseen, i) for i in some]).to(accelerator.device)
        generator = torch.Generator().manual_seed(0)
        figures = {"validation_loss": 0.0, "validation_bits_per_dimension": 0.0}
        parts = (caption_ids(text_config, text, captions), pictures)
        size = max(1, _LATENTS_AT_ONCE // config.model.grid**2)
        for ids, x_0 in zip(*(torch.split(part, size) for part in parts), strict=True):
            denoise = functools.partial(model.denoise, caption=model.caption(ids.to(x_0.device)))
            share = len(x_0) / len(pictures)
            figures["validation_loss"] += diffusion_loss(denoise, process, x_0, generator).item() * share
            bits = bits_per_dimension(denoise, process, x_0, generator, times=16).mean()
            figures["validation_bits_per_dimension"] += bits.item() * share
        # plain: to record the weights of the moment would take longer than to draw twelve pictures
        bundle = Bundle(text=text, tokenizer=tokenizer, models={"diffusion": model}, engine="plain")
        drawn = bundle.generate(captions[:12], options=DiffusionOptions())
        grid([*drawn, *tokenizer.decode_latents(pictures[:12])], captions[:12] * 2, columns=12).save(file, format="PNG")
        return figures

    def export(model: DiffusionModel, folder: Path) -> None:
        model.load_state_dict(exported(model))
        model.to(torch.bfloat16).save_pretrained(folder)

    complete = train(
        accelerator, run, model, data={"train": trained.info.origin, "validation": unseen.info.origin},
        count=len(batches.turns), make_batch=batches, loss=loss, evaluate=evaluate, export=export,
        tokens=config.model.grid**2,
    )  # fmt: skip
    if complete and accelerator.is_main_process:
        out = Path(config.out) / "bundle"
        backend = [f"diffusion={run.model}"]
        assemble(BundleOptions(text=Path(config.text), tokenizer=Path(config.tokenizer), backend=backend, out=out))
        print(f'ready to draw: python -m sampling.generate --model {out} --backend diffusion --prompt "..."')


if __name__ == "__main__":
    command(main, DiffusionTrainingConfig)
