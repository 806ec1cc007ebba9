"""A frozen text encoder of `transformers`, such as MiniLM or T5's, which reads captions instead of an own one.

It is not part of a model's weights. The ids of its tokenizer come after the special ids of ours (`tokenizer.text`), so
padding and the null caption are the same for all models.
"""

import hashlib
import os
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from tokenizer.text import NULL, PAD, SPECIAL_IDS, TextTokenizer
from training.errors import BadInput, reason
from training.hub import SAFELY, TRANSFORMERS_FILES, fetched, load_complete


class FrozenText(nn.Module):
    """Captions -> states of the frozen encoder. Only the state of the null caption is trained and saved."""

    def __init__(self, source: str, width: int) -> None:
        """`source`: a folder or `hf://owner/name`, with the version of the weights; `width`: that of its states."""
        super().__init__()
        self.source = source
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, text: Tensor) -> Tensor:
        """Ids (B, S) int64 -> states (B, S, width). Raises `BadInput` if there is no such encoder here."""
        encoder = transformers_encoder(self.source)
        if encoder.width != len(self.null):
            raise BadInput(f"{self.source}: its states have width {encoder.width}, the model takes {len(self.null)}")
        states = encoder(text).to(self.null.dtype)
        return torch.where((text == NULL)[..., None], self.null, states)


class TransformersEncoder:
    """A frozen encoder of `transformers`, with its tokenizer. It is not a module, so models are saved without it."""

    def __init__(self, source: str) -> None:
        """Raise `BadInput` if there is no such encoder, or if its hash is not the one in `source`."""
        from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer

        folder, _ = located(source, download=False)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, **SAFELY)
            is_t5 = AutoConfig.from_pretrained(folder, **SAFELY).is_encoder_decoder
            kind = AutoModelForTextEncoding if is_t5 else AutoModel
            self.model = load_complete(kind, folder)
            self.width = int(self.model.config.hidden_size)
        except Exception as error:  # `transformers` raises many types for files that it cannot read
            raise BadInput(f"{source}: no text encoder of transformers is there ({reason(error)})") from None
        self.model.eval().requires_grad_(False)

    def encode(self, captions: Sequence[str | None], length: int) -> Tensor:
        """Captions -> ids (B, length) int64, padded with `PAD`; None is the null caption. Longer ones are cut."""
        if not captions:
            return torch.empty(0, length, dtype=torch.long)
        words = [caption or "" for caption in captions]
        out = self.tokenizer(words, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        ids: Tensor = (out["input_ids"] + SPECIAL_IDS).masked_fill(out["attention_mask"] == 0, PAD)
        ids[:, 0] = ids[:, 0].clamp_min(SPECIAL_IDS)  # an empty caption may have no ids, but attention needs one
        ids[[caption is None for caption in captions]] = torch.tensor([NULL, *[PAD] * (length - 1)])
        return ids

    @torch.no_grad()
    def __call__(self, text: Tensor) -> Tensor:
        """Ids (B, S) -> states (B, S, width) float32, arbitrary at padding and for the null caption."""
        self.model.to(text.device)
        ids, mask = (text - SPECIAL_IDS).clamp_min(0), (text != PAD).long()
        states: Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states.float()


@lru_cache(maxsize=1)
def transformers_encoder(source: str) -> TransformersEncoder:
    """Load the encoder at `source` once, and name it on stderr, because bundles do not contain it."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it warns at each fork of a worker
    print(f"captions are read by {source}, a model of transformers that is not part of the bundle", file=sys.stderr)
    return TransformersEncoder(source)


def located(source: str, *, download: bool) -> tuple[Path, str]:
    """Return the folder of a frozen encoder's source, and the source with the version of its weights.

    Training downloads it (`download`); a trained model only uses a copy on this machine. Raises `BadInput` if the
    weights are not those that `source` names.
    """
    path, _, named = source.partition("@sha256:")
    if named and not path.startswith("hf:/") and not Path(path).is_dir():
        raise BadInput(
            f"{path}: the model reads captions by the text encoder that was in this folder; put it there again, or "
            "write its new path into the model's config.json, before @sha256"
        )
    folder, pinned = fetched(path, TRANSFORMERS_FILES, download=download)
    if path.startswith("hf:/"):
        return folder, pinned
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as opened:
            while block := opened.read(2**20):
                digest.update(block)
    if named not in ("", digest.hexdigest()):
        raise BadInput(f"{path}: has other weights than the model was trained with, whose SHA-256 is {named}")
    return folder, f"{path}@sha256:{digest.hexdigest()}"


def resolved(source: str) -> tuple[str, int]:
    """The source with the version of its weights, downloaded if it is on the Hub, and the width of its states."""
    _, source = located(source, download=True)
    return source, transformers_encoder(source).width


def caption_ids(source: str, text: TextTokenizer, captions: Sequence[str | None]) -> Tensor:
    """Captions -> ids (B, S) int64, padded to the text tokenizer's length; None is the null caption.

    They are those of the frozen encoder at `source`, or without a source those of the text tokenizer.
    """
    if source:
        return transformers_encoder(source).encode(captions, text.config.max_length)
    return text.encode(captions)
