"""The diffusion model as a backend."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from diffusion.condition import CaptionCache
from diffusion.loss import bits_per_dimension
from diffusion.model import DiffusionModel
from diffusion.text import caption_ids
from diffusion.traced import TracedDenoiser, with_traced_denoiser
from sampling.backend import Backend, Start, backend
from sampling.denoiser_graph import GraphDenoiser, with_graph_denoiser
from sampling.diffuse import (
    Denoise,
    denoiser,
    estimates,
    interpolated_denoiser,
    interpolated_noise,
    sample,
    seeded_noise,
)
from sampling.options import DiffusionOptions
from training.errors import BadInput
from training.precision import has_bf16

TIMES = 50
"""At most this many times are evaluated for the variational bound, and stand for all others."""


@backend("diffusion")
class DiffusionBackend(Backend[DiffusionModel, DiffusionOptions]):
    """Draws latents by removing noise step by step."""

    title = "diffusion model"
    loss_unit = "weighted squared error of the target"
    likelihood_name = "bits_per_dimension"
    recipe = (
        "accelerate launch diffusion/train.py --config configs/diffusion/emoji.yaml "
        "--tokenizer BUNDLE/tokenizer --text BUNDLE/text --out RUN"
    )
    options_class = DiffusionOptions
    model_class = DiffusionModel
    image_id = "latents_id"

    @classmethod
    def dtype_on(cls, device: str) -> torch.dtype:
        """Bfloat16 where the hardware computes in it, else float32."""
        return torch.bfloat16 if has_bf16(device) else torch.float32

    def prepare(self) -> DiffusionModel:
        """The model, with its denoiser computed by the engine: by default the last one that the device has."""
        engines = ["plain", *{"cpu": ["traced"], "cuda": ["graph"]}.get(self.device.type, [])]
        self.require_engine(*engines)
        make = {"traced": with_traced_denoiser, "graph": with_graph_denoiser}.get(self.engine or engines[-1])
        return make(self.model) if make else self.model

    def draw(
        self, captions: Sequence[str], seeds: Tensor, options: DiffusionOptions, start: Start | None
    ) -> list[Tensor]:
        """As `Backend`."""
        init, strength = None, 1.0
        if start:
            init, strength = self.tokenizer.latents(start.image[None].to(self.device)), start.strength
        noise = seeded_noise(seeds, self.model.latent_shape)
        denoise = self._denoiser(captions, options)
        return self._pixels(sample(denoise, self.model.process, noise, options, init=init, strength=strength))

    def stream(self, captions: Sequence[str], seeds: Tensor, options: DiffusionOptions) -> Iterator[list[Tensor]]:
        """Yield the pictures of each estimate of x_0; the last ones are those of `draw`."""
        noise = seeded_noise(seeds, self.model.latent_shape)
        for latents in estimates(self._denoiser(captions, options), self.model.process, noise, options):
            yield self._pixels(latents)

    def interpolate(
        self, prompts: tuple[str, str], seeds: tuple[int, int], part: Tensor, options: DiffusionOptions
    ) -> list[Tensor]:
        """As `Backend`."""
        first, second = (self._denoiser([prompt] * len(part), options) for prompt in prompts)
        shape = self.model.latent_shape
        first_noise, second_noise = (
            seeded_noise(torch.full_like(part, seed, dtype=torch.int64), shape) for seed in seeds
        )
        # of one noise and itself, the interpolation would be up to sqrt(2) times as large
        noise = first_noise if seeds[0] == seeds[1] else interpolated_noise(first_noise, second_noise, part)
        return self._pixels(sample(interpolated_denoiser(first, second, part), self.model.process, noise, options))

    @torch.no_grad()
    def likelihood(self, captions: Sequence[str], images: Tensor) -> Tensor:
        """The variational bound on each picture's latents given its caption, in bits an element, (N,).

        Its noise depends on the order of the pictures.
        """
        model, generator = self.model, torch.Generator().manual_seed(0)
        bits = []
        for start in range(0, len(images), 32):
            ids = caption_ids(model.config.text, self.text, captions[start : start + 32]).to(self.device)
            latents = self.tokenizer.latents(images[start : start + 32].to(self.device))
            denoise = partial(model, text=CaptionCache(ids))
            bits.append(bits_per_dimension(denoise, model.process, latents, generator, TIMES).cpu())
        return torch.cat(bits)

    def compute_settings(self) -> dict[str, str]:
        """As `Backend`."""
        dtype = next(self.prepared.denoiser.parameters()).dtype
        engine = {TracedDenoiser: "traced", GraphDenoiser: "graph"}.get(type(self.prepared.denoiser), "plain")
        return {"engine": engine, "dtype": str(dtype).removeprefix("torch.")}

    def check(self, start: Start | None) -> None:
        """As `Backend`."""
        if start and start.mask is not None:
            raise BadInput(
                "only the token model can draw within a mask: leave it out, or give --backend autoregressive"
            )
        if start and start.strength == 1:
            raise BadInput("at strength 1 nothing of init_image is left: give a smaller strength")

    def describe(self, options: DiffusionOptions) -> str:
        """As `Backend`."""
        return f"{super().describe(options)}, {options.steps} steps"

    @torch.no_grad()
    def _denoiser(self, captions: Sequence[str], options: DiffusionOptions) -> Denoise:
        ids = caption_ids(self.model.config.text, self.text, [*captions, None]).to(self.device)
        return denoiser(self.prepared, ids[:-1], ids[-1:], options)

    def _pixels(self, latents: Tensor) -> list[Tensor]:
        """Latents (B, C, h, w) -> uint8 (3, H, W) each; one at a time, as in `TokenBackend._pixels`."""
        return [self.tokenizer.decode_latents(one[None])[0].cpu() for one in latents]
