"""A bundle loaded: everything between a prompt and its picture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from torch import Tensor

from sampling.decode import decode
from sampling.options import SamplingOptions
from seq2seq.model import TokenModel
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.text import TextTokenizer
from training.errors import BadInput
from training.pretrained import read_json

LONGEST_PROMPT = 1000
"""Characters. A longer prompt is surely a mistake; one that only exceeds the model's length is cut with a warning."""


@dataclass(kw_only=True)
class Bundle:
    """Text tokenizer, image tokenizer and token model that belong together."""

    text: TextTokenizer
    tokenizer: ImageTokenizer
    autoregressive: TokenModel

    def __post_init__(self) -> None:
        """Raises `BadInput` when a part was trained with another part than the one here."""
        model = self.autoregressive.config
        for name, wanted, found in (
            ("image tokenizer", model.codes_id, self.tokenizer.codes_id),
            ("text tokenizer", model.text_id, self.text.text_id),
        ):
            if wanted != found:
                raise BadInput(f"the token model was trained with {name} {wanted}, but this one is {found}")

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
        options: SamplingOptions | None = None,
        batch_size: int = 32,
        progress: Callable[[int], Any] = lambda done: None,
    ) -> list[Tensor]:
        """Draws `num_images` pictures of every prompt, with the seeds `seed`, `seed + 1`, ...

        A picture depends on its prompt, seed and options alone, not on the batch that it is drawn in.

        Args:
            progress: called with the number of pictures just finished.

        Returns:
            uint8 (3, H, W) each, prompt by prompt. A model may end a picture early: H is then less than W.

        Raises:
            BadInput: for an empty, overlong or undecodable prompt, or an option out of range.
        """
        options = options or SamplingOptions()
        if num_images < 1 or batch_size < 1:
            raise BadInput(f"num_images is {num_images} and batch_size {batch_size}: both must be 1 or more")
        if not 0 <= seed < 2**62:
            raise BadInput(f"seed is {seed}: must be from 0 to 2**62")
        wanted = [(check_prompt(prompt), seed + i) for prompt in prompts for i in range(num_images)]
        pictures: list[Tensor] = []
        for start in range(0, len(wanted), batch_size):
            captions, seeds = zip(*wanted[start : start + batch_size], strict=True)
            pictures += self._draw(captions, seeds, options)
            progress(len(captions))
        return pictures

    def _draw(self, captions: Sequence[str], seeds: Sequence[int], options: SamplingOptions) -> list[Tensor]:
        device = self.autoregressive.decoder.rows.device
        text, null = self.text.encode(captions).to(device), self.text.encode([None]).to(device)
        codes = decode(self.autoregressive, text, null, torch.tensor(seeds, device=device), options)
        return [self.tokenizer.decode(grid[None])[0].cpu() for grid in codes]


def load(path: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Bundle:
    """Loads a bundle from a folder or a Hub id.

    `dtype` is the token model's; the image tokenizer is always float32. Raises `BadInput` when a file is missing or
    damaged, or when parts do not belong together.
    """
    folder = _folder(path)
    index = read_json(folder / "bundle.json")
    missing = [part for part in ("text", "tokenizer", "autoregressive") if part not in index.get("parts", {})]
    if missing:
        raise BadInput(f"{folder / 'bundle.json'}: lists no {missing[0]}, so it is not a complete bundle")
    return Bundle(
        text=TextTokenizer.from_pretrained(folder / "text"),
        tokenizer=ImageTokenizer.from_pretrained(folder / "tokenizer", device=device),
        autoregressive=TokenModel.from_pretrained(folder / "autoregressive", device=device, dtype=dtype),
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
