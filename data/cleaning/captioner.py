"""Writes captions for pictures with an image-to-text model of `transformers`."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from data.corpus import Corpus
from data.files import content_hashes
from data.picture import whole
from training.config import require
from training.device import usable_device
from training.errors import BadInput, install, reason
from training.files import appending, write_bytes
from training.hub import SAFELY, TRANSFORMERS_FILES, fetched, load_complete
from training.strict_json import read_json_lines

_QUESTION = "Describe this picture in one sentence."
_MAX_BYTES = 2**31
"""Largest journal: about ten million captions."""

Picture = NDArray[np.uint8]


@dataclass(kw_only=True)
class CaptionerOptions:
    """How a model writes captions."""

    recaption: str | None = None
    """Image-to-text model of `transformers` that writes a caption for each kept picture: a folder or
    `hf://owner/name`."""
    recaption_prompt: str | None = None
    """Question for a chat model; by default, to describe the picture. For other models, how captions begin."""
    recaption_tokens: int = 64
    """Most tokens of a written caption."""
    recaption_batch: int = 8
    """Pictures in a batch of the model."""
    keep_captions: bool = True
    """Keep the other captions of a picture and append the written one. Otherwise it replaces them."""
    device: str = "auto"
    """Device for the model: `auto` (a GPU if there is one), `cpu`, `cuda`, `mps`, or another of torch's."""

    def __post_init__(self) -> None:
        for name in ("recaption_tokens", "recaption_batch"):
            require(self, name, getattr(self, name) >= 1, "1 or more")


class Captioner:
    """An image-to-text model. Decoding is greedy, so equal batches get equal captions."""

    def __init__(self, path: str, options: CaptionerOptions, cache: Path) -> None:
        """Loads weights from safetensors only, and runs no code from the model's folder. Raises `BadInput`."""
        import transformers

        device = usable_device(options.device)
        wanted = (*TRANSFORMERS_FILES, "*.jinja")
        folder, self.source = fetched(path, wanted)
        try:
            kind: Any = transformers.AutoProcessor
            self._processor = kind.from_pretrained(folder, **SAFELY)
            self._model = load_complete(transformers.AutoModelForImageTextToText, folder).eval().to(device)
        except Exception as error:  # `transformers` raises many types for files that it cannot read
            raise BadInput(f"{path}: not a model of transformers that writes captions ({reason(error)})") from None
        self._chats = bool(getattr(self._processor, "chat_template", None))
        self._prompt = self._asked(options.recaption_prompt or _QUESTION) if self._chats else options.recaption_prompt
        self._tokens = options.recaption_tokens
        files = sorted(file for name in wanted for file in folder.glob(name))
        self.id = repr((content_hashes(files, cache), self._prompt, self._tokens, transformers.__version__))
        """Text that changes whenever the captions might change."""

    def _asked(self, question: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        try:
            text: str = self._processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
        except ImportError:
            raise BadInput(f"the prompt template of this model needs Jinja: {install('prepare')}") from None
        self._processor.tokenizer.padding_side = "left"
        return text

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Picture]) -> list[str]:
        """Writes a caption for each picture, uint8 (3, H, W)."""
        images: list[Any] = [Image.fromarray(picture.transpose(1, 2, 0)) for picture in pictures]
        arguments: dict[str, Any] = {"images": [[image] for image in images] if self._chats else images}
        if self._prompt is not None:
            arguments |= {"text": [self._prompt] * len(images), "padding": True}
        inputs = self._processor(**arguments, return_tensors="pt").to(self._model.device, self._model.dtype)
        ids = self._model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=self._tokens)
        if self._chats and not self._model.config.is_encoder_decoder:  # the output begins with the prompt
            ids = ids[:, inputs["input_ids"].shape[1] :]
        return [" ".join(text.split()) for text in self._processor.batch_decode(ids, skip_special_tokens=True)]


def recaptioned(corpus: Corpus, positions: Sequence[int], options: CaptionerOptions, cache: Path) -> list[str]:
    """Writes a caption for each of the pictures at `positions`, which must be readable. A caption may be empty.

    Batches are kept in a journal in `cache`, so that a run that was killed continues. Raises `BadInput` if the model
    cannot be used.
    """
    assert options.recaption is not None
    captioner = Captioner(options.recaption, options, cache)
    state = repr((captioner.id, options.recaption_batch, corpus.recipe, [corpus.keys[i] for i in positions]))
    journal = cache / f"captions-{hashlib.blake2b(state.encode(), digest_size=16).hexdigest()}.jsonl"
    captions = list(_kept(journal))
    with tqdm(total=len(positions), initial=len(captions), desc="writing captions", unit="picture") as progress:
        while len(captions) < len(positions):
            some = positions[len(captions) : len(captions) + options.recaption_batch]
            written = captioner([whole(corpus.file(i)) for i in some])
            with appending(journal) as file:
                file.write(json.dumps(written).encode() + b"\n")
            captions += written
            progress.update(len(some))
    return captions


def _kept(journal: Path) -> Iterator[str]:
    """Yields the captions in a journal. Removes an incomplete last line first."""
    if not journal.exists():
        return
    content = journal.read_bytes()
    if not content.endswith(b"\n"):
        write_bytes(journal, content[: content.rfind(b"\n") + 1])
    for _, written in read_json_lines(journal, max_bytes=_MAX_BYTES):
        yield from written
