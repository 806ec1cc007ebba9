"""The token model of Parti (arXiv 2206.10789): caption ids -> image tokens, raster order, then EOS.

Dimension names: B batch, S caption ids, T image tokens, D width, K codes of the image tokenizer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seq2seq.cache import KVCache, Positions
from seq2seq.layers import DecoderBlock, EncoderBlock, RMSNorm, Text
from tokenizer.text import NULL, PAD
from training.config import MOST_DEPTH, MOST_WIDTH, require, require_sizes
from training.pretrained import PretrainedModel


@dataclass(kw_only=True)
class TokenModelConfig:
    """Shape of the token model."""

    width: int = 256
    """Width of encoder and decoder."""
    mlp_width: int = 1024
    """Hidden width of the MLPs."""
    heads: int = 4
    """Attention heads; they divide the width."""
    encoder_depth: int = 3
    """Blocks of the text encoder."""
    decoder_depth: int = 6
    """Blocks of the image-token decoder."""
    dropout: float = 0.1
    """Dropout on the output of every attention and MLP."""
    text_vocab_size: int = 4096
    """Ids of the text tokenizer. The trainer sets it."""
    text_length: int = 64
    """Ids a caption. The trainer sets it."""
    codebook_size: int = 2048
    """Codes of the image tokenizer, K. The trainer sets it."""
    grid: int = 8
    """Codes a row, and most rows a picture. The trainer sets it."""
    codes_id: str = ""
    """The image tokenizer whose codes the model speaks. The trainer sets it."""
    text_id: str = ""
    """The text tokenizer whose ids the model reads. The trainer sets it."""

    def __post_init__(self) -> None:
        require_sizes(
            self, width=MOST_WIDTH, mlp_width=4 * MOST_WIDTH, heads=MOST_WIDTH, encoder_depth=MOST_DEPTH,
            decoder_depth=MOST_DEPTH, text_vocab_size=2**24, text_length=MOST_WIDTH, codebook_size=2**24, grid=1024,
        )  # fmt: skip
        require(self, "width", self.width % self.heads == 0, f"a multiple of heads {self.heads}")
        require(self, "dropout", 0 <= self.dropout < 1, "from 0 to below 1")

    @property
    def eos(self) -> int:
        """Token that ends a picture, K."""
        return self.codebook_size

    @property
    def bos(self) -> int:
        """Token that begins a picture, K + 1. Only ever read, never predicted."""
        return self.codebook_size + 1

    @property
    def length(self) -> int:
        """Most image tokens of a picture, EOS not counted."""
        return self.grid**2


class TokenModel(PretrainedModel):
    """Text encoder and image-token decoder."""

    config_class = TokenModelConfig
    training_only = frozenset({"dropout"})
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
        """Teacher forcing: logits of every token given the caption and the tokens before it. Or, with positions and a
        cache, what `read` and `extend` do: they come this way so that sharded weights are gathered for them too.

        Args:
            text: caption ids (B, S) int64, padded with `PAD`; None: those that the cache was filled from.
            tokens: image tokens (B, T) int64 in raster order, without BOS and EOS, T up to `config.length`; with
                positions, each the one before its position.
            positions: of the logits; by default 0..T.
            cache: of the tokens before these; by default there are none.

        Returns:
            logits (B, T + 1, K + 1); position t is token t's, position T EOS's. EOS is -inf inside rows, and after
            the last row everything else is: so the probabilities of all pictures add up to 1. With positions,
            (B, T, K + 1).
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
                unsaid = null_caption(text[:1])
                null = self.encoder(unsaid, text_mask(unsaid))
        return self.decoder(tokens, positions, Text(mask, states, null), cache)

    def read(self, text: Tensor, guide: bool = False, cache: KVCache | None = None) -> KVCache:
        """Reads captions (B, S) once, for `extend`: a pass of no tokens that fills a cache.

        To `guide`, the cache is for 2 B pictures, the second half with the null caption. It is a new one, or one that
        was filled from as many captions before, and as guided.
        """
        c = self.config
        cache = cache or KVCache(c.decoder_depth, c.heads, c.length + 1, guide)
        none = text.new_empty(len(text) * (2 if cache.guided else 1), 0)
        self(text, none, Positions(none), cache)
        return cache

    def extend(self, tokens: Tensor, positions: Positions, cache: KVCache) -> Tensor:
        """Tokens (B, T), each the one before its position, BOS before position 0 -> logits (B, T, K + 1).

        They are appended to the cache. A position that was appended before is written again, and what stood at later
        ones is not looked at.
        """
        return self(None, tokens, positions, cache)


class TextEncoder(nn.Module):
    """Caption ids -> states, bidirectional."""

    def __init__(self, config: TokenModelConfig) -> None:
        super().__init__()
        c = config
        self.embed = nn.Embedding(c.text_vocab_size, c.width)
        self.positions = nn.Parameter(torch.randn(c.text_length, c.width) * 0.02)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks: Sequence[EncoderBlock] = nn.ModuleList(  # type: ignore[assignment]
            EncoderBlock(c.width, c.heads, c.mlp_width, c.dropout) for _ in range(c.encoder_depth)
        )
        self.norm = RMSNorm(c.width)
        self.apply(_initialize)
        # A word must outweigh what blocks add to it from the start: at 0.02, as elsewhere, a model that had seen every
        # picture 16 times paid no heed to captions; at 0.4 it was bound by them.
        nn.init.normal_(self.embed.weight, std=0.4)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Ids (B, S), mask (B, 1, 1, S) -> (B, S, D)."""
        x = self.dropout(self.embed(text) + self.positions[: text.shape[1]])
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


class ImageTokenDecoder(nn.Module):
    """Image tokens -> logits of the next, with a learned position for the row and the column of the token to come."""

    def __init__(self, config: TokenModelConfig) -> None:
        super().__init__()
        c = self.config = config
        self.embed = nn.Embedding(c.codebook_size + 2, c.width)
        self.rows = nn.Parameter(torch.randn(c.grid + 1, c.width) * 0.02)
        self.columns = nn.Parameter(torch.randn(c.grid, c.width) * 0.02)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks: Sequence[DecoderBlock] = nn.ModuleList(  # type: ignore[assignment]
            DecoderBlock(c.width, c.heads, c.mlp_width, c.dropout) for _ in range(c.decoder_depth)
        )
        self.norm = RMSNorm(c.width)
        self.head = nn.Linear(c.width, c.codebook_size + 1, bias=False)

    def forward(self, tokens: Tensor, positions: Positions, text: Text, cache: KVCache | None = None) -> Tensor:
        """Tokens (B, T), each the one before its position -> logits (B, T, K + 1).

        Without a cache they are the whole sequence; with one they are appended to it.
        """
        x = self.dropout(self.embed(tokens) + self.positions(positions.at))
        pasts = cache.at(positions) if cache else [None] * len(self.blocks)
        for block, past in zip(self.blocks, pasts, strict=True):
            x = block(x, text, past)
        return self.mask_impossible(self.head(self.norm(x)), positions.at)

    def positions(self, t: Tensor) -> Tensor:
        """Positions (..., T) -> (..., T, D): t is row t // grid and column t % grid of the token predicted there."""
        return self.rows[t // self.config.grid] + self.columns[t % self.config.grid]

    def mask_impossible(self, logits: Tensor, t: Tensor) -> Tensor:
        """Logits (B, T, K + 1) at positions (..., T) -> float32, -inf for EOS inside rows and for codes after the last
        row."""
        at_row_end = (t > 0) & (t % self.config.grid == 0)
        is_eos = torch.arange(logits.shape[-1], device=logits.device) == self.config.eos
        allowed = torch.where(is_eos, at_row_end[..., None], (t < self.config.length)[..., None])
        return logits.float().masked_fill(~allowed, -torch.inf)


def null_caption(text: Tensor) -> Tensor:
    """Ids of as many null captions as there are captions in (B, S): (B, 1) int64."""
    return torch.full_like(text[:, :1], NULL)


def text_mask(text: Tensor) -> Tensor:
    """Caption ids (B, S) -> bool (B, 1, 1, S), True where there is a caption."""
    return (text != PAD)[:, None, None, :]


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
