"""The sampler of the token model: draws image tokens one after another, or a window at a time (`sampling.parallel`).

Dimension names: B pictures, S caption ids, T image tokens.
"""

import functools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sampling.continuous import Picture, Rows
from sampling.graphs import Graphs, padded, padded_batch, padded_length
from sampling.logits import OptionTensors, draw_tokens, guided
from sampling.noise import gumbel
from sampling.options import SamplingOptions
from sampling.parallel import decode_in_parallel
from seq2seq.cache import KVCache, Positions
from seq2seq.model import TokenModel
from seq2seq.packed import Packing, dtype_at, named, packed, packing
from tokenizer.text import NULL, PAD, trim_padding
from training.errors import BadInput

Label = TypeVar("Label")
Engine = Literal["plain", "packed", "graph"]
"""How a step is computed: as written; with the linear layers laid out for this CPU; or as written, but recorded as a
CUDA graph (`sampling.graphs`)."""

FEW = 4
"""Up to so many pictures at a time are drawn in windows by default, on a CPU."""
WINDOW = 8
"""Default tokens a pass for a few pictures on a CPU. Measured there on the shipped model (`sampling/benchmarks`), two
AVX2 cores: 22 passes a picture instead of 64 and 1.6 times as fast at the default options, 23 and 1.5 at temperature 1
(window 16: 1.5 at both; 4: 1.3; 32: 1.1). For 8 pictures at a time no window was faster. On one core with AVX-512, in
float16, it is 1.4 to 1.8 times as fast for 2 pictures at a time, and 1.3 times for 4. Better guesses than the token
above saved at most 2 % of the passes (n-grams of the picture; draws from the scores of neighbours with a token's own
noise), because a token is drawn again several times before its guess matters."""

SPARE_BUFFERS = 2
"""How many sets of buffers are kept for later calls: enough for this many calls at once, or batch sizes in turn."""


class Drawn(NamedTuple):
    """What a picture took."""

    tokens: int
    """How many of its tokens were drawn."""
    passes: int
    """Passes of the decoder over it."""


class Sampler:
    """Draws image tokens with one model. Any number of threads may use it at once.

    Each call borrows a set of buffers (`_borrowed`). Returned buffers serve the next call that they fit.
    """

    def __init__(self, model: TokenModel, engine: Engine | None = None, dtypes: Packing | None = None) -> None:
        """By default, engine and dtypes are the best for the machine and the model's dtype.

        Args:
            model: in eval mode.
            engine: how to compute.
            dtypes: what the packed engine multiplies in, by number of rows.

        Raises:
            BadInput: for an engine that this machine, or the model's dtype, does not allow.
        """
        self.model = model
        self.device = model.decoder.rows.device
        self.dtypes: Packing = {1: model.decoder.rows.dtype}
        """What matrices are multiplied in, by the number of rows from which that is so."""
        usable = engines(self.device, dtype=self.dtypes[1])
        if engine not in (None, *usable):
            raise BadInput(
                f"engine {engine}: not available on {self.device} with {named(self.dtypes)} weights; take plain"
            )
        self.engine = engine or usable[-1]
        if self.engine == "packed":
            self.dtypes = dtypes or packing(self.dtypes[1])
            self.model = packed(model, self.dtypes)
        self._lock = threading.RLock()  # reentrant: an abandoned stream may be collected while the lock is held
        self._spare: list[Buffers] = []
        self._drawn: deque[Drawn] = deque(maxlen=10_000)

    def dtype_at(self, rows: int) -> torch.dtype:
        """What matrices are multiplied in for that many rows."""
        return dtype_at(rows, self.dtypes)

    def draw(self, text: Tensor, seeds: Tensor, options: SamplingOptions, known: Tensor | None = None) -> list[Tensor]:
        """Draw tokens until every picture of the batch has reached its EOS.

        Args:
            text: caption ids (B, S) int64.
            seeds: (B,) int64, one a picture. Seed and caption fix a picture, whatever else is in the batch, but for
                rounding.
            options: how to draw.
            known: tokens (B, T) int64 to keep, -1 where one is to be drawn. A picture does not end before its last
                known token.

        Returns:
            Codes of each picture, (h, columns) int64 on the CPU, h from 1 to the model's grid.

        Raises:
            BadInput: when the options ask for parallel decoding and tokens are known.
        """
        if options.parallel and known is not None:
            raise BadInput("parallel is for whole pictures: it does not go with a picture to start from")
        window = self.window(len(seeds), options)
        if window and known is None:
            tokens, passes = self._in_parallel(text, seeds, options, window)
        else:
            *_, tokens = self.rows(text, seeds, options, known)
            passes = tokens.shape[1]
        pictures = self.pictures(tokens)
        with self._lock:  # an EOS, too, is a token
            self._drawn.extend(Drawn(min(codes.numel() + 1, self.model.config.length), passes) for codes in pictures)
        return pictures

    def pictures(self, tokens: Tensor) -> list[Tensor]:
        """The complete rows before each picture's first EOS, on the CPU: (B, T so far) -> (h, columns) each."""
        return [_until_eos(row, self.model.config.eos, self.model.config.columns) for row in tokens.cpu()]

    @torch.no_grad()
    def rows(
        self, text: Tensor, seeds: Tensor, options: SamplingOptions, known: Tensor | None = None
    ) -> Iterator[Tensor]:
        """As `draw`, but yields all tokens (B, T so far) after each row. The caller may stop early."""
        config, pictures = self.model.config, len(seeds)
        guided_length = options.guided_length(config.length)
        known_tokens = None if known is None else KnownTokens(known)
        all_ended = DelayedAll(self.device)
        if self.engine == "graph" and known is None:
            text, seeds = (padded(rows, padded_batch(pictures)) for rows in (text, seeds))
        with self._borrowed(text, options, guided_length > 0) as buffers:
            cache, state = buffers.cache, buffers.state
            state.restart(seeds, config.bos, config.eos)
            for position in range(config.length):  # after the last token only EOS is possible
                if position == guided_length:
                    cache = cache.without_guidance()  # without null captions a step costs half
                self._advance(buffers, cache, position, known_tokens, together=True)
                if (position + 1) % config.columns == 0:
                    yield state.tokens[:pictures, : position + 1].clone()
                elif position and position % config.columns == 0 and all_ended(state.finished[:pictures]):
                    yield state.tokens[:pictures, : position + 1].clone()
                    return

    @torch.no_grad()
    def continuously(
        self,
        more: Callable[[int], Sequence[Picture]],
        options: SamplingOptions,
        rows: int,
        known: Tensor | None = None,
    ) -> Iterator[tuple[Picture, Tensor]]:
        """Draw any number of pictures, `rows` at a time; a row whose picture has ended is given to the next one.

        The host decides that after each step; on a GPU once a row of tokens, from what was so two rows ago.

        Args:
            more: returns new pictures, at most as many as it is asked for. It is asked whenever rows are free. Drawing
                ends when it has none and all others are drawn.
            options: how to draw, without parallel decoding.
            rows: how many pictures are drawn at a time.
            known: as in `draw`, (1, T), for all pictures.

        Yields:
            after each row of a picture's tokens, and when it has ended: the picture, and its tokens so far (T,) on the
            model's device. `pictures` makes codes of them.
        """
        config = self.model.config
        guided_length = options.guided_length(config.length)
        known_tokens = None if known is None else KnownTokens(known.expand(rows, -1))
        if self.engine == "graph" and known is None:
            rows = padded_batch(rows)
        stride = 1 if self.device.type == "cpu" else config.columns
        late: DelayedRead[dict[int, Picture]] = DelayedRead(self.device)
        nothing = torch.full((rows, 1), NULL, device=self.device)
        with self._borrowed(nothing, options, guided_length > 0) as buffers:
            buffers.state.restart(nothing[:, 0], config.bos, config.eos)
            batch = Rows(self.model, buffers.cache, buffers.state)
            while batch.fill(more):
                for _ in range(stride):
                    first, last = batch.positions
                    unguided = buffers.cache.guided and first >= guided_length
                    cache = buffers.cache.without_guidance() if unguided else buffers.cache
                    self._advance(buffers, cache, last, known_tokens, together=first == last)
                    batch.moved()
                batch.end(late(buffers.state.finished, {**batch.live}))
                for picture, tokens in batch.shown():
                    if picture.ended:
                        with self._lock:
                            self._drawn.append(Drawn(picture.position, picture.position))
                    yield picture, tokens

    def _advance(
        self, buffers: "Buffers", cache: KVCache, position: int, known: "KnownTokens | None", *, together: bool
    ) -> None:
        """Draw the next token of all pictures, the last of which is at `position`, or all of them are, `together`.

        Where tokens are known, no graph is recorded.
        """
        step_of = functools.partial(step, self.model, cache, buffers.state, buffers.options, known)
        if self.engine == "graph" and known is None:
            until = padded_length(position, cache.positions)
            key = (cache.guided, buffers.options.filtered, until)
            buffers.graphs.run(key, lambda: step_of(until), buffers.state.changing)
        else:
            step_of(position + 1, together=together)

    def window(self, batch: int, options: SamplingOptions) -> int:
        """Tokens a pass in which `draw` draws this many pictures together; 0 is one at a time."""
        return self._default_window(batch) if options.parallel is None else options.parallel

    def _default_window(self, batch: int) -> int:
        """Tokens a pass where the options leave it open; 0 is one at a time.

        A CPU that draws a few pictures reads all weights for a few rows of activations; more rows cost little.
        """
        return WINDOW if batch <= FEW and self.device.type == "cpu" and self.engine != "graph" else 0

    @torch.no_grad()
    def _in_parallel(self, text: Tensor, seeds: Tensor, options: SamplingOptions, window: int) -> tuple[Tensor, int]:
        config = self.model.config
        guided_length = options.guided_length(config.length)
        until = guided_length if 0 < guided_length < config.length else None
        new_check = functools.partial(DelayedAll, self.device)
        with self._borrowed(text, options, guided_length > 0) as buffers:
            return decode_in_parallel(self.model, buffers.cache, seeds, buffers.options, window, new_check, until)

    @property
    def drawn(self) -> list[Drawn]:
        """What each of the last 10,000 pictures took."""
        with self._lock:
            return [*self._drawn]

    @property
    def cache_bytes(self) -> int:
        """Bytes of the key-value caches that are kept for later calls."""
        with self._lock:
            return sum(buffers.cache.nbytes for buffers in self._spare)

    @contextmanager
    def _borrowed(self, text: Tensor, options: SamplingOptions, guide: bool) -> "Iterator[Buffers]":
        """Buffers for this call alone, until it ends; the captions and the options are already in them."""
        config = self.model.config
        if self.engine == "graph":  # whose shapes are fixed
            text = F.pad(text, (0, config.text_length - text.shape[1]), value=PAD)
        elif self.device.type == "cpu":
            text = trim_padding(text)
        with self._lock:
            fit = [one for one in self._spare if (one.cache.guided, len(one.state.seeds)) == (guide, len(text))]
            self._spare = [one for one in self._spare if one not in fit[-1:]]
        tensors = OptionTensors.of(options, config.length, config.codebook_size + 1, self.device)
        if fit:
            buffers = fit[-1]
            buffers.options = buffers.options.replaced_by(tensors)
            self.model.read(text, guide, buffers.cache)
        else:
            state = State(len(text), config.length, self.device)
            buffers = Buffers(self.model.read(text, guide), state, tensors)
        try:
            yield buffers
        finally:
            with self._lock:
                self._spare = [*self._spare, buffers][-SPARE_BUFFERS:]


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

    @property
    def changing(self) -> list[Tensor]:
        """The tensors that a step changes."""
        return [self.token, self.position, self.tokens, self.finished]

    def restart(self, seeds: Tensor, bos: int, eos: int, rows: slice = slice(None)) -> None:
        """Set the pictures in `rows`, by default all, to their start, with new seeds (B,) int64."""
        self.seeds[rows].copy_(seeds)
        self.token[rows].fill_(bos)
        self.position[rows].zero_()
        self.tokens[rows].fill_(eos)
        self.finished[rows].fill_(False)


class Buffers:
    """What the steps of one call read and write. Its tensors stay where they are, because graphs refer to them."""

    def __init__(self, cache: KVCache, state: State, options: OptionTensors) -> None:
        self.cache, self.state, self.options = cache, state, options
        self.graphs = Graphs(state.seeds.device)


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
    *,
    together: bool = False,
) -> None:
    """Draw the next token of each picture, in place. No value leaves the device, and none is brought to it.

    A picture that has all its tokens stays as it is. Attention reads the cache before position `until`. With
    `together`, all pictures are at position `until - 1`.
    """
    at, eos = state.position[:, None], model.config.eos
    twice = (2, 1) if cache.guided else (1, 1)
    positions = Positions(at.repeat(twice), until, together)
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


class DelayedRead(Generic[Label]):
    """Reads a tensor without stopping a GPU: the answer is that of the call before the previous one.

    Waiting for that one also keeps the host from queueing more than two calls' work ahead.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._answers: deque[tuple[Tensor, Label, torch.cuda.Event]] = deque()

    def __call__(self, values: Tensor, label: Label) -> tuple[Tensor, Label] | None:
        """`values` on the CPU, and their label; on a GPU those of two calls ago, None in the first two calls."""
        if self._device.type != "cuda":
            return values, label
        answer = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        self._answers.append((answer, label, event))
        if len(self._answers) < 3:
            return None
        answer, label, event = self._answers.popleft()
        event.synchronize()
        return answer, label


class DelayedAll:
    """`all()` of a bool tensor without stopping a GPU, by `DelayedRead`."""

    def __init__(self, device: torch.device) -> None:
        self._read: DelayedRead[None] = DelayedRead(device)

    def __call__(self, values: Tensor) -> bool:
        """Whether all of `values`, bool (B,), are true; on a GPU, whether they were two calls ago."""
        answer = self._read(values.all(), None)
        return answer is not None and bool(answer[0])


def engines(device: torch.device, dtype: torch.dtype = torch.float32) -> list[Engine]:
    """The engines that a device allows for weights of `dtype`, the best one last.

    `packed` is for a CPU and weights in float32 or bfloat16. Apple's GPU has only `plain`. The order is fixed and not
    timed, so that the same machine always draws the same picture.
    """
    packs = device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and bool(packing(dtype))
    found: dict[Engine, bool] = {"plain": True, "graph": device.type == "cuda", "packed": packs}
    return [engine for engine, there in found.items() if there]


def _until_eos(tokens: Tensor, eos: int, columns: int) -> Tensor:
    """The rows before the first EOS: (T,) -> (h, columns)."""
    ended = (tokens == eos).nonzero()
    return tokens[: int(ended[0]) if len(ended) else None].view(-1, columns)
