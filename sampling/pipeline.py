"""A bundle loaded: everything between a prompt and its picture."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sampling.backend import Backend, Start, backend_class
from sampling.options import BACKENDS, BackendOptions
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.text import TextTokenizer
from training.errors import BadInput
from training.hub import fetched
from training.pretrained import PretrainedModel, require_device
from training.record import FILE as RECORD
from training.record import read_record
from training.strict_json import read_json

LONGEST_PROMPT = 1000
"""Characters. A longer prompt is surely a mistake; one that only exceeds the model's length is cut with a warning."""


@dataclass(kw_only=True)
class Bundle:
    """Text tokenizer, image tokenizer, and models that draw by them. Several threads may draw from one at once."""

    text: TextTokenizer
    tokenizer: ImageTokenizer
    models: Mapping[str, PretrainedModel]
    """By backend; the first draws where none is asked for."""
    engine: str | None = None
    """How steps are computed, by default as fits the machine."""
    training: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """How each part was trained and what that took (`training.record`), where that is known."""
    source: str = ""
    """Where it was loaded from: a folder, or `hf://owner/name@commit`."""

    def __post_init__(self) -> None:
        """Raises `BadInput` when a model was trained with another part than the one here."""
        self._backends = {
            kind: backend_class(kind)(model, self.text, self.tokenizer, self.engine)
            for kind, model in self.models.items()
        }
        for backend in self._backends.values():
            config = backend.model.config
            for name, wanted, found in (
                ("image tokenizer", config.codes_id, self.tokenizer.codes_id),
                ("text tokenizer", config.text_id, self.text.text_id),
            ):
                # a model that reads with `transformers` was trained with no text tokenizer
                if wanted != found and (wanted or name == "image tokenizer"):
                    raise BadInput(f"the {backend.title} was trained with {name} {wanted}, but this one is {found}")

    def backend(self, kind: str) -> Backend[Any, Any]:
        """One of the bundle's backends. Raises `BadInput` where it has no such one."""
        if kind not in self._backends:
            raise BadInput(
                f"this bundle has no {kind} part: train one with `{backend_class(kind).recipe}`, "
                f"then give --backend {kind}=RUN/model to `python -m sampling.bundle`"
            )
        return self._backends[kind]

    @cached_property
    def ids(self) -> dict[str, str]:
        """What decides codes, pixels and text ids."""
        tokenizer = self.tokenizer
        return {"codes_id": tokenizer.codes_id, "pixels_id": tokenizer.pixels_id, "text_id": self.text.text_id}

    @property
    def parameters(self) -> dict[str, int]:
        """Of each part that has any."""
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
        batch_size: int = 32,
        progress: Callable[[int], Any] = lambda done: None,
    ) -> list[Tensor]:
        """Draws `num_images` pictures of every prompt, with the seeds `seed`, `seed + 1`, ...

        A picture depends on its prompt, seed and options alone, not on the batch that it is drawn in.

        Args:
            options: how to draw, and by their kind the backend; by default the bundle's first.
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
        self, wanted: Sequence[tuple[str, int]], options: BackendOptions | None = None, start: Start | None = None
    ) -> list[Tensor]:
        """Draws one batch of prompts, each with its seed; otherwise as `generate`."""
        backend, options = self._asked(options)
        captions, seeds = [caption for caption, _ in wanted], torch.tensor([seed for _, seed in wanted])
        backend.check(start)
        return backend.draw(captions, seeds.to(backend.device), options, start)

    def stream(
        self, prompts: Sequence[str], *, seed: int = 0, options: BackendOptions | None = None
    ) -> Iterator[list[Tensor]]:
        """The pictures of `prompts` as far as they have come, again and again, uint8 (3, H so far, W) each.

        The last ones are those that `generate` returns for the same prompts, seed and options; with `best_of` they
        are its first candidates.
        """
        backend, options = self._asked(options)
        captions = [check_prompt(prompt) for prompt in prompts]
        yield from backend.stream(captions, torch.full((len(captions),), seed, device=backend.device), options)

    def interpolate(
        self,
        prompts: tuple[str, str],
        seeds: tuple[int, int],
        count: int,
        options: BackendOptions,
        batch_size: int = 32,
    ) -> list[Tensor]:
        """`count` pictures, uint8 (3, H, W), from the first prompt and seed to the second."""
        if count < 2:
            raise BadInput(f"interpolate is {count}: must be 2 or more")
        backend, options = self._asked(options)
        ends = (check_prompt(prompts[0]), check_prompt(prompts[1]))
        parts = torch.split(torch.linspace(0, 1, count, device=backend.device), batch_size)
        return [picture for part in parts for picture in backend.between(ends, seeds, part, options)]

    def _asked(self, options: BackendOptions | None) -> tuple[Backend[Any, Any], BackendOptions]:
        """The backend that options are for, and the options."""
        options = options or next(iter(self._backends.values())).options_class()
        return self.backend(options.kind), options


def load(
    path: str | Path,
    *,
    device: str = "cpu",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    engine: str = "auto",
) -> Bundle:
    """Loads a bundle from a folder, or from the Hub where it is `hf://owner/name@commit`.

    `dtype` is that of the models that draw, by default as fits each; the image tokenizer is always float32. `engine`
    computes the steps, by default as fits the machine. Raises `BadInput` when a file is missing or damaged, or when
    parts do not belong together.
    """
    require_device(device)
    folder, source = _folder(path)
    kinds = backends_of(folder / "bundle.json")
    for part in files_of(kinds):
        if not (folder / part).is_dir():
            raise BadInput(f"{folder}: its folder {part} is missing, so it is not a complete bundle")
    models: dict[str, Any] = {}
    for kind in kinds:
        usual = backend_class(kind).dtype_on(torch.device(device).type)
        asked = usual if dtype == "auto" else getattr(torch, dtype)
        models[kind] = backend_class(kind).model_class.from_pretrained(folder / kind, device=device, dtype=asked)
    return Bundle(
        text=TextTokenizer.from_pretrained(folder / "text"),
        tokenizer=ImageTokenizer.from_pretrained(folder / "tokenizer", device=device),
        models=models,
        engine=None if engine == "auto" else engine,
        source=source,
        training={name: found for name in ("tokenizer", *kinds) if (found := read_record(folder / name))},
    )


def files_of(kinds: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The files of each part of a bundle with these backends."""
    model = ("config.json", "model.safetensors", RECORD)
    return {"text": ("config.json", "spiece.model"), "tokenizer": model, **dict.fromkeys(kinds, model)}


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
    parts = [f"{part}/{name}" for part, names in files_of(BACKENDS.kinds).items() for name in names]
    folder, source = fetched(path, ["bundle.json", "README.md", *parts])
    if not (folder / "bundle.json").is_file():
        raise BadInput(f"{path}: has no bundle.json, so it is not a bundle; make one with `python -m sampling.bundle`")
    return folder, source


def backends_of(index: Path) -> list[str]:
    """The backends that the index of a bundle lists. Raises `BadInput` where it is not a complete bundle's."""
    parts = read_json(index).get("parts")
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise BadInput(f"{index}: must list the bundle's parts, text, tokenizer and backends")
    missing = [part for part in ("text", "tokenizer") if part not in parts]
    kinds = [part for part in parts if part not in ("text", "tokenizer")]
    if missing or not kinds:
        raise BadInput(f"{index}: lists no {(*missing, 'backend')[0]}, so it is not a complete bundle")
    for kind in kinds:
        if kind not in BACKENDS:
            raise BadInput(
                f"{index}: lists a part {kind!r}, which is no backend here; there are {', '.join(BACKENDS.kinds)}"
            )
    return kinds
