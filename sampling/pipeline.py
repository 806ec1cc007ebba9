"""A bundle loaded: everything between a prompt and its picture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from torch import Tensor

from diffusion.model import DiffusionModel
from diffusion.text import caption_ids
from sampling.decode import Engine, Sampler
from sampling.diffuse import Denoise, between, denoiser, mixed, sample, seeded
from sampling.options import DiffusionOptions, SamplingOptions
from seq2seq.model import TokenModel
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.text import TextTokenizer
from training.errors import BadInput
from training.pretrained import read_json

LONGEST_PROMPT = 1000
"""Characters. A longer prompt is surely a mistake; one that only exceeds the model's length is cut with a warning."""


_TRAINERS = {"autoregressive": "seq2seq", "diffusion": "diffusion"}


@dataclass(kw_only=True)
class Bundle:
    """Text tokenizer, image tokenizer, and a token model, a diffusion model or both, that belong together."""

    text: TextTokenizer
    tokenizer: ImageTokenizer
    autoregressive: TokenModel | None = None
    diffusion: DiffusionModel | None = None
    engine: Engine | None = None
    """How the token model's steps are computed; by default as fits the machine."""

    def __post_init__(self) -> None:
        """Raises `BadInput` when a part was trained with another part than the one here."""
        for part, model in (("token model", self.autoregressive), ("diffusion model", self.diffusion)):
            if model is None:
                continue
            for name, wanted, found in (
                ("image tokenizer", model.config.codes_id, self.tokenizer.codes_id),
                ("text tokenizer", model.config.text_id, self.text.text_id),
            ):
                # a diffusion model that reads with `transformers` was trained with no text tokenizer
                if wanted != found and not (name == "text tokenizer" and model is self.diffusion and not wanted):
                    raise BadInput(f"the {part} was trained with {name} {wanted}, but this one is {found}")

    def require(self, backend: str) -> None:
        """Raises `BadInput` where the bundle has no such backend."""
        if getattr(self, backend) is None:
            room = _TRAINERS[backend]
            raise BadInput(
                f"this bundle has no {backend} part: train one with `accelerate launch {room}/train.py --config "
                f"configs/{room}/emoji.yaml --tokenizer BUNDLE/tokenizer --text BUNDLE/text --out RUN`, "
                f"then give RUN/model to `python -m sampling.bundle` as --{backend}"
            )

    @cached_property
    def sampler(self) -> Sampler:
        """Of the token model, with its buffers."""
        self.require("autoregressive")
        assert self.autoregressive is not None
        return Sampler(self.autoregressive, self.engine)

    @property
    def ids(self) -> dict[str, str]:
        """What decides codes, pixels and text ids."""
        tokenizer = self.tokenizer
        return {"codes_id": tokenizer.codes_id, "pixels_id": tokenizer.pixels_id, "text_id": self.text.text_id}

    def generate(
        self,
        prompts: Sequence[str],
        *,
        num_images: int = 1,
        seed: int = 0,
        options: SamplingOptions | DiffusionOptions | None = None,
        init_image: Tensor | None = None,
        strength: float = 1.0,
        batch_size: int = 32,
        progress: Callable[[int], Any] = lambda done: None,
    ) -> list[Tensor]:
        """Draws `num_images` pictures of every prompt, with the seeds `seed`, `seed + 1`, ...

        A picture depends on its prompt, seed and options alone, not on the batch that it is drawn in.

        Args:
            options: how to draw, and by their type the backend; by default the token model's, where there is one.
            init_image: uint8 (3, H, W) for the diffusion model to start from, noised up to `strength` of the way.
            strength: above 0, at most 1, which leaves nothing of `init_image`.
            progress: called with the number of pictures just finished.

        Returns:
            uint8 (3, H, W) each, prompt by prompt. A model may end a picture early: H is then less than W.

        Raises:
            BadInput: for an empty, overlong or undecodable prompt, an option out of range, or a backend not here.
        """
        options = options or (SamplingOptions() if self.autoregressive else DiffusionOptions())
        self.require("diffusion" if isinstance(options, DiffusionOptions) else "autoregressive")
        init = self._start(init_image, strength, options)
        if num_images < 1 or batch_size < 1:
            raise BadInput(f"num_images is {num_images} and batch_size {batch_size}: both must be 1 or more")
        if not 0 <= seed < 2**62:
            raise BadInput(f"seed is {seed}: must be from 0 to 2**62")
        wanted = [(check_prompt(prompt), seed + i) for prompt in prompts for i in range(num_images)]
        pictures: list[Tensor] = []
        for start in range(0, len(wanted), batch_size):
            captions, seeds = zip(*wanted[start : start + batch_size], strict=True)
            if isinstance(options, DiffusionOptions):
                pictures += self._diffuse(captions, seeds, options, init, strength)
            else:
                pictures += self._decode(captions, seeds, options)
            progress(len(captions))
        return pictures

    def interpolate(
        self, prompts: tuple[str, str], seeds: tuple[int, int], count: int, options: DiffusionOptions | None = None
    ) -> list[Tensor]:
        """`count` pictures, uint8 (3, H, W), from the first prompt and seed to the second, by the diffusion model."""
        self.require("diffusion")
        assert self.diffusion is not None
        if count < 2:
            raise BadInput(f"interpolate is {count}: must be 2 or more")
        model, options = self.diffusion, options or DiffusionOptions()
        part = torch.linspace(0, 1, count, device=self._device)
        first, second = (self._denoiser([check_prompt(prompt)] * count, options) for prompt in prompts)
        here, there = (seeded(torch.full((count,), seed, device=self._device), model.latent_shape) for seed in seeds)
        latents = sample(between(first, second, part), model.process, mixed(here, there, part), options)
        return list(self.tokenizer.decode_latents(latents).cpu())

    def _decode(self, captions: Sequence[str], seeds: Sequence[int], options: SamplingOptions) -> list[Tensor]:
        text, null = self.text.encode(captions).to(self._device), self.text.encode([None]).to(self._device)
        codes = self.sampler.draw(text, null, torch.tensor(seeds, device=self._device), options)
        return [self.tokenizer.decode(grid[None])[0].cpu() for grid in codes]

    def _diffuse(
        self,
        captions: Sequence[str],
        seeds: Sequence[int],
        options: DiffusionOptions,
        init: Tensor | None,
        strength: float,
    ) -> list[Tensor]:
        assert self.diffusion is not None
        noise = seeded(torch.tensor(seeds, device=self._device), self.diffusion.latent_shape)
        denoise = self._denoiser(captions, options)
        latents = sample(denoise, self.diffusion.process, noise, options, init=init, strength=strength)
        return list(self.tokenizer.decode_latents(latents).cpu())

    @torch.no_grad()
    def _denoiser(self, captions: Sequence[str], options: DiffusionOptions) -> Denoise:
        assert self.diffusion is not None
        config = self.diffusion.config.text
        text, null = (caption_ids(config, self.text, them).to(self._device) for them in (captions, [None]))
        return denoiser(self.diffusion, text, null, options)

    def _start(
        self, image: Tensor | None, strength: float, options: SamplingOptions | DiffusionOptions
    ) -> Tensor | None:
        """The latents (1, C, h, w) of the picture to start from."""
        if not 0 < strength <= 1:
            raise BadInput(f"strength is {strength}: must be above 0, at most 1")
        if image is None:
            if strength != 1:
                raise BadInput(f"strength is {strength}: without a picture to start from it must be 1")
            return None
        if not isinstance(options, DiffusionOptions):
            raise BadInput("only the diffusion backend can start from a picture")
        return self.tokenizer.latents(image[None].to(self._device))

    @property
    def _device(self) -> torch.device:
        return self.tokenizer.latent_mean.device


def load(
    path: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32, engine: Engine | None = None
) -> Bundle:
    """Loads a bundle from a folder or a Hub id.

    `dtype` is the token and the diffusion model's; the image tokenizer is always float32. `engine` computes the token
    model's steps, by default as fits the machine. Raises `BadInput` when a file is missing or damaged, or when parts do
    not belong together.
    """
    folder = _folder(path)
    index = read_json(folder / "bundle.json")
    parts = index.get("parts", [])
    missing = [part for part in ("text", "tokenizer") if part not in parts]
    if not {"autoregressive", "diffusion"} & {*parts}:
        missing.append("autoregressive and no diffusion")
    if missing:
        raise BadInput(f"{folder / 'bundle.json'}: lists no {missing[0]}, so it is not a complete bundle")
    backends: dict[str, Any] = {
        name: kind.from_pretrained(folder / name, device=device, dtype=dtype)
        for name, kind in (("autoregressive", TokenModel), ("diffusion", DiffusionModel))
        if name in parts
    }
    return Bundle(
        text=TextTokenizer.from_pretrained(folder / "text"),
        tokenizer=ImageTokenizer.from_pretrained(folder / "tokenizer", device=device),
        engine=engine,
        **backends,
    )


def check_prompt(prompt: str) -> str:
    """Returns the prompt stripped. Raises `BadInput` when it is empty, overlong or not text."""
    shown = repr(prompt if len(prompt) <= 40 else prompt[:40] + "...")
    if not any(character.isprintable() and not character.isspace() for character in prompt):
        raise BadInput(f"the prompt {shown} is empty: describe a picture")
    if len(prompt) > LONGEST_PROMPT:
        raise BadInput(f"the prompt {shown} has {len(prompt)} characters: at most {LONGEST_PROMPT} are read")
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise BadInput(f"the prompt {shown} is not UTF-8 text") from None
    return prompt.strip()


def _folder(path: str | Path) -> Path:
    if (Path(path) / "bundle.json").is_file():
        return Path(path)
    if Path(path).exists():
        raise BadInput(f"{path}: has no bundle.json, so it is not a bundle; make one with `python -m sampling.bundle`")
    try:
        return Path(snapshot_download(str(path)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(f"{path}: neither a bundle here nor one on the Hub ({reason})") from None
