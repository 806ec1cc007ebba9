"""The autoregressive sampler.

Dimension names: B pictures, S caption ids, T image tokens.
"""

import functools
from collections import deque
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from sampling.logits import Draw, drawn, guided
from sampling.noise import gumbel
from sampling.options import SamplingOptions
from sampling.parallel import decode_in_parallel
from seq2seq.cache import KVCache
from seq2seq.model import TokenModel
from seq2seq.packed import packed, packed_dtypes
from tokenizer.text import trimmed
from training.errors import BadInput

Engine = Literal["plain", "packed", "compiled"]
"""How a step is computed: as written; with the linear layers laid out for this CPU; or as one compiled graph."""


LONE_WINDOW = 8
"""Tokens a pass where one picture is drawn on a CPU. Measured there on the shipped model (`sampling/benchmarks`), two
AVX2 cores: 22 passes a picture in place of 64 and 1.7 times as fast at the default options, 24 and 1.4 at temperature 1
(window 16: 1.8 and 1.2; 4: 1.5 and 1.2); of 8 pictures at a time no window was faster."""


class Sampler:
    """Draws image tokens with one model. Its buffers are allocated once and serve every call that they fit."""

    def __init__(self, model: TokenModel, engine: Engine | None = None, dtype: torch.dtype | None = None) -> None:
        """By default, engine and arithmetic are those that the machine is made for.

        Args:
            model: in eval mode.
            engine: how to compute.
            dtype: what a packed engine multiplies in.

        Raises:
            BadInput: for an engine that is not to be had here.
        """
        self.model = model
        self.device = model.decoder.rows.device
        self.arithmetic = model.decoder.rows.dtype
        usable = engines(self.device, compiled=True, dtype=self.arithmetic)
        if engine not in (None, *usable):
            which = f"{self.device} with {str(self.arithmetic).removeprefix('torch.')} weights"
            raise BadInput(f"engine {engine}: not to be had on {which} here; take plain")
        self.engine = engine or engines(self.device, dtype=self.arithmetic)[-1]
        self._step = step
        if self.engine == "compiled":
            self._step = torch.compile(step, fullgraph=True, mode="reduce-overhead")
        elif self.engine == "packed":
            self.arithmetic = dtype or packed_dtypes()[0]
            self.model = packed(model, self.arithmetic)
        self.passes: deque[int] = deque(maxlen=10_000)
        """Of the decoder, for each of the last batches that were drawn."""
        self._cache: KVCache | None = None
        self._state: State | None = None

    def draw(self, text: Tensor, seeds: Tensor, options: SamplingOptions, known: Tensor | None = None) -> list[Tensor]:
        """Draws until every picture of the batch has reached its own EOS.

        Args:
            text: caption ids (B, S) int64.
            seeds: (B,) int64, one an image; with the caption they fix the picture, whatever else is in the batch.
            options: how to draw.
            known: tokens (B, T) int64 that are given, -1 where one is to be drawn. A picture does not end before the
                last of them.

        Returns:
            Codes of each picture, (h, w) int64 on the CPU, h from 1 to the model's grid.
        """
        if options.parallel and known is not None:
            raise BadInput("parallel is for whole pictures: it does not go with a picture to start from")
        window = self._window(len(seeds)) if options.parallel is None else options.parallel
        if window and known is None:
            return self.pictures(self._in_parallel(text, seeds, options, window))
        *_, tokens = self.rows(text, seeds, options, known)
        self.passes.append(tokens.shape[1])
        return self.pictures(tokens)

    def pictures(self, tokens: Tensor) -> list[Tensor]:
        """The whole rows before each first EOS, on the CPU: (B, T so far) -> (h, w) each."""
        return [_until_eos(row, self.model.config.eos, self.model.config.grid) for row in tokens.to("cpu", copy=True)]

    @torch.no_grad()
    def rows(
        self, text: Tensor, seeds: Tensor, options: SamplingOptions, known: Tensor | None = None
    ) -> Iterator[Tensor]:
        """As `draw`, but yields all tokens (B, T so far) after each row. They are a view of a buffer that is reused."""
        config = self.model.config
        draw = Draw.of(options, config.length, config.codebook_size + 1, self.device)
        guided_until = options.guided_until(config.length)
        cache = self._begin(text, guided_until > 0, seeds)
        state = self._state
        assert state is not None
        given = None if known is None else Given(known)
        ended = Look(self.device)
        for position in range(config.length):  # past the last token only EOS is left
            if position == guided_until:
                cache = cache.with_captions()  # half of the work is over
            self._step(self.model, cache, state, self._position(position), draw, given)
            if (position + 1) % config.grid == 0:
                yield state.tokens[:, : position + 1]
            elif position and position % config.grid == 0 and ended(state.finished):
                yield state.tokens[:, : position + 1]
                return

    def _window(self, batch: int) -> int:
        """By rule: a CPU that draws one picture reads all weights for a row or two, and could as well for more."""
        return LONE_WINDOW if batch == 1 and self.device.type == "cpu" and self.engine != "compiled" else 0

    @torch.no_grad()
    def _in_parallel(self, text: Tensor, seeds: Tensor, options: SamplingOptions, window: int) -> Tensor:
        config = self.model.config
        guided_until = options.guided_until(config.length)
        self._cache = self._read(text, guided_until > 0)
        draw = Draw.of(options, config.length, config.codebook_size + 1, self.device)
        until = guided_until if 0 < guided_until < config.length else None
        look = functools.partial(Look, self.device)
        tokens, passes = decode_in_parallel(self.model, self._cache, seeds, draw, window, look, until)
        self.passes.append(passes)
        return tokens

    @property
    def cache_bytes(self) -> int:
        """Bytes of the key-value cache, once something was drawn."""
        return self._cache.nbytes if self._cache else 0

    def _read(self, text: Tensor, guide: bool) -> KVCache:
        """Captions -> a cache, the old one where it fits. A CPU does not read padding; a graph wants one shape."""
        if self.device.type == "cpu" and self.engine != "compiled":
            text = trimmed(text)
        return self.model.cache(text, guide, self._cache)

    def _begin(self, text: Tensor, guide: bool, seeds: Tensor) -> KVCache:
        """Buffers for this batch, old ones where they fit."""
        config = self.model.config
        before, self._cache = self._cache, self._read(text, guide)
        if self._state is None or len(self._state.seeds) != len(seeds):
            self._state = State(seeds, config.length)
            new = [*vars(self._state).values()]
        else:
            new = []
        if self._cache is not before:
            new += [self._cache.keys, self._cache.values, *self._cache.of_text]
        if self.engine == "compiled":
            for tensor in new:
                torch._dynamo.mark_static_address(tensor)  # so that a graph may write to it
        self._state.restart(seeds, config.bos, config.eos)
        return self._cache

    def _position(self, position: int) -> int | Tensor:
        """A graph takes positions as tensors, lest it be traced for each; as numbers they cut the work short."""
        return torch.tensor(position, device=self.device) if self.engine == "compiled" else position


class State:
    """What a step reads and writes: the token before, those so far, and who has ended."""

    def __init__(self, seeds: Tensor, length: int) -> None:
        self.seeds = torch.empty_like(seeds)
        self.token = torch.empty_like(seeds)
        self.tokens = seeds.new_empty(len(seeds), length)
        self.finished = torch.empty_like(seeds, dtype=torch.bool)

    def restart(self, seeds: Tensor, bos: int, eos: int) -> None:
        """For new pictures."""
        self.seeds.copy_(seeds)
        self.token.fill_(bos)
        self.tokens.fill_(eos)
        self.finished.fill_(False)


class Given:
    """Tokens that need not be drawn."""

    def __init__(self, tokens: Tensor) -> None:
        """(B, T) int64, -1 where there is none."""
        self.tokens = tokens
        self.more = (tokens >= 0).flip(1).cummax(1).values.flip(1)
        """Whether this or a later one is given: bool (B, T)."""


def step(
    model: TokenModel, cache: KVCache, state: State, position: int | Tensor, draw: Draw, given: Given | None
) -> None:
    """Draws token number `position` of every picture, in place; nothing leaves the device."""
    guide = cache.keys.shape[1] > len(state.token)
    logits = model.step(state.token.repeat(2) if guide else state.token, position, cache)
    at = torch.as_tensor(position, device=state.token.device).view(1)
    if guide:
        logits = guided(logits, draw.guidance.index_select(0, at))
    if given is not None:  # what is to come rules out an end
        is_eos = torch.arange(logits.shape[-1], device=logits.device) == model.config.eos
        logits = logits.masked_fill(given.more.index_select(1, at) & is_eos, -torch.inf)
    token = drawn(logits, gumbel(state.seeds, position, logits.shape[-1]), draw)
    if given is not None:
        here = given.tokens.index_select(1, at).squeeze(1)
        token = torch.where(here >= 0, here, token)
    state.token.copy_(token)
    state.tokens.index_copy_(1, at, token[:, None])
    state.finished |= token == model.config.eos


class Look:
    """Asks whether something is true of all pictures, without waiting for the device: the answer may be that of the
    last time."""

    def __init__(self, device: torch.device) -> None:
        self._event: Any = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._answer = torch.zeros((), dtype=torch.bool, pin_memory=self._event is not None)
        self._asked = False

    def __call__(self, true: Tensor) -> bool:
        """`true`: bool (B,)."""
        if self._event is None:
            return bool(true.all())
        seen = self._asked and self._event.query() and bool(self._answer)
        self._answer.copy_(true.all(), non_blocking=True)
        self._event.record()
        self._asked = True
        return seen


def engines(device: torch.device, compiled: bool = False, dtype: torch.dtype = torch.float32) -> list[Engine]:
    """Those to be had on a device for weights of `dtype`, the best last. A CPU's compiled one takes minutes to start:
    only where asked for. To pack, weights are wanted as they are: the packing rounds them by itself.

    By rule, never by a timing: the same machine always draws the same picture.
    """
    packs = device.type == "cpu" and dtype == torch.float32 and bool(packed_dtypes())
    found: dict[Engine, bool] = {"plain": True, "compiled": compiled or device.type == "cuda", "packed": packs}
    return [engine for engine, there in found.items() if there]


def _until_eos(tokens: Tensor, eos: int, grid: int) -> Tensor:
    """The whole rows before the first EOS: (T,) -> (h, w)."""
    ended = (tokens == eos).nonzero()
    return tokens[: int(ended[0]) if len(ended) else None].view(-1, grid)
