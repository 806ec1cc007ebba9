"""The sampler of the token model: draws image tokens one after another, or a window at a time (`sampling.parallel`).

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

from sampling.logits import OptionTensors, draw_tokens, guided
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

SINGLE_PICTURE_WINDOW = 8
"""Default tokens a pass for one picture on a CPU. Measured there on the shipped model (`sampling/benchmarks`), two AVX2
cores: 22 passes a picture instead of 64 and 1.7 times as fast at the default options, 24 and 1.4 at temperature 1
(window 16: 1.8 and 1.2; 4: 1.5 and 1.2). For 8 pictures at a time no window was faster."""

SPARE_BUFFERS = 2
"""How many sets of buffers are kept for later calls: enough for this many calls at once, or batch sizes in turn."""


class Sampler:
    """Draws image tokens with one model. Any number of threads may use it at once.

    Each call borrows a set of buffers (`_borrowed`). Returned buffers serve the next call that they fit.
    """

    def __init__(self, model: TokenModel, engine: Engine | None = None, dtype: torch.dtype | None = None) -> None:
        """By default, engine and dtype are the best for the machine.

        Args:
            model: in eval mode.
            engine: how to compute.
            dtype: what the packed engine multiplies in.

        Raises:
            BadInput: for an engine that this machine, or the model's dtype, does not allow.
        """
        self.model = model
        self.device = model.decoder.rows.device
        self.dtype = model.decoder.rows.dtype
        usable = engines(self.device, compiled=True, dtype=self.dtype)
        if engine not in (None, *usable):
            where = f"{self.device} with {str(self.dtype).removeprefix('torch.')} weights"
            raise BadInput(f"engine {engine}: not available on {where}; take plain")
        self.engine = engine or engines(self.device, dtype=self.dtype)[-1]
        self._step = step
        if self.engine == "compiled":
            self._step = torch.compile(step, fullgraph=True, mode="reduce-overhead")
        elif self.engine == "packed":
            self.dtype = dtype or packed_dtypes()[0]
            self.model = packed(model, self.dtype)
        self._lock = threading.RLock()  # reentrant: an abandoned stream may be collected while the lock is held
        self._spare: list[tuple[KVCache, State]] = []
        self._passes: deque[int] = deque(maxlen=10_000)

    def draw(self, text: Tensor, seeds: Tensor, options: SamplingOptions, known: Tensor | None = None) -> list[Tensor]:
        """Draw tokens until every picture of the batch has reached its EOS.

        Args:
            text: caption ids (B, S) int64.
            seeds: (B,) int64, one a picture. Seed and caption fix a picture, whatever else is in the batch.
            options: how to draw.
            known: tokens (B, T) int64 to keep, -1 where one is to be drawn. A picture does not end before its last
                known token.

        Returns:
            Codes of each picture, (h, w) int64 on the CPU, h from 1 to the model's grid.

        Raises:
            BadInput: when the options ask for parallel decoding and tokens are known.
        """
        if options.parallel and known is not None:
            raise BadInput("parallel is for whole pictures: it does not go with a picture to start from")
        window = self._default_window(len(seeds)) if options.parallel is None else options.parallel
        if window and known is None:
            tokens, passes = self._in_parallel(text, seeds, options, window)
        else:
            *_, tokens = self.rows(text, seeds, options, known)
            passes = tokens.shape[1]
        with self._lock:
            self._passes.append(passes)
        return self.pictures(tokens)

    def pictures(self, tokens: Tensor) -> list[Tensor]:
        """The complete rows before each picture's first EOS, on the CPU: (B, T so far) -> (h, w) each."""
        return [_until_eos(row, self.model.config.eos, self.model.config.grid) for row in tokens.cpu()]

    @torch.no_grad()
    def rows(
        self, text: Tensor, seeds: Tensor, options: SamplingOptions, known: Tensor | None = None
    ) -> Iterator[Tensor]:
        """As `draw`, but yields all tokens (B, T so far) after each row. The caller may stop early."""
        config = self.model.config
        tensors = OptionTensors.of(options, config.length, config.codebook_size + 1, self.device)
        guided_length = options.guided_length(config.length)
        known_tokens = None if known is None else KnownTokens(known)
        all_ended = DelayedAll(self.device)
        with self._borrowed(text, guided_length > 0) as (cache, state):
            state.restart(seeds, config.bos, config.eos)
            for position in range(config.length):  # after the last token only EOS is possible
                if position == guided_length:
                    cache = cache.without_guidance()  # without null captions a step costs half
                # a compiled graph would be traced again for each `until`
                until = None if self.engine == "compiled" else position + 1
                self._step(self.model, cache, state, tensors, known_tokens, until)
                if (position + 1) % config.grid == 0:
                    yield state.tokens[:, : position + 1].clone()
                elif position and position % config.grid == 0 and all_ended(state.finished):
                    yield state.tokens[:, : position + 1].clone()
                    return

    def _default_window(self, batch: int) -> int:
        """Tokens a pass where the options leave it open; 0 is one at a time.

        A CPU that draws one picture reads all weights for one or two rows of activations; more rows cost little.
        """
        single = batch == 1 and self.device.type == "cpu" and self.engine != "compiled"
        return SINGLE_PICTURE_WINDOW if single else 0

    @torch.no_grad()
    def _in_parallel(self, text: Tensor, seeds: Tensor, options: SamplingOptions, window: int) -> tuple[Tensor, int]:
        config = self.model.config
        guided_length = options.guided_length(config.length)
        tensors = OptionTensors.of(options, config.length, config.codebook_size + 1, self.device)
        until = guided_length if 0 < guided_length < config.length else None
        new_check = functools.partial(DelayedAll, self.device)
        with self._borrowed(text, guided_length > 0) as (cache, _):
            return decode_in_parallel(self.model, cache, seeds, tensors, window, new_check, until)

    @property
    def passes(self) -> list[int]:
        """Passes of the decoder that each of the last 10,000 batches took."""
        with self._lock:
            return [*self._passes]

    @property
    def cache_bytes(self) -> int:
        """Bytes of the key-value caches that are kept for later calls."""
        with self._lock:
            return sum(cache.nbytes for cache, _ in self._spare)

    @contextmanager
    def _borrowed(self, text: Tensor, guide: bool) -> "Iterator[tuple[KVCache, State]]":
        """Buffers for this call alone, until it ends; the captions are already in the cache."""
        graph = self.engine == "compiled"
        if self.device.type == "cpu" and not graph:  # saves work on padding; a graph needs one fixed shape
            text = trim_padding(text)
        with self._lock:
            fit = [one for one in self._spare if (one[0].guided, len(one[1].seeds)) == (guide, len(text))]
            self._spare = [one for one in self._spare if one not in fit[-1:]]
        cache, state = fit[-1] if fit else (None, State(len(text), self.model.config.length, self.device))
        cache = self.model.read(text, guide, cache)
        for tensor in [*cache.tensors, *vars(state).values()] if graph else []:
            torch._dynamo.mark_static_address(tensor)  # so that a graph may write to it
        try:
            yield cache, state
        finally:
            with self._lock:
                self._spare = [*self._spare, (cache, state)][-SPARE_BUFFERS:]


class State:
    """What a step reads and writes for each picture, all on the device. Pictures may be at different positions.

    `token` (B,) is the last token, `position` (B,) the index of the next one, `tokens` (B, T + 1) all so far with EOS
    after them, `finished` (B,) whether a picture has its EOS.
    """

    def __init__(self, pictures: int, length: int, device: torch.device) -> None:
        """Buffers for that many pictures of `length` tokens and an EOS."""
        self.seeds = torch.empty(pictures, dtype=torch.int64, device=device)
        self.token, self.position = torch.empty_like(self.seeds), torch.empty_like(self.seeds)
        self.tokens = self.seeds.new_empty(pictures, length + 1)
        self.finished = torch.empty_like(self.seeds, dtype=torch.bool)

    def restart(self, seeds: Tensor, bos: int, eos: int) -> None:
        """Set all pictures to their start, with new seeds (B,) int64."""
        self.seeds.copy_(seeds)
        self.token.fill_(bos)
        self.position.zero_()
        self.tokens.fill_(eos)
        self.finished.fill_(False)


class KnownTokens:
    """Tokens that are given and so are not drawn."""

    def __init__(self, tokens: Tensor) -> None:
        """From tokens (B, T) int64, -1 where one is to be drawn."""
        self.tokens = F.pad(tokens, (0, 1), value=-1)
        self.more = (self.tokens >= 0).flip(1).cummax(1).values.flip(1)
        """Whether the token at this position or a later one is known: bool (B, T + 1)."""


def step(
    model: TokenModel,
    cache: KVCache,
    state: State,
    options: OptionTensors,
    known: KnownTokens | None,
    until: int | None = None,
) -> None:
    """Draw the next token of each picture, in place. No value leaves the device.

    A picture that has all its tokens stays as it is. `until` is given where all pictures are at position `until - 1`.
    """
    at, eos = state.position[:, None], model.config.eos
    twice = (2, 1) if cache.guided else (1, 1)
    positions = Positions(at.repeat(twice), until, together=until is not None)
    logits = model.extend(state.token[:, None].repeat(twice), positions, cache)[:, 0]
    if cache.guided:
        logits = guided(logits, options.guidance.index_select(0, state.position)[:, None])
    if known is not None:  # a picture cannot end before its last known token
        is_eos = torch.arange(logits.shape[-1], device=logits.device) == eos
        logits = logits.masked_fill(known.more.gather(1, at) & is_eos, -torch.inf)
    token = draw_tokens(logits, gumbel(state.seeds, state.position, logits.shape[-1]), options)
    if known is not None:
        here = known.tokens.gather(1, at).squeeze(1)
        token = torch.where(here >= 0, here, token)
    state.token.copy_(token)
    state.tokens.scatter_(1, at, token[:, None])
    state.finished |= token == eos
    state.position.add_(1).clamp_(max=model.config.length)


class DelayedAll:
    """`all()` of a bool tensor without waiting for a GPU: the answer may be that of the previous call."""

    def __init__(self, device: torch.device) -> None:
        self._event: Any = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._answer = torch.zeros((), dtype=torch.bool, pin_memory=self._event is not None)
        self._asked = False

    def __call__(self, values: Tensor) -> bool:
        """Whether all of `values`, bool (B,), are true; on a GPU, False until an earlier call's copy has arrived."""
        if self._event is None:
            return bool(values.all())
        answer = self._asked and self._event.query() and bool(self._answer)
        self._answer.copy_(values.all(), non_blocking=True)
        self._event.record()
        self._asked = True
        return answer


def engines(device: torch.device, compiled: bool = False, dtype: torch.dtype = torch.float32) -> list[Engine]:
    """The engines that a device allows for weights of `dtype`, the best one last.

    On a CPU, `compiled` takes minutes to start and is listed only if that argument is true. `packed` needs float32
    weights, which it rounds itself. Apple's GPU has only `plain`. The order is fixed and not timed, so that
    the same machine always draws the same picture.
    """
    packs = device.type == "cpu" and dtype == torch.float32 and bool(packed_dtypes())
    graphs = device.type == "cuda" or (compiled and device.type == "cpu")
    found: dict[Engine, bool] = {"plain": True, "compiled": graphs, "packed": packs}
    return [engine for engine, there in found.items() if there]


def _until_eos(tokens: Tensor, eos: int, grid: int) -> Tensor:
    """The rows before the first EOS: (T,) -> (h, w)."""
    ended = (tokens == eos).nonzero()
    return tokens[: int(ended[0]) if len(ended) else None].view(-1, grid)
