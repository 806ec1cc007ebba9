"""Text encoders of the diffusion model: one that is trained with it, or a frozen one from elsewhere."""

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
from training.config import MAX_DEPTH, MAX_WIDTH, require, require_sizes
from training.errors import BadInput
from training.hub import SAFELY, TRANSFORMERS_FILES, fetched, load_complete


@dataclass(kw_only=True)
class TextConfig:
    """The text encoder."""

    kind: Literal["own", "seq2seq", "transformers"] = "own"
    """`own` is trained with the denoiser. `seq2seq` and `transformers` are frozen: from a token model, or from the
    library."""
    source: str = ""
    """Where a frozen encoder is: the `model` folder of a seq2seq run; for `transformers`, a folder or `hf://owner/name`.
    The trainer adds the version of the weights: `@` and the commit, or `@sha256:` and their hash."""
    width: int = 256
    """Width of the states. For a frozen encoder, the trainer sets this and all options below."""
    mlp_width: int = 1024
    """Hidden width of the MLPs."""
    heads: int = 4
    """Attention heads."""
    depth: int = 3
    """Number of blocks."""
    dropout: float = 0.1
    """Dropout on the output of every attention and MLP."""
    vocab_size: int = 4096
    """Number of ids of the text tokenizer. The trainer sets it."""
    length: int = 64
    """Largest number of ids in a caption. The trainer sets it."""

    def __post_init__(self) -> None:
        require_sizes(
            self, width=MAX_WIDTH, mlp_width=4 * MAX_WIDTH, heads=MAX_WIDTH, depth=MAX_DEPTH, vocab_size=2**24,
            length=MAX_WIDTH,
        )  # fmt: skip
        require(self, "dropout", 0 <= self.dropout < 1, "from 0 to below 1")
        require(self, "source", bool(self.source) or self.kind == "own", f"given with kind {self.kind}")

    @property
    def shape(self) -> TokenModelConfig:
        """The same shape as a config of the token model, for `TextEncoder`."""
        return TokenModelConfig(
            width=self.width, mlp_width=self.mlp_width, heads=self.heads, encoder_depth=self.depth,
            dropout=self.dropout, text_vocab_size=self.vocab_size, text_length=self.length,
        )  # fmt: skip


class CaptionEncoder(nn.Module):
    """The text encoder of every kind but `transformers`: caption ids -> states."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.encoder = TextEncoder(config.shape)
        self.frozen = config.kind != "own"
        self.requires_grad_(not self.frozen)

    def train(self, mode: bool = True) -> "CaptionEncoder":
        """Keep a frozen encoder in eval mode."""
        return super().train(mode and not self.frozen)

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (B, S) int64 -> states (B, S, width), mask bool (B, S)."""
        mask = text_mask(text)
        return self.encoder(text, mask), mask[:, 0, 0]


class TransformersEncoder:
    """A frozen encoder of `transformers`, with its tokenizer. It is not a module, so models are saved without it."""

    def __init__(self, source: str) -> None:
        """Raise `BadInput` if there is no such encoder, or if its hash is not the one in `source`."""
        from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer

        folder, _ = _locate(source, download=False)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, **SAFELY)
            is_t5 = AutoConfig.from_pretrained(folder, **SAFELY).is_encoder_decoder
            kind = AutoModelForTextEncoding if is_t5 else AutoModel
            self.model = load_complete(kind, folder)
            self.width = int(self.model.config.hidden_size)
        except Exception as error:  # `transformers` raises many types for files that it cannot read
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BadInput(f"{source}: no text encoder of transformers is there ({reason})") from None
        self.model.eval().requires_grad_(False)

    def encode(self, captions: Sequence[str | None], length: int) -> Tensor:
        """Captions -> ids (B, S) int64, S at most `length`, -1 at padding. The null caption is an empty one."""
        words = [caption or "" for caption in captions]
        out = self.tokenizer(words, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        ids: Tensor = out["input_ids"].masked_fill(out["attention_mask"] == 0, -1)
        ids[:, 0] = ids[:, 0].clamp_min(0)  # an empty caption may have no ids, but attention needs one
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
    """Load the encoder at `source` once, and name it on stderr, because bundles do not contain it."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it warns at each fork of a worker
    print(f"captions are read by {source}, a model of transformers that is not part of the bundle", file=sys.stderr)
    return TransformersEncoder(source)


def _locate(source: str, *, download: bool) -> tuple[Path, str]:
    """Return the folder of a source of `transformers`, and the source with the version of its weights.

    Training downloads it (`download`); a trained model only uses a copy on this machine. Raises `BadInput` if the
    weights are not those that `source` names.
    """
    path, _, named = source.partition("@sha256:")
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


def caption_ids(config: TextConfig, text: TextTokenizer, captions: Sequence[str | None]) -> Tensor:
    """Captions -> ids (B, S) int64 for the encoder of `config`; S is the length of the longest caption."""
    if config.kind == "transformers":
        return transformers_encoder(config.source).encode(captions, config.length)
    return trim_padding(text.encode(captions))


def resolve_text_config(config: TextConfig, text: TextTokenizer) -> tuple[TextConfig, TextEncoder | None]:
    """Fill in what the source and the text tokenizer decide; also return the token model's encoder, if it is used.

    Raises `BadInput` if the source cannot be read, or was trained with another text tokenizer.
    """
    if config.kind == "transformers":
        _, source = _locate(config.source, download=True)
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
