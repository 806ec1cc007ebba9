"""What a denoiser reads captions with: its own encoder, a token model's, or a frozen one from `transformers`."""

import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from seq2seq.model import TextEncoder, TokenModel, TokenModelConfig, text_mask
from tokenizer.text import TextTokenizer, trim_padding
from training.config import MOST_DEPTH, MOST_WIDTH, require, require_sizes
from training.errors import BadInput
from training.hub import FOREIGN, SAFELY, complete, fetched


@dataclass(kw_only=True)
class TextConfig:
    """The text encoder."""

    kind: Literal["own", "seq2seq", "transformers"] = "own"
    """Trained along; or frozen, from a token model or from `transformers`."""
    source: str = ""
    """Where a frozen one comes from: the `model` folder of a seq2seq run; or of `transformers` a folder or
    `hf://owner/name`. The trainer adds what names the weights: `@` and the commit, or `@sha256:` and their hash."""
    width: int = 256
    """Width of the states. The trainer sets it, and all that follows, for a frozen one."""
    mlp_width: int = 1024
    """Hidden width of the MLPs."""
    heads: int = 4
    """Attention heads."""
    depth: int = 3
    """Blocks."""
    dropout: float = 0.1
    """Dropout on the output of every attention and MLP."""
    vocab_size: int = 4096
    """Ids of the text tokenizer. The trainer sets it."""
    length: int = 64
    """Ids a caption. The trainer sets it."""

    def __post_init__(self) -> None:
        require_sizes(
            self, width=MOST_WIDTH, mlp_width=4 * MOST_WIDTH, heads=MOST_WIDTH, depth=MOST_DEPTH, vocab_size=2**24,
            length=MOST_WIDTH,
        )  # fmt: skip
        require(self, "dropout", 0 <= self.dropout < 1, "from 0 to below 1")
        require(self, "source", bool(self.source) or self.kind == "own", f"given with kind {self.kind}")

    @property
    def shape(self) -> TokenModelConfig:
        """As the token model's text encoder takes it."""
        return TokenModelConfig(
            width=self.width, mlp_width=self.mlp_width, heads=self.heads, encoder_depth=self.depth,
            dropout=self.dropout, text_vocab_size=self.vocab_size, text_length=self.length,
        )  # fmt: skip


class CaptionEncoder(nn.Module):
    """Caption ids -> states, for every kind but `transformers`'."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.encoder = TextEncoder(config.shape)
        self.frozen = config.kind != "own"
        self.requires_grad_(not self.frozen)

    def train(self, mode: bool = True) -> "CaptionEncoder":
        """A frozen encoder stays in eval mode."""
        return super().train(mode and not self.frozen)

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (B, S) int64 -> states (B, S, width), mask bool (B, S)."""
        mask = text_mask(text)
        return self.encoder(text, mask), mask[:, 0, 0]


class TransformersEncoder:
    """A frozen encoder of `transformers` with its tokenizer. Not a module: its weights are in no model of ours."""

    def __init__(self, source: str) -> None:
        """Raises `BadInput` when there is no such encoder, or another one than the hash in `source` names."""
        from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer

        folder, _ = _located(source, download=False)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, **SAFELY)
            of_t5 = AutoConfig.from_pretrained(folder, **SAFELY).is_encoder_decoder
            kind = AutoModelForTextEncoding if of_t5 else AutoModel
            self.model = complete(kind, folder)
            self.width = int(self.model.config.hidden_size)
        except Exception as error:  # whatever `transformers` raises for what it cannot read
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BadInput(f"{source}: no text encoder of transformers is there ({reason})") from None
        self.model.eval().requires_grad_(False)

    def encode(self, captions: Sequence[str | None], length: int) -> Tensor:
        """Captions -> ids (B, S) int64, S at most `length`, -1 at padding; the null caption is the empty one."""
        words = [caption or "" for caption in captions]
        out = self.tokenizer(words, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        ids: Tensor = out["input_ids"].masked_fill(out["attention_mask"] == 0, -1)
        ids[:, 0] = ids[:, 0].clamp_min(0)  # an empty caption without marks: something must be there to attend on
        return ids[:, : int((ids >= 0).sum(1).max())]

    @torch.no_grad()
    def __call__(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (B, S) -> states (B, S, width) float32, mask bool (B, S)."""
        mask = text >= 0
        self.model.to(text.device)
        states = self.model(input_ids=text.clamp_min(0), attention_mask=mask.long()).last_hidden_state
        return states.float(), mask


@lru_cache(maxsize=1)
def transformers_encoder(source: str) -> TransformersEncoder:
    """The encoder at `source`, loaded once and named then, for it is in no bundle."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it warns at every worker that is forked
    print(f"captions are read by {source}, a model of transformers that comes from elsewhere", file=sys.stderr)
    return TransformersEncoder(source)


def _located(source: str, *, download: bool) -> tuple[Path, str]:
    """The folder of a source of `transformers`, and the source with what names its weights.

    It is only downloaded for who trains with it: a model that names it must find it here.

    Raises `BadInput` where they are other weights than it names already.
    """
    path, _, named = source.partition("@sha256:")
    folder, pinned = fetched(path, FOREIGN, download=download)
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


def caption_ids(config: TextConfig, text: TextTokenizer, captions: Sequence[str | None]) -> Tensor:
    """Captions -> ids (B, S) int64 as the encoder of `config` reads them, S the longest caption's."""
    if config.kind == "transformers":
        return transformers_encoder(config.source).encode(captions, config.length)
    return trim_padding(text.encode(captions))


def resolve_text_config(config: TextConfig, text: TextTokenizer) -> tuple[TextConfig, TextEncoder | None]:
    """The config with what its source and the text tokenizer say; and the token model's encoder, where it is used.

    Raises `BadInput` when the source cannot be read or was trained with another text tokenizer.
    """
    if config.kind == "transformers":
        _, source = _located(config.source, download=True)
        width = transformers_encoder(source).width
        return replace(config, source=source, width=width, length=text.config.max_length), None
    if config.kind == "own":
        return replace(config, vocab_size=text.vocab_size, length=text.config.max_length), None
    model = TokenModel.from_pretrained(config.source, dtype=torch.float32)
    c = model.config
    if c.text_id != text.text_id:
        raise BadInput(f"{config.source}: was trained with text tokenizer {c.text_id}, but this one is {text.text_id}")
    config = replace(
        config, width=c.width, mlp_width=c.mlp_width, heads=c.heads, depth=c.encoder_depth,
        dropout=c.dropout, vocab_size=c.text_vocab_size, length=c.text_length,
    )  # fmt: skip
    return config, model.encoder
