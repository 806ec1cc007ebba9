"""`Bundle`, all models that turn a prompt into a picture, and `load`, which reads one from disk or the Hub."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sampling.backend import Backend, Job, Start, backend_class
from sampling.options import BACKENDS, BackendOptions
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.text import TextTokenizer
from tokenizer.upsampler import Upsampler
from training.device import usable_device
from training.errors import BadInput
from training.hub import fetched
from training.pretrained import PretrainedModel
from training.record import FILE as RECORD
from training.record import read_record
from training.shipped import require_given
from training.strict_json import read_json

LONGEST_PROMPT = 10_000
"""Characters. A longer prompt is refused as a mistake. One beyond the model's length is cut, with a warning."""

_NO_BACKENDS = ("text", "tokenizer", "upsampler")
"""Parts of a bundle that do not draw."""


@dataclass(kw_only=True)
class Bundle:
    """A text tokenizer, an image tokenizer, the models that draw with them, and perhaps an upsampler.

    Several threads may use one at once.
    """

    text: TextTokenizer
    tokenizer: ImageTokenizer
    models: Mapping[str, PretrainedModel]
    """Models by the name of their backend. The first one is the default."""
    upsampler: Upsampler | None = None
    """Enlarges drawn pictures, where that is asked for."""
    engine: str | None = None
    """How steps are computed; None chooses by the machine."""
    training: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """How each part was trained and at what cost (`training.record`), where that is known."""
    source: str = ""
    """Where the bundle was loaded from: a folder, or `hf://owner/name@commit`."""

    def __post_init__(self) -> None:
        """Raises `BadInput` if a model was trained with another tokenizer than the one here, or cannot have been."""
        self._backends = {
            kind: backend_class(kind)(model, self.text, self.tokenizer, self.engine)
            for kind, model in self.models.items()
        }
        for backend in self._backends.values():
            self._require_fit(backend)

    def _require_fit(self, backend: Backend[Any, Any]) -> None:
        """Raise `BadInput` if a model's config has other ids than the tokenizers, or another shape."""
        config, tokenizer = backend.model.config, self.tokenizer
        for name, wanted, found in (
            ("image tokenizer", getattr(config, backend.image_id), getattr(tokenizer, backend.image_id)),
            ("text tokenizer", config.text_id, self.text.text_id),
        ):
            # a model that reads with `transformers` was trained with no text tokenizer
            if wanted != found and (wanted or name == "image tokenizer"):
                raise BadInput(f"the {backend.title} was trained with {name} {wanted}, but this one is {found}")
        # an id is only what a config claims, and drawing allocates memory by the shape
        shape = {"grid": tokenizer.config.grid, "channels": tokenizer.config.quantizer.dim}
        if tokenizer.has_codes:
            shape |= {"depth": tokenizer.depth, "codebook_size": tokenizer.codebook_size}
        if config.text_id:
            shape |= {"text_vocab_size": self.text.vocab_size, "text_length": self.text.config.max_length}
        for name, found in shape.items():
            if (wanted := getattr(config, name, found)) != found:
                raise BadInput(f"the {backend.title} has {name} {wanted}, but the tokenizer here has {found}")

    def backend(self, kind: str) -> Backend[Any, Any]:
        """The backend of this name. Raises `BadInput` if the bundle has none."""
        if kind not in self._backends:
            raise BadInput(
                f"this bundle has no {kind} part: train one with `{backend_class(kind).recipe}`, "
                f"then give --backend {kind}=RUN/model to `python -m sampling.bundle`; "
                f"or draw with what it has: --backend {' or '.join(self._backends)}"
            )
        return self._backends[kind]

    @cached_property
    def ids(self) -> dict[str, str]:
        """Hashes of the tokenizers: `codes_id` if there are codes, `latents_id`, `pixels_id` and `text_id`."""
        return {**self.tokenizer.ids, "text_id": self.text.text_id}

    @cached_property
    def upsampler_id(self) -> str:
        """Hash of the upsampler; empty if there is none."""
        return self.upsampler.model_id if self.upsampler else ""

    @property
    def parameters(self) -> dict[str, int]:
        """Number of parameters of the image tokenizer and of each model that draws."""
        parts = {"tokenizer": self.tokenizer, **self.models}
        return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}

    def generate(
        self,
        prompts: Sequence[str],
        *,
        num_images: int = 1,
        seed: int = 0,
        options: BackendOptions | None = None,
        start: Start | None = None,
        upscale: int = 1,
        batch_size: int = 32,
        progress: Callable[[int], Any] = lambda done: None,
    ) -> list[Tensor]:
        """Draw `num_images` pictures of every prompt, with the seeds `seed`, `seed + 1`, ...

        A picture depends only on its prompt, seed and options, not on the batch that it is drawn in; but for rounding
        on a GPU, or with dtype bfloat16 on a CPU (`Backend`).

        Args:
            options: how to draw; their class decides the backend. By default those of the bundle's first backend.
            start: a picture to start from.
            upscale: how many times to enlarge width and height: the scale of the bundle's upsampler, or 1.
            batch_size: pictures to draw at a time, at most.
            progress: called whenever pictures are finished, with their number.

        Returns:
            uint8 (3, H, W) each, prompt by prompt. A model may end a picture early: H is then less than W.

        Raises:
            BadInput: for an empty, too long or undecodable prompt, an argument out of range, or a missing backend or
                upsampler.
        """
        if num_images < 1 or batch_size < 1:
            raise BadInput(f"num_images is {num_images} and batch_size {batch_size}: both must be 1 or more")
        check_seed(seed)
        pairs = [(prompt, seed + i) for prompt in check_prompts(prompts) for i in range(num_images)]
        self.check_upscale(upscale)
        pictures: dict[int, Tensor] = {}
        for i, picture in self.draw_each(pairs, batch_size, options, start):
            (pictures[i],) = self.upscaled([picture], upscale)
            progress(1)
        return [pictures[i] for i in range(len(pairs))]

    def draw_each(
        self,
        pairs: Sequence[tuple[str, int]],
        batch_size: int,
        options: BackendOptions | None = None,
        start: Start | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Draw pictures from pairs of prompt and seed, and yield each with its index as soon as it is finished.

        Otherwise as `generate`.
        """
        backend, options = self.with_defaults(options)
        backend.check(start)
        jobs = [Job(caption=caption, seed=seed) for caption, seed in pairs]
        index, waiting = {job: i for i, job in enumerate(jobs)}, iter(jobs)
        turns = max(1, -(-len(jobs) // batch_size))  # of equal size, so that few rows are empty in the last one
        rows = max(1, -(-len(jobs) // turns))
        for job, picture, finished in backend.draw_jobs(lambda n: [*islice(waiting, n)], options, start, rows):
            if finished:
                yield index[job], picture()

    def draw(
        self, pairs: Sequence[tuple[str, int]], options: BackendOptions | None = None, start: Start | None = None
    ) -> list[Tensor]:
        """Draw one batch from pairs of prompt and seed; otherwise as `generate`."""
        backend, options = self.with_defaults(options)
        captions, seeds = [caption for caption, _ in pairs], torch.tensor([seed for _, seed in pairs])
        backend.check(start)
        return backend.draw(captions, seeds.to(backend.device), options, start)

    def check_upscale(self, upscale: int) -> None:
        """Raise `BadInput` if pictures cannot be enlarged this many times; 1 is always possible."""
        if upscale == 1:
            return
        if self.upsampler is None:
            raise BadInput(
                f"upscale is {upscale}, but this bundle has no upsampler: train one with `accelerate launch "
                "tokenizer/train_upsampler.py`, then give --upsampler RUN/model to `python -m sampling.bundle`"
            )
        scale = self.upsampler.config.scale
        if upscale != scale:
            raise BadInput(
                f"upscale is {upscale}: must be {scale}, the scale of this bundle's upsampler, or 1 for none"
            )

    def upscaled(self, pictures: Sequence[Tensor], upscale: int) -> list[Tensor]:
        """Enlarge pictures, uint8 (3, H, W) each, on the CPU -> uint8 (3, upscale * H, upscale * W), on the CPU.

        Raises as `check_upscale`.
        """
        self.check_upscale(upscale)
        if upscale == 1 or self.upsampler is None:
            return list(pictures)
        device = next(self.upsampler.parameters()).device
        # one at a time: the sums of a convolution may depend on the batch, and pictures must not
        return [self.upsampler.upsample(picture[None].to(device))[0].cpu() for picture in pictures]

    def stream(
        self, prompts: Sequence[str], *, seed: int = 0, options: BackendOptions | None = None
    ) -> Iterator[list[Tensor]]:
        """Yield the unfinished pictures of `prompts`, uint8 (3, H so far, W) each, after each stage of drawing.

        The last ones are those that `generate` returns for the same prompts, seed and options; with `best_of` they
        are its first candidates. Raises as `generate` does.
        """
        backend, options = self.with_defaults(options)
        captions = check_prompts(prompts)
        seeds = torch.full((len(captions),), check_seed(seed), device=backend.device)
        return backend.stream(captions, seeds, options) if captions else iter(())

    def interpolate(
        self,
        prompts: tuple[str, str],
        seeds: tuple[int, int],
        count: int,
        options: BackendOptions,
        batch_size: int = 32,
    ) -> list[Tensor]:
        """Draw `count` pictures, uint8 (3, H, W), from the first prompt and seed to the second, evenly spaced.

        Raises `BadInput` for fewer than two pictures, for a backend that does not interpolate, and for prompts and
        seeds as `generate` does.
        """
        if count < 2:
            raise BadInput(f"interpolate is {count}: must be 2 or more")
        backend, options = self.with_defaults(options)
        first, second = check_prompts(prompts)
        seeds = (check_seed(seeds[0]), check_seed(seeds[1]))
        parts = torch.split(torch.linspace(0, 1, count, device=backend.device), batch_size)
        return [picture for part in parts for picture in backend.interpolate((first, second), seeds, part, options)]

    def with_defaults(self, options: BackendOptions | None) -> tuple[Backend[Any, Any], BackendOptions]:
        """The backend that the options are for, and the options; for None, the first backend and its defaults."""
        options = options or next(iter(self._backends.values())).options_class()
        return self.backend(options.kind), options


def load(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    engine: str = "auto",
) -> Bundle:
    """Load a bundle from a folder, or from the Hub as `hf://owner/name@commit`.

    `dtype` is that of the models that draw; "auto" chooses by model and device. `device` may
    be "auto" too. The image tokenizer is always float32.
    `engine` says how steps are computed; "auto" chooses by the machine. Raises `BadInput` when a file is missing or
    damaged, or when parts do not belong together.
    """
    device = usable_device(device)
    folder, source = _folder(path)
    kinds, parts = listed_backends(folder / "bundle.json"), listed_parts(folder / "bundle.json")
    for part in parts:
        if not (folder / part).is_dir():
            raise BadInput(f"{folder}: its folder {part} is missing, so it is not a complete bundle")
    models: dict[str, Any] = {}
    for kind in kinds:
        default = backend_class(kind).dtype_on(device.type)
        chosen = default if dtype == "auto" else getattr(torch, dtype)
        models[kind] = backend_class(kind).model_class.from_pretrained(folder / kind, device=device, dtype=chosen)
    return Bundle(
        text=TextTokenizer.from_pretrained(folder / "text"),
        tokenizer=ImageTokenizer.from_pretrained(folder / "tokenizer", device=device),
        models=models,
        upsampler=Upsampler.from_pretrained(folder / "upsampler", device=device) if "upsampler" in parts else None,
        engine=None if engine == "auto" else engine,
        source=source,
        training={name: found for name in ("tokenizer", *kinds) if (found := read_record(folder / name))},
    )


def part_files(kinds: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The names of the files in each part that a bundle with these backends may have."""
    model = ("config.json", "model.safetensors", RECORD)
    parts = {"text": ("config.json", "spiece.model"), "tokenizer": model, **dict.fromkeys(kinds, model)}
    return {**parts, "upsampler": model}


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """Check each prompt as `check_prompt` does. Raises `BadInput` for one text too, whose letters would be drawn."""
    if isinstance(prompts, str):
        raise BadInput(f"prompts is one text, {prompts[:40]!r}: must be a list of texts")
    return [check_prompt(prompt) for prompt in prompts]


def check_prompt(prompt: str) -> str:
    """Strip a prompt of surrounding space. Raises `BadInput` when it is empty, too long or not text."""
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


def check_seed(seed: int) -> int:
    """Return the seed. Raises `BadInput` for one that is no whole number or out of range."""
    if not hasattr(seed, "__index__") or not 0 <= seed < 2**62:  # NumPy's whole numbers have it too
        raise BadInput(f"seed is {seed!r}: must be a whole number from 0 to below 2**62")
    return int(seed)


def _folder(path: str | Path) -> tuple[Path, str]:
    """The local folder of a bundle, and the path or Hub address with commit that names its content."""
    require_given(path)
    parts = [f"{part}/{name}" for part, names in part_files(BACKENDS.kinds).items() for name in names]
    folder, source = fetched(path, ["bundle.json", "README.md", *parts])
    if not (folder / "bundle.json").is_file():
        raise BadInput(f"{path}: has no bundle.json, so it is not a bundle; make one with `python -m sampling.bundle`")
    return folder, source


def listed_backends(index: Path) -> list[str]:
    """The backends that a `bundle.json` lists. Raises `BadInput` unless it lists all parts of a complete bundle."""
    return [part for part in listed_parts(index) if part not in _NO_BACKENDS]


def listed_parts(index: Path) -> list[str]:
    """All parts that a `bundle.json` lists. Raises `BadInput` as `listed_backends` does."""
    parts = read_json(index).get("parts")
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise BadInput(f"{index}: must list the bundle's parts, text, tokenizer and backends")
    missing = [part for part in ("text", "tokenizer") if part not in parts]
    kinds = [part for part in parts if part not in _NO_BACKENDS]
    if missing or not kinds:
        raise BadInput(f"{index}: lists no {(*missing, 'backend')[0]}, so it is not a complete bundle")
    for kind in kinds:
        if kind not in BACKENDS:
            raise BadInput(
                f"{index}: lists a part {kind!r}, which is not a backend; there are {', '.join(BACKENDS.kinds)}"
            )
    return parts
