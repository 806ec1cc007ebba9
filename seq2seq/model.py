"""The token model of Parti (arXiv 2206.10789): caption ids -> image tokens in raster order, then EOS.

With a residual quantizer, all tokens of a place come before those of the next place. The embedding of the column tells
the depth.

Dimension names: B batch, S caption ids, T image tokens, D width, K codes of the image tokenizer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seq2seq.cache import KVCache, Positions
from seq2seq.frozen_text import FrozenText
from seq2seq.layers import DecoderBlock, EncoderBlock, RMSNorm, Text
from tokenizer.quantizers import MAX_RESIDUAL_DEPTH
from tokenizer.text import NULL, PAD
from training.config import MAX_DEPTH, MAX_WIDTH, require, require_sizes
from training.pretrained import PretrainedModel
from training.recompute import call


@dataclass(kw_only=True)
class TokenModelConfig:
    """Shape of the token model."""

    width: int = 256
    """Width of encoder and decoder."""
    mlp_width: int = 1024
    """Hidden width of the MLPs."""
    heads: int = 4
    """Attention heads. The width must be a multiple of them."""
    key_heads: int | None = None
    """Heads of the decoder's keys and values, by default as many as `heads`. Fewer make the KV cache smaller, and steps
    with many pictures faster. `heads` must be a multiple of them."""
    encoder_depth: int = 3
    """Blocks of the text encoder."""
    decoder_depth: int = 6
    """Blocks of the image-token decoder."""
    dropout: float = 0.1
    """Dropout on the output of every attention and MLP."""
    recompute: bool = False
    """Compute activations again in the backward pass instead of keeping them, to save memory."""
    text_source: str = ""
    """A frozen text encoder of `transformers` that reads captions, instead of embeddings learned from the captions
    alone: a folder or `hf://owner/name`. The blocks of the model's own encoder follow. The trainer adds the version of
    the weights: `@` and the commit, or `@sha256:` and their hash."""
    text_states: int = 384
    """Width of the frozen encoder's states. The trainer sets it."""
    text_vocab_size: int = 4096
    """Number of ids of the text tokenizer. The trainer sets it."""
    text_length: int = 64
    """Largest number of ids in a caption. The trainer sets it."""
    codebook_size: int = 2048
    """Number of codes of the image tokenizer, K. The trainer sets it."""
    grid: int = 8
    """Places in a row, and largest number of rows in a picture. The trainer sets it."""
    depth: int = 1
    """Codes of a place; more than 1 with a residual quantizer. The trainer sets it."""
    codes_id: str = ""
    """Id of the image tokenizer whose codes the model predicts. The trainer sets it."""
    text_id: str = ""
    """Id of the text tokenizer whose ids the model reads; empty with a `text_source`. The trainer sets it."""

    def __post_init__(self) -> None:
        require_sizes(
            self, width=MAX_WIDTH, mlp_width=4 * MAX_WIDTH, heads=MAX_WIDTH, encoder_depth=MAX_DEPTH,
            decoder_depth=MAX_DEPTH, text_states=MAX_WIDTH, text_vocab_size=2**24, text_length=MAX_WIDTH,
            codebook_size=2**24, grid=1024, depth=MAX_RESIDUAL_DEPTH,
        )  # fmt: skip
        require(self, "width", self.width % self.heads == 0, f"a multiple of heads {self.heads}")
        divides = self.key_heads is None or (self.key_heads >= 1 and self.heads % self.key_heads == 0)
        require(self, "key_heads", divides, f"absent, or a divisor of heads {self.heads}")
        require(self, "dropout", 0 <= self.dropout < 1, "from 0 to below 1")

    @property
    def eos(self) -> int:
        """Token that ends a picture, K."""
        return self.codebook_size

    @property
    def bos(self) -> int:
        """Token that begins a picture, K + 1. It is read, but never predicted."""
        return self.codebook_size + 1

    @property
    def columns(self) -> int:
        """Image tokens in a row."""
        return self.grid * self.depth

    @property
    def length(self) -> int:
        """Largest number of image tokens in a picture, without EOS."""
        return self.grid * self.columns


class TokenModel(PretrainedModel):
    """Text encoder and image-token decoder."""

    config_class = TokenModelConfig
    training_only = frozenset({"dropout", "recompute"})
    config: TokenModelConfig

    def __init__(self, config: TokenModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = TextEncoder(config)
        self.decoder = ImageTokenDecoder(config)
        self.decoder.apply(_initialize)
        for block in [*self.encoder.blocks, *self.decoder.blocks]:  # residual branches start small (GPT-2, section 2.3)
            for name, parameter in block.named_parameters():
                if name.endswith(("out.weight", "mlp.2.weight")):
                    nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.decoder_depth))

    def forward(
        self, text: Tensor | None, tokens: Tensor, positions: Positions | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """Predict every token from the caption and the tokens before it (teacher forcing).

        With positions and a cache, it does what `read` and `extend` need. They call `forward`, because sharded weights
        are gathered only for it.

        Args:
            text: caption ids (B, S) int64, padded with `PAD`; None for the captions that are in the cache.
            tokens: image tokens (B, T) int64 in raster order, without BOS and EOS, T up to `config.length`. With
                positions, each is the token before its position.
            positions: positions of the logits; by default 0..T.
            cache: keys and values of earlier tokens; by default there are none.

        Returns:
            logits (B, T + 1, K + 1): position t predicts token t, and position T predicts EOS. EOS has -inf inside
            rows, and everything else has -inf after the last row, so the probabilities of all pictures add up to 1.
            With positions, (B, T, K + 1).
        """
        if positions is None:
            bos = tokens.new_full((len(tokens), 1), self.config.bos)
            tokens = torch.cat([bos, tokens], dim=1)
            positions = Positions(torch.arange(tokens.shape[1], device=tokens.device))
        if text is None:
            assert cache is not None
            return self.decoder(tokens, positions, Text(cache.text_mask), cache)
        mask, null = text_mask(text), None
        states = self.encoder(text, mask)
        if cache is not None:
            cache.begin(states, mask)
            if cache.guided:
                ids = null_caption(text[:1])
                null = self.encoder(ids, text_mask(ids))
        return self.decoder(tokens, positions, Text(mask, states, null), cache)

    def read(self, text: Tensor, guide: bool = False, cache: KVCache | None = None) -> KVCache:
        """Read captions (B, S) into a cache for `extend`.

        With `guide`, the cache is for 2 B pictures, and the second half has the null caption. Pass a `cache` to use it
        again: it must have been made for as many captions, with the same `guide`.
        """
        c = self.config
        cache = cache or KVCache(c.decoder_depth, c.key_heads or c.heads, c.width // c.heads, c.length + 1, guide)
        no_tokens = text.new_empty(len(text) * (2 if cache.guided else 1), 0)
        self(text, no_tokens, Positions(no_tokens), cache)
        return cache

    def extend(self, tokens: Tensor, positions: Positions, cache: KVCache) -> Tensor:
        """Tokens (B, T), each the token before its position (BOS before position 0) -> logits (B, T, K + 1).

        Adds them to the cache. A position that is in the cache already is overwritten, and later ones are not read.
        """
        return self(None, tokens, positions, cache)


class TextEncoder(nn.Module):
    """A bidirectional transformer: caption ids -> states."""

    def __init__(self, config: TokenModelConfig) -> None:
        super().__init__()
        c = config
        self.embed: nn.Module = (
            nn.Sequential(FrozenText(c.text_source, c.text_states), nn.Linear(c.text_states, c.width, bias=False))
            if c.text_source
            else nn.Embedding(c.text_vocab_size, c.width)
        )
        self.positions = nn.Parameter(torch.randn(c.text_length, c.width) * 0.02)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks: Sequence[EncoderBlock] = nn.ModuleList(  # type: ignore[assignment]
            EncoderBlock(c.width, c.heads, c.mlp_width, c.dropout) for _ in range(c.encoder_depth)
        )
        self.norm = RMSNorm(c.width)
        self.recompute = c.recompute
        self.apply(_initialize)
        # At first, a word must be larger than what the blocks add to it. At 0.02, as elsewhere, a model that had seen
        # every picture 16 times ignored captions; at 0.4 it followed them.
        if isinstance(self.embed, nn.Sequential):  # states of frozen encoders have numbers of about 1
            nn.init.normal_(self.embed.get_parameter("1.weight"), std=0.4 / math.sqrt(c.text_states))
        else:
            nn.init.normal_(self.embed.weight, std=0.4)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Ids (B, S), mask (B, 1, 1, S) -> (B, S, D)."""
        x = self.dropout(self.embed(text) + self.positions[: text.shape[1]])
        for block in self.blocks:
            x = call(block, x, mask, recompute=self.recompute)
        return self.norm(x)


class ImageTokenDecoder(nn.Module):
    """Image tokens -> logits of the next token, with a learned embedding of the next token's row and of its column."""

    def __init__(self, config: TokenModelConfig) -> None:
        super().__init__()
        c = self.config = config
        self.embed = nn.Embedding(c.codebook_size + 2, c.width)
        self.rows = nn.Parameter(torch.randn(c.grid + 1, c.width) * 0.02)
        self.columns = nn.Parameter(torch.randn(c.columns, c.width) * 0.02)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks: Sequence[DecoderBlock] = nn.ModuleList(  # type: ignore[assignment]
            DecoderBlock(c.width, c.heads, c.mlp_width, c.dropout, c.key_heads) for _ in range(c.decoder_depth)
        )
        self.norm = RMSNorm(c.width)
        self.head = nn.Linear(c.width, c.codebook_size + 1, bias=False)

    def forward(self, tokens: Tensor, positions: Positions, text: Text, cache: KVCache | None = None) -> Tensor:
        """Tokens (B, T), each the token before its position -> logits (B, T, K + 1).

        Without a cache, they are the whole sequence; with a cache, they are added to it.
        """
        x = self.dropout(self.embed(tokens) + self.positions(positions.at))
        caches = cache.at(positions) if cache else [None] * len(self.blocks)
        for block, its_cache in zip(self.blocks, caches, strict=True):
            x = call(block, x, text, its_cache, recompute=self.config.recompute)
        return self.mask_impossible(self.head(self.norm(x)), positions.at)

    def positions(self, t: Tensor) -> Tensor:
        """Positions t (..., T) -> (..., T, D): the embeddings of their rows and columns, summed."""
        return self.rows[t // self.config.columns] + self.columns[t % self.config.columns]

    def mask_impossible(self, logits: Tensor, t: Tensor) -> Tensor:
        """Set impossible tokens to -inf: EOS inside rows, and codes after the last row.

        Logits (B, T, K + 1) at positions (..., T) -> (B, T, K + 1) float32.
        """
        at_row_end = (t > 0) & (t % self.config.columns == 0)
        is_eos = torch.arange(logits.shape[-1], device=logits.device) == self.config.eos
        allowed = torch.where(is_eos, at_row_end[..., None], (t < self.config.length)[..., None])
        return logits.float().masked_fill(~allowed, -torch.inf)


def null_caption(text: Tensor) -> Tensor:
    """Ids of a null caption for each caption of `text` (B, S): (B, 1) int64."""
    return torch.full_like(text[:, :1], NULL)


def text_mask(text: Tensor) -> Tensor:
    """Caption ids (B, S) -> bool (B, 1, 1, S), False at padding."""
    return (text != PAD)[:, None, None, :]


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
