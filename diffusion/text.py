"""Text encoders of the diffusion model: one that is trained with it, or a frozen one from elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from seq2seq import frozen_text
from seq2seq.frozen_text import FrozenText
from seq2seq.model import TextEncoder, TokenModel, TokenModelConfig, text_mask
from tokenizer.text import TextTokenizer, trim_padding
from training.config import MAX_DEPTH, MAX_WIDTH, require, require_sizes
from training.errors import BadInput


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
        own = self.kind == "own"
        require(self, "source", own or bool(self.source), f"given with kind {self.kind}")
        require(self, "source", not (own and self.source), "absent with kind own; give kind seq2seq or transformers")

    @property
    def shape(self) -> TokenModelConfig:
        """The same shape as a config of the token model, for `TextEncoder`."""
        return TokenModelConfig(
            width=self.width, mlp_width=self.mlp_width, heads=self.heads, encoder_depth=self.depth,
            dropout=self.dropout, text_vocab_size=self.vocab_size, text_length=self.length,
        )  # fmt: skip


class CaptionEncoder(nn.Module):
    """The text encoder: caption ids -> states."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.encoder: nn.Module
        if config.kind == "transformers":
            self.encoder, self.frozen = FrozenText(config.source, config.width), False  # its null caption is trained
        else:
            self.encoder, self.frozen = TextEncoder(config.shape), config.kind == "seq2seq"
        self.requires_grad_(not self.frozen)

    def train(self, mode: bool = True) -> "CaptionEncoder":
        """Keep a frozen encoder in eval mode."""
        return super().train(mode and not self.frozen)

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (B, S) int64 -> states (B, S, width), mask bool (B, S)."""
        mask = text_mask(text)
        states = self.encoder(text, mask) if isinstance(self.encoder, TextEncoder) else self.encoder(text)
        return states, mask[:, 0, 0]


def caption_ids(config: TextConfig, text: TextTokenizer, captions: Sequence[str | None]) -> Tensor:
    """Captions -> ids (B, S) int64 for the encoder of `config`; S is the length of the longest caption."""
    return trim_padding(frozen_text.caption_ids(config.source if config.kind == "transformers" else "", text, captions))


def resolve_text_config(config: TextConfig, text: TextTokenizer) -> tuple[TextConfig, TextEncoder | None]:
    """Fill in what the source and the text tokenizer decide; also return the token model's encoder, if it is used.

    Raises `BadInput` if the source cannot be read, or was trained with another text tokenizer.
    """
    if config.kind == "transformers":
        source, width = frozen_text.resolved(config.source)
        return replace(config, source=source, width=width, length=text.config.max_length), None
    if config.kind == "own":
        return replace(config, vocab_size=text.vocab_size, length=text.config.max_length), None
    folder, source = frozen_text.located(config.source, download=True)
    model = TokenModel.from_pretrained(folder, dtype=torch.float32)
    c = model.config
    if c.text_source:
        raise BadInput(f"{config.source}: reads captions by {c.text_source}; take that, with kind transformers")
    if c.text_id != text.text_id:
        raise BadInput(f"{config.source}: was trained with text tokenizer {c.text_id}, but this one is {text.text_id}")
    config = replace(
        config, source=source, width=c.width, mlp_width=c.mlp_width, heads=c.heads, depth=c.encoder_depth,
        dropout=c.dropout, vocab_size=c.text_vocab_size, length=c.text_length,
    )  # fmt: skip
    return config, model.encoder
