"""A bundle loaded: everything between a prompt and its picture."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion.model import DiffusionModel
from diffusion.recorded import with_recorded_denoiser
from diffusion.text import caption_ids
from sampling.choose import candidate_seeds, likelihoods
from sampling.clip import agreement, clip_at
from sampling.decode import Engine, Sampler
from sampling.diffuse import Denoise, between, denoiser, mixed, sample, seeded
from sampling.options import DiffusionOptions, SamplingOptions
from seq2seq.model import TokenModel
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.text import TextTokenizer
from training.errors import BadInput
from training.hub import fetched
from training.precision import has_bf16
from training.record import read_record
from training.strict_json import read_json

LONGEST_PROMPT = 1000
"""Characters. A longer prompt is surely a mistake; one that only exceeds the model's length is cut with a warning."""


_FILES = (
    "bundle.json", "README.md", "text/config.json", "text/spiece.model",
    *(f"{part}/{name}" for part in ("tokenizer", "autoregressive", "diffusion")
      for name in ("config.json", "model.safetensors", "training.json")),
)  # fmt: skip
"""What is downloaded of a bundle."""

_TRAINERS = {"autoregressive": "seq2seq", "diffusion": "diffusion"}


@dataclass(kw_only=True)
class Bundle:
    """Text tokenizer, image tokenizer, and a token model, a diffusion model or both, that belong together."""

    text: TextTokenizer
    tokenizer: ImageTokenizer
    autoregressive: TokenModel | None = None
    diffusion: DiffusionModel | None = None
    engine: Engine | None = None
    """How steps are computed, by default as fits the machine: the token model's; diffusion's are recorded on a CPU,
    unless it is `plain`."""
    training: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """How each part was trained and what that took (`training.record`), where that is known."""
    source: str = ""
    """Where it was loaded from: a folder, or `hf://owner/name@commit`."""
    _model_ids: dict[str, str] = field(default_factory=dict, init=False, repr=False)

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
            data = " --data emoji" if room == "seq2seq" else ""
            raise BadInput(
                f"this bundle has no {backend} part: train one with `accelerate launch {room}/train.py --config "
                f"configs/{room}/emoji.yaml{data} --tokenizer BUNDLE/tokenizer --text BUNDLE/text --out RUN`, "
                f"then give RUN/model to `python -m sampling.bundle` as --{backend}"
            )

    @cached_property
    def sampler(self) -> Sampler:
        """Of the token model, with its buffers."""
        self.require("autoregressive")
        assert self.autoregressive is not None
        return Sampler(self.autoregressive, self.engine)

    @cached_property
    def _denoising(self) -> DiffusionModel:
        """The diffusion model, to draw with."""
        self.require("diffusion")
        assert self.diffusion is not None
        recorded = self._device.type == "cpu" and self.engine != "plain"
        return with_recorded_denoiser(self.diffusion) if recorded else self.diffusion

    @cached_property
    def ids(self) -> dict[str, str]:
        """What decides codes, pixels and text ids."""
        tokenizer = self.tokenizer
        return {"codes_id": tokenizer.codes_id, "pixels_id": tokenizer.pixels_id, "text_id": self.text.text_id}

    def arithmetic(self, backend: str) -> dict[str, str]:
        """What a backend's pictures are computed with: engine, and the dtype of products."""
        if backend == "diffusion":
            dtype = next(self._denoising.denoiser.parameters()).dtype
            engine = "plain" if self._denoising is self.diffusion else "recorded"
            return {"engine": engine, "dtype": str(dtype).removeprefix("torch.")}
        return {"engine": self.sampler.engine, "dtype": str(self.sampler.arithmetic).removeprefix("torch.")}

    def model_id(self, backend: str) -> str:
        """Names the model of a backend by its config and weights."""
        self.require(backend)
        if backend not in self._model_ids:
            self._model_ids[backend] = getattr(self, backend).model_id
        return self._model_ids[backend]

    def generate(
        self,
        prompts: Sequence[str],
        *,
        num_images: int = 1,
        seed: int = 0,
        options: SamplingOptions | DiffusionOptions | None = None,
        start: "Start | None" = None,
        batch_size: int = 32,
        progress: Callable[[int], Any] = lambda done: None,
    ) -> list[Tensor]:
        """Draws `num_images` pictures of every prompt, with the seeds `seed`, `seed + 1`, ...

        A picture depends on its prompt, seed and options alone, not on the batch that it is drawn in.

        Args:
            options: how to draw, and by their type the backend; by default the token model's, where there is one.
            start: a picture to start from.
            progress: called with the number of pictures just finished.

        Returns:
            uint8 (3, H, W) each, prompt by prompt. A model may end a picture early: H is then less than W.

        Raises:
            BadInput: for an empty, overlong or undecodable prompt, an option out of range, or a backend not here.
        """
        if isinstance(prompts, str):
            raise BadInput(f"prompts is one text, {prompts[:40]!r}: must be a list of them")
        if num_images < 1 or batch_size < 1:
            raise BadInput(f"num_images is {num_images} and batch_size {batch_size}: both must be 1 or more")
        if not 0 <= seed < 2**62:
            raise BadInput(f"seed is {seed}: must be from 0 to 2**62")
        wanted = [(check_prompt(prompt), seed + i) for prompt in prompts for i in range(num_images)]
        pictures: list[Tensor] = []
        for first in range(0, len(wanted), batch_size):
            batch = wanted[first : first + batch_size]
            pictures += self.draw(batch, options, start)
            progress(len(batch))
        return pictures

    def draw(
        self,
        wanted: Sequence[tuple[str, int]],
        options: SamplingOptions | DiffusionOptions | None = None,
        start: "Start | None" = None,
    ) -> list[Tensor]:
        """Draws one batch of prompts, each with its seed; otherwise as `generate`."""
        options = options or (SamplingOptions() if self.autoregressive else DiffusionOptions())
        captions, seeds = [caption for caption, _ in wanted], torch.tensor([seed for _, seed in wanted])
        seeds = seeds.to(self._device)
        if isinstance(options, DiffusionOptions):
            return self._diffuse(captions, seeds, options, start)
        return [self._pixels(codes) for codes in self._decode(captions, seeds, options, start)]

    def stream(
        self, prompts: Sequence[str], *, seed: int = 0, options: SamplingOptions | None = None
    ) -> Iterator[list[Tensor]]:
        """After each row of tokens, the pictures of `prompts` so far, uint8 (3, H so far, W); by the token model.

        The last ones are those that `generate` returns for the same prompts, seed and options; with `best_of` they
        are its first candidates.
        """
        captions = [check_prompt(prompt) for prompt in prompts]
        text = self.text.encode(captions).to(self._device)
        seeds = torch.full((len(captions),), seed, device=self._device)
        for tokens in self.sampler.rows(text, seeds, options or SamplingOptions()):
            yield [self._pixels(codes) for codes in self.sampler.pictures(tokens)]

    def interpolate(
        self,
        prompts: tuple[str, str],
        seeds: tuple[int, int],
        count: int,
        options: DiffusionOptions | None = None,
        batch_size: int = 32,
    ) -> list[Tensor]:
        """`count` pictures, uint8 (3, H, W), from the first prompt and seed to the second, by the diffusion model."""
        self.require("diffusion")
        assert self.diffusion is not None
        if count < 2:
            raise BadInput(f"interpolate is {count}: must be 2 or more")
        model, options = self.diffusion, options or DiffusionOptions()
        pictures = []
        way = torch.linspace(0, 1, count, device=self._device)
        for begin in range(0, count, batch_size):
            part = way[begin : begin + batch_size]
            first, second = (self._denoiser([check_prompt(prompt)] * len(part), options) for prompt in prompts)
            here, there = (seeded(torch.full_like(part, seed, dtype=torch.int64), model.latent_shape) for seed in seeds)
            latents = sample(between(first, second, part), model.process, mixed(here, there, part), options)
            pictures += self._decoded(latents)
        return pictures

    def _decode(
        self, captions: Sequence[str], seeds: Tensor, options: SamplingOptions, start: "Start | None"
    ) -> list[Tensor]:
        """Codes (h, w) of each picture."""
        text = self.text.encode(captions).to(self._device)
        known = start.tokens(self.tokenizer).to(seeds.device).expand(len(seeds), -1) if start else None
        clip = clip_at(options.scorer, str(self._device)) if options.scorer else None
        candidates = [
            self.sampler.draw(text, candidate_seeds(seeds, n), options, known) for n in range(options.best_of)
        ]
        if options.best_of == 1:
            return candidates[0]
        if clip is not None:
            scores = [agreement(clip, captions, [self._pixels(codes) for codes in those]) for those in candidates]
        else:
            assert self.autoregressive is not None
            scores = [likelihoods(self.autoregressive, text, codes) for codes in candidates]
        best = torch.stack(scores).argmax(0).tolist()
        return [candidates[n][i] for i, n in enumerate(best)]

    def _pixels(self, codes: Tensor) -> Tensor:
        """Codes (h, w) -> uint8 (3, H, W); one at a time, for in a batch a pixel may round to another value."""
        return self.tokenizer.decode(codes[None].to(self._device))[0].cpu()

    def _diffuse(
        self, captions: Sequence[str], seeds: Tensor, options: DiffusionOptions, start: "Start | None"
    ) -> list[Tensor]:
        self.require("diffusion")
        assert self.diffusion is not None
        init, strength = start.latents(self.tokenizer) if start else (None, 1.0)
        noise = seeded(seeds, self.diffusion.latent_shape)
        denoise = self._denoiser(captions, options)
        latents = sample(denoise, self.diffusion.process, noise, options, init=init, strength=strength)
        return self._decoded(latents)

    def _decoded(self, latents: Tensor) -> list[Tensor]:
        """As `_pixels`, of latents (B, C, h, w)."""
        return [self.tokenizer.decode_latents(one[None])[0].cpu() for one in latents]

    @torch.no_grad()
    def _denoiser(self, captions: Sequence[str], options: DiffusionOptions) -> Denoise:
        assert self.diffusion is not None
        config = self.diffusion.config.text
        ids = caption_ids(config, self.text, [*captions, None]).to(self._device)
        return denoiser(self._denoising, ids[:-1], ids[-1:], options)

    @property
    def _device(self) -> torch.device:
        return self.tokenizer.latent_mean.device


@dataclass(frozen=True, kw_only=True)
class Start:
    """A picture to start from, and what of it may change. Raises `BadInput` for what cannot be."""

    image: Tensor
    """uint8 (3, H, W)."""
    strength: float = 1.0
    """Above 0, at most 1. Diffusion starts from the picture noised so much of the way; the token model draws this share
    of its rows anew, the lowest ones."""
    mask: Tensor | None = None
    """Bool (H, W), True where the token model draws anew, in whole tokens; instead of `strength`. It reads from left to
    right and from top to bottom, so what is drawn fits what comes before it; `best_of` chooses by the rest too."""

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise BadInput(f"strength is {self.strength}: must be above 0, at most 1")
        if self.mask is not None and self.strength != 1:
            raise BadInput("mask and strength both say what is drawn anew: give one of them")
        if self.mask is not None and self.mask.shape != self.image.shape[1:]:
            raise BadInput(f"the mask is {tuple(self.mask.shape)}, the picture {tuple(self.image.shape[1:])}")

    def latents(self, tokenizer: ImageTokenizer) -> tuple[Tensor, float]:
        """What diffusion starts from (1, C, h, w), and how far it is noised."""
        if self.mask is not None:
            raise BadInput("only the token model can draw within a mask")
        return tokenizer.latents(self.image[None].to(tokenizer.latent_mean.device)), self.strength

    def tokens(self, tokenizer: ImageTokenizer) -> Tensor:
        """What the token model is given: (1, T) int64, -1 where it is to draw."""
        codes = tokenizer.encode(self.image[None].to(tokenizer.latent_mean.device)).clone()
        if self.mask is None:
            codes[:, round((1 - self.strength) * codes.shape[1]) :] = -1
        else:
            patch = tokenizer.config.patch_size
            anew = F.max_pool2d(self.mask[None].float(), patch)[0].bool()
            codes[:, anew.to(codes.device)] = -1
        return codes.flatten(1)


def load(
    path: str | Path,
    *,
    device: str = "cpu",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    engine: Engine | Literal["auto"] = "auto",
) -> Bundle:
    """Loads a bundle from a folder, or from the Hub where it is `hf://owner/name@commit`.

    `dtype` is the token and the diffusion model's, by default bfloat16 where the hardware computes in it and float32
    elsewhere (the token model's on a CPU, whose engine packs it anew); the image tokenizer is always float32. `engine`
    computes the steps, by default as fits the machine. Raises `BadInput` when a file is missing or damaged, or when
    parts do not belong together.
    """
    folder, source = _folder(path)
    index = read_json(folder / "bundle.json")
    parts = index.get("parts")
    if not isinstance(parts, list) or not {"text", "tokenizer", *_TRAINERS}.issuperset(map(str, parts)):
        raise BadInput(f"{folder / 'bundle.json'}: must list the bundle's parts, text, tokenizer and backends")
    missing = [part for part in ("text", "tokenizer") if part not in parts]
    if not {"autoregressive", "diffusion"} & {*parts}:
        missing.append("autoregressive and no diffusion")
    if missing:
        raise BadInput(f"{folder / 'bundle.json'}: lists no {missing[0]}, so it is not a complete bundle")
    gone = [part for part in parts if not (folder / str(part)).is_dir()]
    if gone:
        raise BadInput(f"{folder}: its folder {gone[0]} is missing, so it is not a complete bundle")
    kind = torch.device(device).type
    halves = {"autoregressive": kind == "cuda", "diffusion": has_bf16(kind)}  # a packed engine takes float32
    dtypes = {name: ("bfloat16" if half else "float32") if dtype == "auto" else dtype for name, half in halves.items()}
    backends: dict[str, Any] = {
        name: model.from_pretrained(folder / name, device=device, dtype=getattr(torch, dtypes[name]))
        for name, model in (("autoregressive", TokenModel), ("diffusion", DiffusionModel))
        if name in parts
    }
    return Bundle(
        text=TextTokenizer.from_pretrained(folder / "text"),
        tokenizer=ImageTokenizer.from_pretrained(folder / "tokenizer", device=device),
        engine=None if engine == "auto" else engine,
        source=source,
        training={name: found for name in ("tokenizer", *backends) if (found := read_record(folder / name))},
        **backends,
    )


def check_prompt(prompt: str) -> str:
    """Returns the prompt stripped. Raises `BadInput` when it is empty, overlong or not text."""
    if not isinstance(prompt, str):
        raise BadInput(f"a prompt is {prompt!r}: must be text")
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


def _folder(path: str | Path) -> tuple[Path, str]:
    """The folder of a bundle, and what names its content."""
    folder, source = fetched(path, _FILES)
    if not (folder / "bundle.json").is_file():
        raise BadInput(f"{path}: has no bundle.json, so it is not a bundle; make one with `python -m sampling.bundle`")
    return folder, source
