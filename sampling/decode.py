"""The autoregressive sampler.

Dimension names: B pictures, S caption ids, T image tokens.
"""

import functools
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sampling.logits import Draw, drawn, guided
from sampling.noise import gumbel
from sampling.options import SamplingOptions
from sampling.parallel import decode_in_parallel
from seq2seq.cache import KVCache, Positions
from seq2seq.model import TokenModel
from seq2seq.packed import packed, packed_dtypes
from tokenizer.text import trim_padding
from training.errors import BadInput

Engine = Literal["plain", "packed", "compiled"]
"""How a step is computed: as written; with the linear layers laid out for this CPU; or as one compiled graph."""

LONE_WINDOW = 8
"""Tokens a pass where one picture is drawn on a CPU. Measured there on the shipped model (`sampling/benchmarks`), two
AVX2 cores: 22 passes a picture in place of 64 and 1.7 times as fast at the default options, 24 and 1.4 at temperature 1
(window 16: 1.8 and 1.2; 4: 1.5 and 1.2); of 8 pictures at a time no window was faster."""

FREE = 2
"""Drawings whose buffers are kept for the next ones: of so many calls at once, or so many sizes in turn."""


class Sampler:
    """Draws image tokens with one model, for any number of threads at once.

    A call borrows its buffers, and those that were given back serve the next call that they fit.
    """

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
        self._lock = threading.RLock()  # a stream that is given up may be cleared away within
        self._free: list[tuple[KVCache, State]] = []
        self._passes: deque[int] = deque(maxlen=10_000)

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
            tokens, passes = self._in_parallel(text, seeds, options, window)
        else:
            *_, tokens = self.rows(text, seeds, options, known)
            passes = tokens.shape[1]
        with self._lock:
            self._passes.append(passes)
        return self.pictures(tokens)

    def pictures(self, tokens: Tensor) -> list[Tensor]:
        """The whole rows before each first EOS, on the CPU: (B, T so far) -> (h, w) each."""
        return [_until_eos(row, self.model.config.eos, self.model.config.grid) for row in tokens.cpu()]

    @torch.no_grad()
    def rows(
        self, text: Tensor, seeds: Tensor, options: SamplingOptions, known: Tensor | None = None
    ) -> Iterator[Tensor]:
        """As `draw`, but yields all tokens (B, T so far) after each row. May be left half way."""
        config = self.model.config
        draw = Draw.of(options, config.length, config.codebook_size + 1, self.device)
        guided_until = options.guided_until(config.length)
        given = None if known is None else Given(known)
        ended = Look(self.device)
        with self._borrowed(text, guided_until > 0) as (cache, state):
            state.restart(seeds, config.bos, config.eos)
            for position in range(config.length):  # past the last token only EOS is left
                if position == guided_until:
                    cache = cache.without_guidance()  # half of the work is over
                # a graph would be traced for each bound
                self._step(self.model, cache, state, draw, given, None if self.engine == "compiled" else position + 1)
                if (position + 1) % config.grid == 0:
                    yield state.tokens[:, : position + 1].clone()
                elif position and position % config.grid == 0 and ended(state.finished):
                    yield state.tokens[:, : position + 1].clone()
                    return

    def _window(self, batch: int) -> int:
        """By rule: a CPU that draws one picture reads all weights for a row or two, and could as well for more."""
        return LONE_WINDOW if batch == 1 and self.device.type == "cpu" and self.engine != "compiled" else 0

    @torch.no_grad()
    def _in_parallel(self, text: Tensor, seeds: Tensor, options: SamplingOptions, window: int) -> tuple[Tensor, int]:
        config = self.model.config
        guided_until = options.guided_until(config.length)
        draw = Draw.of(options, config.length, config.codebook_size + 1, self.device)
        until = guided_until if 0 < guided_until < config.length else None
        look = functools.partial(Look, self.device)
        with self._borrowed(text, guided_until > 0) as (cache, _):
            return decode_in_parallel(self.model, cache, seeds, draw, window, look, until)

    @property
    def passes(self) -> list[int]:
        """Of the decoder, for each of the last batches that were drawn."""
        with self._lock:
            return [*self._passes]

    @property
    def cache_bytes(self) -> int:
        """Bytes of the key-value caches that are kept for the next drawings."""
        with self._lock:
            return sum(cache.nbytes for cache, _ in self._free)

    @contextmanager
    def _borrowed(self, text: Tensor, guide: bool) -> "Iterator[tuple[KVCache, State]]":
        """Buffers that are no other call's until they are given back; the captions are read into the cache."""
        graph = self.engine == "compiled"
        if self.device.type == "cpu" and not graph:  # a CPU does not read padding; a graph wants one shape
            text = trim_padding(text)
        with self._lock:
            fit = [one for one in self._free if (one[0].guided, len(one[1].seeds)) == (guide, len(text))]
            self._free = [one for one in self._free if one not in fit[-1:]]
        cache, state = fit[-1] if fit else (None, State(len(text), self.model.config.length, self.device))
        cache = self.model.read(text, guide, cache)
        for tensor in [*cache.tensors, *vars(state).values()] if graph else []:
            torch._dynamo.mark_static_address(tensor)  # so that a graph may write to it
        try:
            yield cache, state
        finally:
            with self._lock:
                self._free = [*self._free, (cache, state)][-FREE:]


class State:
    """What a step reads and writes, all on the device: the token before, where it stands, those so far, and who has
    ended. Pictures may stand at different places."""

    def __init__(self, pictures: int, length: int, device: torch.device) -> None:
        """For pictures of `length` tokens and their end."""
        self.seeds = torch.empty(pictures, dtype=torch.int64, device=device)
        self.token, self.position = torch.empty_like(self.seeds), torch.empty_like(self.seeds)
        self.tokens = self.seeds.new_empty(pictures, length + 1)
        self.finished = torch.empty_like(self.seeds, dtype=torch.bool)

    def restart(self, seeds: Tensor, bos: int, eos: int) -> None:
        """For new pictures."""
        self.seeds.copy_(seeds)
        self.token.fill_(bos)
        self.position.zero_()
        self.tokens.fill_(eos)
        self.finished.fill_(False)


class Given:
    """Tokens that need not be drawn."""

    def __init__(self, tokens: Tensor) -> None:
        """(B, T) int64, -1 where there is none."""
        self.tokens = F.pad(tokens, (0, 1), value=-1)
        self.more = (self.tokens >= 0).flip(1).cummax(1).values.flip(1)
        """Whether this or a later one is given: bool (B, T + 1)."""


def step(
    model: TokenModel, cache: KVCache, state: State, draw: Draw, given: Given | None, until: int | None = None
) -> None:
    """Draws each picture's next token, in place; nothing leaves the device. Past its last one a picture stands still.

    `until` is given where all pictures are known to stand at position `until - 1`.
    """
    at, eos = state.position[:, None], model.config.eos
    twice = (2, 1) if cache.guided else (1, 1)
    positions = Positions(at.repeat(twice), until, together=until is not None)
    logits = model.extend(state.token[:, None].repeat(twice), positions, cache)[:, 0]
    if cache.guided:
        logits = guided(logits, draw.guidance.index_select(0, state.position)[:, None])
    if given is not None:  # what is to come rules out an end
        is_eos = torch.arange(logits.shape[-1], device=logits.device) == eos
        logits = logits.masked_fill(given.more.gather(1, at) & is_eos, -torch.inf)
    token = drawn(logits, gumbel(state.seeds, state.position, logits.shape[-1]), draw)
    if given is not None:
        here = given.tokens.gather(1, at).squeeze(1)
        token = torch.where(here >= 0, here, token)
    state.token.copy_(token)
    state.tokens.scatter_(1, at, token[:, None])
    state.finished |= token == eos
    state.position.add_(1).clamp_(max=model.config.length)


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
