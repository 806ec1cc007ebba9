"""The decode loop: the right distribution, the same picture in any batch, an end at EOS."""

import contextlib
import copy
import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import TOKENS, captions, token_model
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import sampling.graphs
from data.emoji import emojis
from sampling.decode import Engine, KnownTokens, Sampler, State, engines, step
from sampling.graphs import padded, padded_batch, padded_length
from sampling.logits import OptionTensors, draw_tokens, guided
from sampling.noise import gumbel
from sampling.options import SamplingOptions
from sampling.pipeline import load
from seq2seq.cache import KVCache, Positions
from seq2seq.loss import log_likelihood
from seq2seq.model import TokenModel, TokenModelConfig
from seq2seq.packed import BF16_ROWS, PackedDecoder, packed, packing
from tokenizer.text import NULL, PAD, trim_padding
from training.errors import BadInput

NULL_CAPTION = torch.tensor([[NULL, *[PAD] * (TOKENS.text_length - 1)]])
PLAIN = SamplingOptions(guidance=1.0, temperature=1.0, parallel=0)
FLOAT32 = {1: torch.float32}


def decode(
    model: TokenModel, text: Tensor, seeds: Tensor, options: SamplingOptions, engine: Engine = "plain"
) -> list[Tensor]:
    return Sampler(model, engine).draw(text, seeds, dataclasses.replace(options, parallel=0))


def one_by_one(model: TokenModel, text: Tensor, seed: int, options: SamplingOptions) -> list[int]:
    """A simple sampler: no cache and no batch, the whole sequence again for every token, two passes for guidance."""
    tokens = torch.zeros(1, 0, dtype=torch.long)
    while tokens.shape[1] < model.config.length:
        passes = []
        for caption in (text, NULL_CAPTION[:, : text.shape[1]]):
            passes.append(model(caption, tokens)[:, -1])
        logits = guided(torch.cat(passes), options.guidance_scales(model.config.length)[tokens.shape[1]])
        noise = gumbel(torch.tensor([seed]), tokens.shape[1], logits.shape[-1])
        token = draw_tokens(logits, noise, draw_of(options))
        if token == model.config.eos:
            break
        tokens = torch.cat([tokens, token[None]], dim=1)
    return tokens[0].tolist()


def all_at(position: int, pictures: int) -> Positions:
    return Positions(torch.full((pictures, 1), position), position + 1, together=True)


def draw_of(options: SamplingOptions, config: TokenModelConfig = TOKENS) -> OptionTensors:
    return OptionTensors.of(options, config.length, config.codebook_size + 1, torch.device("cpu"))


@pytest.mark.parametrize("key_heads", [None, 2])
@pytest.mark.parametrize("engine", ["plain", "packed"])
@torch.no_grad()
def test_it_draws_what_the_simple_sampler_draws(engine: Engine, key_heads: int | None) -> None:
    """With cache, batches and guidance in one pass, against none of them. Guidance 1 skips the second half."""
    if engine == "packed" and not packing(torch.float32):
        pytest.skip("this processor cannot pack linear layers")
    model = token_model(dataclasses.replace(TOKENS, key_heads=key_heads))
    text, seeds = captions(4), torch.tensor([3, 1, 4, 1])
    for options in (
        dataclasses.replace(PLAIN, parallel=4),
        SamplingOptions(guidance=2.5, temperature=0.8, top_k=10, top_p=0.95),
        SamplingOptions(guidance=3.0, temperature=1.0, guidance_from=0.2, guidance_until=0.6, min_p=0.01),
        SamplingOptions(guidance=3.0, temperature=0.0, guidance_schedule="linear"),
    ):
        codes = Sampler(model, engine, dtypes=FLOAT32).draw(text, seeds, options)
        for i in range(4):
            expected = one_by_one(model, text[i : i + 1], int(seeds[i]), options)
            assert codes[i].flatten().tolist() == expected


def test_batch_size_and_order_leave_a_picture_unchanged() -> None:
    model, text, seeds = token_model(), captions(6), torch.arange(6)
    options = SamplingOptions(guidance=2.0, temperature=1.0)
    together = decode(model, text, seeds, options)
    alone = [decode(model, text[i : i + 1], seeds[i : i + 1], options)[0] for i in range(6)]
    backwards = decode(model, text.flip(0), seeds.flip(0), options)[::-1]
    for a, b, c in zip(together, alone, backwards, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


@pytest.mark.parametrize("engine", ["plain", "packed"])
@torch.no_grad()
def test_batched_guidance_equals_two_passes(engine: Engine) -> None:
    """Over several steps; the attention on the null caption is computed once and equals attention on it."""
    if engine == "packed" and not packing(torch.float32):
        pytest.skip("this processor cannot pack linear layers")
    model, text = token_model(), captions(3)
    null = NULL_CAPTION.expand_as(text)
    tokens = torch.cat([torch.full((3, 1), TOKENS.bos), torch.randint(TOKENS.codebook_size, (3, 4))], dim=1)
    fast = packed(model, FLOAT32) if engine == "packed" else model
    together, apart = fast.read(text, guide=True), [model.read(text), model.read(null)]
    for position, token in enumerate(tokens.split(1, dim=1)):
        both = fast.extend(token.repeat(2, 1), all_at(position, 6), together)
        separately = torch.cat([model.extend(token, all_at(position, 3), cache) for cache in apart])
        torch.testing.assert_close(both, separately, atol=1e-5, rtol=1e-5)


def test_samples_follow_the_model_s_distribution() -> None:
    """All pictures of a model with 2x2 grids and 2 codes: frequency in 8,000 samples against probability."""
    config = dataclasses.replace(TOKENS, codebook_size=2, grid=2)
    model, text = token_model(config, seed=3), captions(1)
    draws = decode(model, text.expand(8000, -1), torch.arange(8000), PLAIN)
    found: dict[tuple[int, ...], int] = {}
    for codes in draws:
        key = tuple(codes.flatten().tolist())
        found[key] = found.get(key, 0) + 1
    chi2, cells = 0.0, 0
    for rows in (1, 2):
        tokens = torch.tensor(list(itertools.product(range(2), repeat=2 * rows)))
        p = log_likelihood(model(text.expand(len(tokens), -1), tokens), tokens, config.eos).exp()
        for row, expected in zip(tokens.tolist(), (8000 * p).tolist(), strict=True):
            if expected >= 5:
                chi2 += (found.get(tuple(row), 0) - expected) ** 2 / expected
                cells += 1
    assert cells >= 8
    assert chi2 < cells + 5 * (2 * cells) ** 0.5


def test_each_picture_ends_at_its_own_eos() -> None:
    """With a model that ends picture i after i + 1 rows, whatever its caption."""

    class Ending(TokenModel):
        def extend(self, tokens: Tensor, positions: Positions, cache: KVCache) -> Tensor:
            position = int(positions.at[0, 0])
            asked.append(position)
            logits = torch.zeros(len(tokens), 1, TOKENS.codebook_size + 1)
            if position == 0 or position % TOKENS.grid:
                logits[..., TOKENS.eos] = -torch.inf
            else:
                logits[torch.arange(len(tokens)) < position // TOKENS.grid, :, TOKENS.eos] = 100.0
            return logits

    asked: list[int] = []
    codes = decode(Ending(TOKENS).eval(), captions(2), torch.arange(2), PLAIN)
    assert [tuple(grid.shape) for grid in codes] == [(1, 3), (2, 3)]
    assert asked[-1] == 6  # all had ended: the third row is not drawn
    assert all(grid.max() < TOKENS.codebook_size for grid in codes)


def test_the_picture_so_far_after_each_row() -> None:
    model, text, seeds = token_model(), captions(2), torch.arange(2)
    options = SamplingOptions(guidance=2.0)
    whole = torch.stack([grid.flatten() for grid in decode(model, text, seeds, options)])
    rows = [tokens.clone() for tokens in Sampler(model, "plain").rows(text, seeds, options)]
    assert [tokens.shape[1] for tokens in rows] == [3, 6, 9]
    assert all(torch.equal(tokens, whole[:, : tokens.shape[1]]) for tokens in rows)


@pytest.mark.parametrize("engine", ["plain", "packed"])
@torch.no_grad()
def test_a_picture_may_start_while_others_continue(engine: Engine) -> None:
    """One picture restarts after 4 steps and is as if drawn alone; a picture that has ended does not change."""
    if engine == "packed" and not packing(torch.float32):
        pytest.skip("this processor cannot pack linear layers")
    text, seeds, options = captions(2), torch.arange(2), SamplingOptions(guidance=2.0, parallel=0)
    sampler = Sampler(token_model(), engine, dtypes=FLOAT32)
    *_, alone = sampler.rows(text, seeds, options)
    state, cache = State(2, TOKENS.length, seeds.device), sampler.model.read(text, guide=True)
    state.restart(seeds, TOKENS.bos, TOKENS.eos)
    for position in range(TOKENS.length + 6):
        if position == 4:
            state.token[1], state.position[1], state.tokens[1] = TOKENS.bos, 0, TOKENS.eos
        step(sampler.model, cache, state, draw_of(options), KnownTokens(torch.full((2, 9), -1)))
    assert state.position.tolist() == [TOKENS.length] * 2
    assert state.finished.all()
    assert torch.equal(state.tokens[:, :-1], alone)
    assert (state.tokens[:, -1] == TOKENS.eos).all()


def test_known_tokens_are_kept_and_the_rest_is_conditioned_on_them() -> None:
    """A prefix, and a gap in the middle: the other tokens are what the model draws after the known ones."""
    model, text, seeds = token_model(), captions(2), torch.arange(2)
    given = torch.randint(20, (2, 9), generator=torch.Generator().manual_seed(5))
    for free in (range(4, 9), range(3, 6)):
        known = given.clone()
        known[:, list(free)] = -1
        made = torch.stack([g.flatten() for g in Sampler(model).draw(text, seeds, PLAIN, known)])
        kept = known >= 0
        assert torch.equal(made[kept], given[kept])
        with torch.no_grad():
            logits = model(text, made)
        if free[-1] < 8:
            logits[..., TOKENS.eos] = -torch.inf  # the picture may not end before what is given
        for t in free:
            assert torch.equal(draw_tokens(logits[:, t], gumbel(seeds, t, 21), draw_of(PLAIN)), made[:, t])


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """Graphs that are not recorded but called, so that they run without a GPU; they read the cache four by four."""
    made: list[Callable[[], None]] = []
    monkeypatch.setattr(sampling.graphs.Graphs, "_recorded", lambda self, run, changed: made.append(run) or run)
    monkeypatch.setattr(sampling.graphs, "POSITIONS", 4)
    return made


def graph_sampler(model: TokenModel) -> Sampler:
    sampler = Sampler(model, "plain")
    sampler.engine = "graph"
    return sampler


def test_graphs_draw_what_the_plain_engine_draws(graphs: list[Callable[[], None]]) -> None:
    """In padded batches; each graph is recorded once and serves all later calls with other captions and options."""
    model, sampler = token_model(), graph_sampler(token_model())
    for seed, options in enumerate((
        SamplingOptions(guidance=2.0, guidance_until=0.5, temperature=1.0, top_p=0.9),
        SamplingOptions(guidance=3.0, guidance_until=0.7, temperature=0.4, top_k=5, min_p=0.1),
    )):  # fmt: skip
        text, seeds = captions(3 + seed).flip(0), torch.arange(3 + seed) + seed
        drawn_by_graph = sampler.draw(text[:, :7], seeds, options)
        assert len(drawn_by_graph) == 3 + seed
        for a, b in zip(drawn_by_graph, decode(model, text, seeds, options), strict=True):
            assert torch.equal(a, b)
    # positions 0..3 and 4..7 and 8, with guidance up to position 4 or 6, and without
    assert len(graphs) == 4
    known = torch.full((3, 9), -1)
    known[:, 4] = 7
    with_known = sampler.draw(captions(3), torch.arange(3), PLAIN, known)
    assert all(int(grid.flatten()[4]) == 7 for grid in with_known)
    assert len(graphs) == 4


def test_sizes_of_padded_batches_and_of_the_cache_that_is_read() -> None:
    assert [padded_batch(count) for count in (1, 2, 3, 5, 16, 33, 64, 65, 130)] == [1, 2, 4, 8, 16, 64, 64, 128, 192]
    assert [padded_length(position, 1025) for position in (0, 127, 128, 1023, 1024)] == [128, 128, 256, 1024, 1025]
    assert padded_length(3, 65) == 65
    assert padded(torch.tensor([[1], [2]]), 4).tolist() == [[1], [2], [2], [2]]


class Traffic(TorchDispatchMode):
    """Counts the bytes that operators read and write, and keeps the largest new tensor and copies between devices."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.largest, self.copies = 0, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        new = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        if func.is_view or func is torch.ops.aten._unsafe_view.default:
            return made
        if func in (torch.ops.aten.embedding.default, torch.ops.aten.index_select.default):
            taken = [leaf for leaf in taken if leaf.dtype == torch.int64]  # reads only the rows that it returns
        if func.overloadpacket in (torch.ops.aten.scatter_, torch.ops.aten.gather, torch.ops.aten.index):
            taken, new = taken[1:], []  # reads and writes only the elements that are named
        self.bytes += sum(_bytes_of(tensor) for tensor in (*taken, *new))
        inputs = {id(tensor) for tensor in taken}
        self.largest = max([self.largest, *(_bytes_of(tensor) for tensor in new if id(tensor) not in inputs)])
        moves = func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
        self.copies += len({tensor.device.type for tensor in (*taken, *new) if tensor.ndim or moves}) > 1
        return made


def _bytes_of(tensor: Tensor) -> int:
    """Of an expanded tensor, only what is stored."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return math.prod(sizes) * tensor.element_size()


class OneAttention(TorchFunctionMode):
    """Attention as one operator that reads queries, keys and values and writes its output, as on a GPU."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self.traffic = traffic

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.traffic.bytes += sum(_bytes_of(tensor) for tensor in (*args[:3], args[0]))
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("batch", [8, 64])
@torch.no_grad()
def test_memory_traffic_of_a_step(batch: int) -> None:
    """At the size of parti-750m: a step reads the weights and the filled part of the cache once, writes no tensor as
    large as a block's cache, and moves in all at most 1.3 times what it must."""
    width, depth, until = 1024, 36, 512
    config = TokenModelConfig(
        width=width, mlp_width=4 * width, heads=16, encoder_depth=1, decoder_depth=depth, grid=32, codebook_size=8192
    )
    with torch.device("meta"):
        model = TokenModel(config).eval().to(torch.bfloat16)
        text = torch.ones(batch, config.text_length, dtype=torch.int64)
        cache, state = model.read(text, guide=True), State(batch, config.length, torch.device("meta"))
        options = OptionTensors.of(SamplingOptions(), config.length, config.codebook_size + 1, torch.device("meta"))
        with Traffic() as traffic, OneAttention(traffic):
            step(model, cache, state, options, None, until)
    blocks = [weight for name, weight in model.decoder.named_parameters() if "cross.key_value" not in name]
    weights = sum(weight.nbytes for weight in blocks if weight.ndim == 2) - model.decoder.embed.weight.nbytes
    needed = weights + 2 * 2 * depth * 2 * batch * until * width + sum(tensor.nbytes for tensor in cache.text)
    assert needed < traffic.bytes < 1.3 * needed
    assert traffic.largest < cache.keys[0].nbytes / 4


class IndexedByOperators(TorchFunctionMode):
    """Turns `x[...]` and copies into operators, because otherwise they need a driver, which a fake device lacks."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aten = torch.ops.aten
        plain: dict[Any, Any] = {
            Tensor.contiguous: lambda x: x.clone(memory_format=torch.contiguous_format),
            Tensor.float: lambda x: aten._to_copy(x, dtype=torch.float32),
            Tensor.__invert__: aten.bitwise_not,
            Tensor.copy_: aten.copy_,
            F.scaled_dot_product_attention: lambda *x, **how: aten._scaled_dot_product_attention_math(*x, **how)[0],
        }
        if func in plain:
            return plain[func](*args, **(kwargs or {}))
        if func is not Tensor.__getitem__:
            return func(*args, **(kwargs or {}))
        x, index = args
        index = index if isinstance(index, tuple) else (index,)
        if Ellipsis in [part for part in index if not isinstance(part, Tensor)]:
            at = index.index(Ellipsis)
            named = sum(part is not None for part in index) - 1
            index = (*index[:at], *[slice(None)] * (x.dim() - named), *index[at + 1 :])
        axis = 0
        for part in index:
            if part is None:
                x, axis = x.unsqueeze(axis), axis + 1
            elif isinstance(part, slice):
                x, axis = torch.ops.aten.slice.Tensor(x, axis, part.start, part.stop), axis + 1
            elif isinstance(part, Tensor):
                x, axis = torch.ops.aten.index.Tensor(x, [None] * axis + [part]), axis + 1
            else:
                x = x.select(axis, part)
        return x


def test_apples_gpu_has_only_the_plain_engine() -> None:
    assert engines(torch.device("mps")) == ["plain"]
    assert engines(torch.device("cuda"), torch.bfloat16) == ["plain", "graph"]


@pytest.mark.parametrize("device", ["meta", "cuda:0"])
@torch.no_grad()
def test_a_step_runs_on_one_device(device: str) -> None:
    """The meta device has no values to read; on a fake CUDA device, an operand on the CPU is an error."""
    with torch.device("meta"):
        model = TokenModel(TOKENS).eval()
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    with FakeTensorMode() if device == "cuda:0" else contextlib.nullcontext(), IndexedByOperators():
        model.load_state_dict({name: torch.empty(shape, device=device) for name, shape in shapes.items()}, assign=True)
        ones = torch.ones(2, 9, dtype=torch.int64, device=device)
        draw = OptionTensors.of(
            SamplingOptions(top_p=0.9), TOKENS.length, TOKENS.codebook_size + 1, torch.device(device)
        )
        state, given = State(2, TOKENS.length, torch.device(device)), KnownTokens(ones)
        cache = model.read(ones, guide=True)
        step(model, cache, state, draw, given)
        assert state.tokens.device == torch.device(device)
        with Traffic() as traffic:
            step(model, cache, state, draw, None, until=4)
        assert traffic.copies == 0
        if device == "cuda:0":
            with traffic:
                torch.tensor(3, device=device)  # as once the position of every step
            assert traffic.copies == 1
            given.tokens = torch.ones(2, 10, dtype=torch.int64)
            with pytest.raises(RuntimeError, match=r"same device|different devices"):
                step(model, cache, state, draw, given)


def test_only_the_check_for_the_end_reads_the_device() -> None:
    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            Reads.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
            return func(*args, **(kwargs or {}))

    sampler = Sampler(token_model(), "plain")
    with Reads():
        for _ in sampler.rows(captions(2), torch.arange(2), SamplingOptions(top_p=0.9)):
            pass
    assert Reads.count == 3  # how long the captions are (on a CPU), then before the second and the third row


def test_buffers_are_allocated_once() -> None:
    sampler = Sampler(token_model(), "plain")

    def buffers() -> list[int]:
        sampler.draw(captions(2), torch.arange(2), SamplingOptions(guidance=2.0))
        (buffers,) = sampler._spare
        return [tensor.data_ptr() for tensor in (*buffers.cache.tensors, *vars(buffers.state).values())]

    assert buffers() == buffers()
    cache = sampler._spare[0].cache
    # two of: blocks x heads x (doubled batch x positions and captions x ids) x head width x bytes; the mask; the nulls
    ids = trim_padding(captions(2)).shape[1]
    assert cache.nbytes == 2 * 3 * 4 * (4 * 10 + 2 * ids) * 8 * 4 + 2 * ids + 3 * 32 * 4


def test_returned_tokens_do_not_change_in_later_calls() -> None:
    """Once, on a CPU, returned tensors shared the buffer that the next call writes to."""
    sampler, one_a_pass = Sampler(token_model(), "plain"), dataclasses.replace(PLAIN, parallel=0)
    first = sampler.draw(captions(1), torch.tensor([0]), one_a_pass)[0]
    before = first.clone()
    second = sampler.draw(captions(1), torch.tensor([1]), one_a_pass)[0]
    assert torch.equal(first, before)
    assert not torch.equal(first, second)


def trained_looking_model(dtype: torch.dtype) -> TokenModel:
    """A model with gains other than 1, and weights that `dtype` represents exactly."""
    model = token_model()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) / 4)
    return model.to(dtype).float()


def available(*dtypes: torch.dtype) -> list[torch.dtype]:
    """Those of `dtypes` that this machine can pack weights in."""
    return [one for one in dtypes if one in {*packing(torch.float32).values(), *packing(torch.bfloat16).values()}]


@pytest.mark.parametrize("dtype", [torch.float32, *available(torch.float16, torch.bfloat16)])
@pytest.mark.parametrize("model_dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_packed_log_probabilities(dtype: torch.dtype, model_dtype: torch.dtype) -> None:
    """Step by step, and many positions at once, against teacher forcing: equal within rounding.

    With weights that bfloat16 holds, as all that are shipped, float16 is no rounding at all.
    """
    if not packing(torch.float32):
        pytest.skip("this processor cannot pack linear layers")
    model = trained_looking_model(torch.bfloat16)
    text, tokens = captions(5), torch.randint(TOKENS.codebook_size, (5, TOKENS.length))
    tolerance = 0.1 if torch.bfloat16 in (dtype, model_dtype) else 1e-4
    expected = model(text, tokens).log_softmax(-1)[:, :-1]
    before = torch.cat([torch.full((5, 1), TOKENS.bos), tokens[:, :-1]], dim=1)
    twin = packed(model.to(model_dtype), {1: dtype})
    cache = twin.read(text)
    steps = torch.cat([twin.extend(before[:, [t]], all_at(t, 5), cache) for t in range(TOKENS.length)], dim=1)
    at_once = twin.extend(before, Positions(torch.arange(TOKENS.length).expand(5, -1)), twin.read(text))
    for found in (steps, at_once):
        torch.testing.assert_close(found.log_softmax(-1), expected, atol=tolerance, rtol=0)


@pytest.mark.skipif(torch.float16 not in packing(torch.float32).values(), reason="this build of torch has no fbgemm")
@torch.no_grad()
def test_the_fast_path_draws_the_shipped_model_s_pictures() -> None:
    """Greedy decoding of 100 captions gives the plain path's tokens, except where two are equally likely to 1e-3."""
    bundle = load(Path(__file__).parents[1] / "checkpoints" / "emoji")
    model = bundle.models["autoregressive"]
    assert isinstance(model, TokenModel)
    assert model is not None
    corpus = emojis()
    ids = bundle.text.encode([*(emoji.captions[0] for emoji in corpus[:: len(corpus) // 100][:100]), None])
    text, seeds = ids[:-1], torch.arange(100)
    options = SamplingOptions(guidance=2.0, temperature=0.0, parallel=0)
    plain, fast = (Sampler(model, engine).draw(text, seeds, options) for engine in ("plain", "packed"))
    for i in range(100):
        ours, theirs = fast[i].flatten(), plain[i].flatten()
        if torch.equal(ours, theirs):
            continue
        t = int((ours != theirs).nonzero()[0]) if len(ours) == len(theirs) else min(len(ours), len(theirs))
        both = torch.stack([model(ids[[j]], theirs[None, :t])[0, t] for j in (i, -1)])
        logits = guided(both, options.guidance)[0] if options.guidance != 1 else both[0]
        token = ours[t] if t < len(ours) else model.config.eos
        assert logits.max() - logits[token] < 1e-3


@pytest.mark.skipif(torch.float16 not in packing(torch.float32).values(), reason="this build of torch has no fbgemm")
@torch.no_grad()
def test_packed_layers_are_traced_once_for_all_sizes() -> None:
    """With guidance and without, one token a pass and many: four paths through the code, and no further recording."""
    twin = packed(trained_looking_model(torch.bfloat16), {1: torch.float16})
    assert isinstance(twin.decoder, PackedDecoder)
    for batch, guide in ((1, True), (4, True), (3, False), (2, False)):
        text, rows = captions(batch), batch * (2 if guide else 1)
        cache, as_it_is = twin.read(text, guide), twin.read(text, guide)
        window = torch.arange(3, 7).expand(rows, -1)
        for positions in (*(all_at(t, rows) for t in range(3)), Positions(window), Positions(window, 8)):
            tokens = torch.randint(TOKENS.codebook_size, positions.at.shape)
            made = twin.extend(tokens, positions, cache)
            apart = untraced(twin).extend(tokens, positions, as_it_is)
            torch.testing.assert_close(made, apart, atol=1e-6, rtol=0)
    (layers,) = twin.decoder.layers.values()
    assert len(layers.traces) == 4
    assert all(isinstance(graph, torch.jit.ScriptModule) for graph in layers.traces.values())


def untraced(model: TokenModel) -> TokenModel:
    """A copy that shares everything except the traced graphs."""
    twin = copy.copy(model)
    decoder = copy.copy(model.decoder)
    decoder.layers = {
        dtype: lambda kind, arguments, traced=traced: traced.module(traced.module.opaque, *arguments)
        for dtype, traced in model.decoder.layers.items()
    }
    twin._modules = {**model._modules, "decoder": decoder}
    return twin


@pytest.mark.skipif(len(packing(torch.bfloat16)) < 2, reason="one dtype is the best for any number of rows here")
@torch.no_grad()
def test_the_number_of_rows_decides_what_weights_are_packed_in() -> None:
    """Nothing else does, and each dtype is packed when it is first needed."""
    sampler, text = Sampler(token_model().to(torch.bfloat16)), captions(9)
    few, many = sampler.dtypes
    assert (few, many) == (1, BF16_ROWS)
    for pictures, then in ((7, {torch.float16}), (8, {torch.float16, torch.bfloat16})):
        sampler.draw(text[:pictures], torch.arange(pictures), SamplingOptions(guidance=2.0, parallel=0))
        assert isinstance(sampler.model.decoder, PackedDecoder)
        assert sampler.model.decoder.layers.keys() == then
    alone = Sampler(token_model().to(torch.bfloat16), dtypes={1: torch.bfloat16})
    seeds, options = torch.arange(9), SamplingOptions(guidance=2.0, parallel=0)
    for one, other in zip(sampler.draw(text, seeds, options), alone.draw(text, seeds, options), strict=True):
        assert torch.equal(one, other)


def test_packing_leaves_the_model_as_it_was() -> None:
    model, tokens = token_model(), torch.zeros(1, 9, dtype=torch.int64)
    before, parameters = model(captions(1), tokens), len(model.state_dict())
    with torch.no_grad():
        twin = packed(model, packing(torch.float32))
        twin.extend(tokens[:, :1], all_at(0, 1), twin.read(captions(1)))
    assert torch.equal(model(captions(1), tokens), before)
    assert len(model.state_dict()) == parameters


def test_an_engine_that_is_not_available() -> None:
    with pytest.raises(BadInput, match="engine packed: not available on meta with float32 weights; take plain"):
        Sampler(TokenModel(TOKENS).to("meta"), "packed")


def test_16_bit_weights_on_a_cpu() -> None:
    """In bfloat16 they are packed; in float16 the CPU has only the plain engine."""
    sampler = Sampler(token_model().to(torch.bfloat16))
    assert (sampler.engine, sampler.dtypes) == (engines(sampler.device)[-1], packing(torch.bfloat16))
    assert sampler.draw(captions(2), torch.arange(2), PLAIN)[0].shape[1] == TOKENS.grid
    half = token_model().to(torch.float16)
    assert Sampler(half).engine == "plain"
    with pytest.raises(BadInput, match="engine packed: not available on cpu with float16 weights"):
        Sampler(half, "packed")
