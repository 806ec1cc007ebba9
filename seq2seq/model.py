"""The token model of Parti (arXiv 2206.10789): caption ids -> image tokens, raster order, then EOS.

Dimension names: B batch, S caption ids, T image tokens, D width, K codes of the image tokenizer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seq2seq.cache import KVCache
from seq2seq.layers import DecoderBlock, EncoderBlock, RMSNorm
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
    learns_by = frozenset({"dropout"})
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

    def forward(self, text: Tensor, tokens: Tensor) -> Tensor:
        """Teacher forcing: logits of every token given the caption and the tokens before it.

        Args:
            text: caption ids (B, S) int64, padded with `PAD`.
            tokens: image tokens (B, T) int64 in raster order, without BOS and EOS, T up to `config.length`.

        Returns:
            logits (B, T + 1, K + 1); position t is token t's, position T EOS's. EOS is -inf inside rows, and after
            the last row everything else is: so the probabilities of all pictures add up to 1.
        """
        mask = text_mask(text)
        states = self.encoder(text, mask)
        bos = torch.full_like(tokens[:, :1], self.config.bos)
        return self.decoder(torch.cat([bos, tokens], dim=1), states, mask)

    def cache(self, text: Tensor, guide: bool = False, old: KVCache | None = None) -> KVCache:
        """Encodes captions (B, S) once, for `step`; into the buffers of an `old` cache where they fit.

        To `guide`, the cache is for 2 B pictures, the second half with the null caption.
        """
        mask = text_mask(text)
        null = null_caption(text[:1])
        unsaid = self.encoder(null, text_mask(null)) if guide else None
        return self.decoder.cache(self.encoder(text, mask), mask, unsaid, old)

    def step(self, token: Tensor, position: int | Tensor, cache: KVCache) -> Tensor:
        """Logits (B, K + 1) of token number `position` from the one before it, (B,): BOS at position 0.

        `position` is a number, or a tensor () int64 where no shape may depend on it (see `Past`).
        """
        at = position.expand(len(token), 1) if isinstance(position, Tensor) else position
        return self.decoder.extend(token[:, None], at, cache)[:, 0]


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

    def forward(self, tokens: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Tokens from BOS on (B, T), caption states (B, S, D) -> logits (B, T, K + 1)."""
        t = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.embed(tokens) + self.positions(t))
        for block in self.blocks:
            x = block(x, block.cross.keys_values(states), mask)
        return self.rule_out(self.head(self.norm(x)), t)

    def cache(self, states: Tensor, mask: Tensor, null: Tensor | None, old: KVCache | None = None) -> KVCache:
        """Caption states (B, S, D), and the null caption's (1, 1, D) -> a cache of what every block reads in them."""
        text = [block.cross.keys_values(states) for block in self.blocks]
        unsaid = None if null is None else torch.stack([block.read_null(null) for block in self.blocks])
        if old is not None and old.refill(text, mask, unsaid):
            return old
        return KVCache(text, mask, self.config.length + 1, unsaid)

    def extend(self, tokens: Tensor, positions: int | Tensor, cache: KVCache) -> Tensor:
        """Tokens (B, T), each the one before its position -> logits (B, T, K + 1); appends to the cache.

        `positions` is a number where T is 1, or (B, T) int64. A position that was appended before is written again, and
        what stood at later ones is not looked at.
        """
        t = positions if isinstance(positions, Tensor) else torch.tensor([positions], device=tokens.device)
        x = self.embed(tokens) + self.positions(t)
        for block, text, past, null in zip(self.blocks, cache.text, cache.at(positions), cache.nulls, strict=True):
            x = block(x, text, cache.text_mask, past, null)
        return self.rule_out(self.head(self.norm(x)), t)

    def positions(self, t: Tensor) -> Tensor:
        """Positions (..., T) -> (..., T, D): t is row t // grid and column t % grid of the token predicted there."""
        return self.rows[t // self.config.grid] + self.columns[t % self.config.grid]

    def rule_out(self, logits: Tensor, t: Tensor) -> Tensor:
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
