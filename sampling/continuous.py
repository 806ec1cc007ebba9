"""Continuous batching: the row of a picture that has ended is given to the next one, so that no row idles.

The pictures of a batch then stand at different positions. Each reads only its own tokens and its own caption, so it is
what it is when drawn alone in as many rows. Only rounding may differ, where a longer part of the cache is read.

Dimension names: B rows, S caption ids, T image tokens.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from sampling.backend import Job
from seq2seq.cache import KVCache
from seq2seq.model import TokenModel
from tokenizer.text import PAD, trim_padding

if TYPE_CHECKING:
    from sampling.decode import State


@dataclass(eq=False, kw_only=True)
class Picture:
    """A picture to draw: a candidate for a job."""

    job: Job
    text: Tensor
    """Caption ids (S,) int64, on the CPU."""
    seed: int
    number: int = 0
    """Which of the job's candidates it is."""
    drawn: dict[int, Tensor] = field(default_factory=dict)
    """The tokens of the job's candidates that are drawn, by number; all candidates share it."""
    position: int = 0
    """How many of its tokens are drawn."""
    ended: bool = False
    """Whether it has all that it will have."""


class Rows:
    """Which picture is in which row of a batch. The host knows all positions without asking the device."""

    def __init__(self, model: TokenModel, cache: KVCache, state: "State") -> None:
        self.model, self.cache, self.state = model, cache, state
        self.live: dict[int, Picture] = {}
        """The pictures that are being drawn, by row."""

    @property
    def positions(self) -> tuple[int, int]:
        """The lowest and the highest position of a picture that is being drawn."""
        positions = [picture.position for picture in self.live.values()]
        return min(positions), max(positions)

    def fill(self, more: Callable[[int], Sequence[Picture]]) -> bool:
        """Give free rows to the pictures that `more` returns; returns whether there is any picture then."""
        done = {row for row, picture in self.live.items() if picture.ended or picture.job.cancelled}
        self.live = {row: picture for row, picture in self.live.items() if row not in done}
        free = [row for row in range(len(self.state.seeds)) if row not in self.live]
        new = [*enumerate(zip(free, more(len(free)) if free else (), strict=False))]
        for _, neighbours in itertools.groupby(new, lambda one: one[1][0] - one[0]):
            rows, pictures = zip(*(placed for _, placed in neighbours), strict=True)
            self._start(rows[0], pictures)
        return bool(self.live)

    def _start(self, first: int, pictures: Sequence[Picture]) -> None:
        """Start pictures in neighbouring rows."""
        rows, device, config = slice(first, first + len(pictures)), self.state.seeds.device, self.model.config
        text = trim_padding(pad_sequence([one.text for one in pictures], batch_first=True, padding_value=PAD))
        self.cache.widen(text.shape[1])
        text = F.pad(text, (0, self.cache.text_mask.shape[3] - text.shape[1]), value=PAD)
        self.model.read(_sent(text, device), cache=self.cache.captions(rows))
        seeds = torch.tensor([one.seed for one in pictures])
        self.state.restart(_sent(seeds, device), config.bos, config.eos, rows)
        self.live.update(enumerate(pictures, first))

    def moved(self) -> None:
        """A token of each picture was drawn."""
        for picture in self.live.values():
            picture.position += 1

    def end(self, answer: tuple[Tensor, dict[int, Picture]] | None) -> None:
        """Mark the pictures that have ended.

        `answer` says which rows had an EOS, bool (B,), and what pictures were in them.
        """
        had_eos, then = (answer[0].tolist(), answer[1]) if answer else ([], {})
        have_eos = {picture for row, picture in then.items() if had_eos[row]}
        for picture in self.live.values():
            picture.ended = picture.position >= self.model.config.length or picture in have_eos

    def shown(self) -> Iterator[tuple[Picture, Tensor]]:
        """Yield each picture that has another row of tokens or has ended, and its tokens so far (T,)."""
        columns = self.model.config.columns
        shown = {row: one for row, one in self.live.items() if one.ended or one.position % columns == 0}
        tokens = self.state.tokens.clone() if shown else self.state.tokens
        for row, picture in shown.items():
            yield picture, tokens[row, : picture.position]


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Bring a tensor from the CPU to a device without waiting for the device."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
