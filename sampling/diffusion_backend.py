"""The diffusion model as a backend."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from diffusion.condition import CaptionCache
from diffusion.loss import bits_per_dimension
from diffusion.model import DiffusionModel
from diffusion.text import caption_ids
from diffusion.traced import with_traced_denoiser
from sampling.backend import Backend, Start, backend
from sampling.diffuse import Denoise, between, denoiser, estimates, mixed, sample, seeded
from sampling.options import DiffusionOptions
from training.errors import BadInput
from training.precision import has_bf16

TIMES = 50
"""Of the variational bound: at most so many stand for all."""


@backend("diffusion")
class DiffusionBackend(Backend[DiffusionModel, DiffusionOptions]):
    """Draws latents out of noise."""

    title = "diffusion model"
    loss_unit = "weighted squared error of the target"
    likelihood_name = "bits_per_dimension"
    recipe = (
        "accelerate launch diffusion/train.py --config configs/diffusion/emoji.yaml "
        "--tokenizer BUNDLE/tokenizer --text BUNDLE/text --out RUN"
    )
    options_class = DiffusionOptions
    model_class = DiffusionModel

    @classmethod
    def dtype_on(cls, device: str) -> torch.dtype:
        """Bfloat16 where the hardware computes in it."""
        return torch.bfloat16 if has_bf16(device) else torch.float32

    def prepare(self) -> DiffusionModel:
        """The model to draw with: on a CPU its operators are traced, unless the engine is `plain`."""
        traceable = self.device.type == "cpu"
        self.require_engine("plain", *(["traced"] if traceable else []))
        return with_traced_denoiser(self.model) if traceable and self.engine != "plain" else self.model

    def draw(
        self, captions: Sequence[str], seeds: Tensor, options: DiffusionOptions, start: Start | None
    ) -> list[Tensor]:
        """As `Backend`."""
        init, strength = None, 1.0
        if start:
            init, strength = self.tokenizer.latents(start.image[None].to(self.device)), start.strength
        noise = seeded(seeds, self.model.latent_shape)
        denoise = self._denoiser(captions, options)
        return self._pixels(sample(denoise, self.model.process, noise, options, init=init, strength=strength))

    def stream(self, captions: Sequence[str], seeds: Tensor, options: DiffusionOptions) -> Iterator[list[Tensor]]:
        """After each look at the noise, the pictures that the model sees in it."""
        noise = seeded(seeds, self.model.latent_shape)
        for latents in estimates(self._denoiser(captions, options), self.model.process, noise, options):
            yield self._pixels(latents)

    def between(
        self, prompts: tuple[str, str], seeds: tuple[int, int], part: Tensor, options: DiffusionOptions
    ) -> list[Tensor]:
        """As `Backend`."""
        first, second = (self._denoiser([prompt] * len(part), options) for prompt in prompts)
        shape = self.model.latent_shape
        here, there = (seeded(torch.full_like(part, seed, dtype=torch.int64), shape) for seed in seeds)
        denoise, noise = between(first, second, part), mixed(here, there, part)
        return self._pixels(sample(denoise, self.model.process, noise, options))

    @torch.no_grad()
    def likelihood(self, captions: Sequence[str], images: Tensor) -> Tensor:
        """The variational bound on each picture's true latents given its caption, bits an element.

        Its noise is fixed by the order of the pictures.
        """
        model, generator = self.model, torch.Generator().manual_seed(0)
        bits = []
        for start in range(0, len(images), 32):
            part, said = images[start : start + 32], captions[start : start + 32]
            read = CaptionCache(caption_ids(model.config.text, self.text, said).to(self.device))
            latents, denoise = self.tokenizer.latents(part.to(self.device)), partial(model, text=read)
            bits.append(bits_per_dimension(denoise, model.process, latents, generator, TIMES).cpu())
        return torch.cat(bits)

    def arithmetic(self) -> dict[str, str]:
        """As `Backend`."""
        dtype = next(self.prepared.denoiser.parameters()).dtype
        engine = "plain" if self.prepared is self.model else "traced"
        return {"engine": engine, "dtype": str(dtype).removeprefix("torch.")}

    def check(self, start: Start | None) -> None:
        """As `Backend`."""
        if start and start.mask is not None:
            raise BadInput(
                "only the token model can draw within a mask: leave it out, or give --backend autoregressive"
            )

    def describe(self, options: DiffusionOptions) -> str:
        """As `Backend`."""
        return f"{super().describe(options)}, {options.steps} steps"

    @torch.no_grad()
    def _denoiser(self, captions: Sequence[str], options: DiffusionOptions) -> Denoise:
        ids = caption_ids(self.model.config.text, self.text, [*captions, None]).to(self.device)
        return denoiser(self.prepared, ids[:-1], ids[-1:], options)

    def _pixels(self, latents: Tensor) -> list[Tensor]:
        """Latents (B, C, h, w) -> uint8 (3, H, W) each; one at a time, as the token model's."""
        return [self.tokenizer.decode_latents(one[None])[0].cpu() for one in latents]
