"""Benchmark of the token model's sampler: `python -m sampling.bench`.

The rival is `generate` of `transformers` on a BART of the same dimensions, in its fastest forms: guidance as one
doubled batch, with a dynamic and a static cache. All variants take turns in one run, so that a slow phase of the
machine affects all.
"""

import copy
import itertools
import math
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sampling.decode import Sampler, engines
from sampling.logits import guided
from sampling.options import SamplingOptions
from seq2seq.model import TokenModel, TokenModelConfig
from training.cli import command
from training.config import require, to_dict
from training.device import with_device
from training.errors import needing
from training.files import atomic, splice, write_json
from training.markdown import tabulated
from training.precision import has_bf16

OPTIONS = SamplingOptions(guidance=2.0, temperature=1.0, parallel=0)
"""One token a pass, because parallel decoding gains by what a model has learned, and these models are untrained."""
CAPTION = 24
"""Ids in each caption, a common length in the emoji corpus."""
BFLOAT16 = "packed bfloat16"
"""The variant that computes in bfloat16 on a CPU: the others there compute in float32."""


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Time every engine that this machine allows, and `transformers`, on untrained models of one shape."""

    batch: list[int] = field(default_factory=lambda: [1, 8, 32])
    """Batch sizes."""
    grid: list[int] = field(default_factory=lambda: [8])
    """Tokens a row: 8 gives 64 tokens a picture, 16 gives 256, 32 gives 1024."""
    width: int = 384
    """Width of the decoder."""
    depth: int = 8
    """Blocks of the decoder."""
    repeats: int = 5
    """Timed runs of each variant; the median is reported."""
    rivals: bool = True
    """Time `transformers` too."""
    profile: bool = False
    """Add the time of a step by operator."""
    device: str = "auto"
    """Device to compute on: `auto` (a GPU if there is one), `cpu`, `cuda`, `mps`, or another of torch's."""
    json: Path = Path("outputs/bench.json")
    """File for the results."""
    plot: Path | None = None
    """File for a plot of the results, PNG or SVG."""
    readme: Path | None = None
    """Markdown file whose text between `<!-- bench -->` and `<!-- /bench -->` is replaced by the table."""

    def __post_init__(self) -> None:
        for name in ("width", "depth", "repeats"):
            require(self, name, getattr(self, name) >= 1, "1 or more")
        require(self, "width", self.width % 64 == 0, "a multiple of 64")
        for name in ("batch", "grid"):
            require(self, name, bool(getattr(self, name)) and min(getattr(self, name)) >= 1, "numbers of 1 or more")


Variant = Callable[[], Any]


def main(options: BenchOptions) -> None:
    """Time all variants, print a table and write the results, also after each batch size, as the next may take long."""
    options = with_device(options)
    warnings.filterwarnings("ignore", module="transformers")
    bandwidth = copy_bandwidth(options.device)
    rows: list[dict[str, Any]] = []
    for grid, batch in itertools.product(options.grid, options.batch):
        rows += measure(grid, batch, bandwidth, options)
        result = results(rows, bandwidth, options)
        write_json(options.json, result)
    print(table(rows))
    for tokens, values in result["ratios_by_tokens"].items():
        print(f"{tokens} tokens, time of the fastest transformers over the fastest tessera, by batch: {values}")
        print(f"    without {BFLOAT16}: {result['float32_ratios_by_tokens'][tokens]}")
    if options.plot:
        plot(rows, options.plot)
    if options.readme:
        splice(options.readme, "bench", markdown(result))
    print(f"the results are in {options.json}")


def results(rows: Sequence[dict[str, Any]], bandwidth: float, options: BenchOptions) -> dict[str, Any]:
    """All that is written: the machine, the model, the rows, and how many times as fast the fastest of them is."""
    exact = [row for row in rows if row["variant"] != f"tessera {BFLOAT16}"]
    grids = dict.fromkeys(math.isqrt(row["tokens"]) for row in rows)
    times_as_fast, in_float32 = (
        {
            grid: ratios([row for row in some if row["tokens"] == grid**2], "ms_per_step", "transformers")
            for grid in grids
        }
        for some in (rows, exact)
    )
    return {
        "machine": machine(options.device), "model": {"width": options.width, "depth": options.depth},
        "sampling": to_dict(OPTIONS), "copy_bytes_per_second": bandwidth, "ratios": times_as_fast[options.grid[0]],
        "ratios_by_tokens": {str(grid**2): values for grid, values in times_as_fast.items()},
        "float32_ratios_by_tokens": {str(grid**2): values for grid, values in in_float32.items()}, "rows": rows,
    }  # fmt: skip


def measure(grid: int, batch: int, bandwidth: float, options: BenchOptions) -> list[dict[str, Any]]:
    """Time all variants at one grid and batch size; a row of results for each."""
    config = TokenModelConfig(
        width=options.width, mlp_width=4 * options.width, heads=options.width // 64, encoder_depth=3,
        decoder_depth=options.depth, dropout=0.0, text_vocab_size=2048, text_length=CAPTION, codebook_size=2048,
        grid=grid,
    )  # fmt: skip
    torch.manual_seed(0)
    model = TokenModel(config).eval().to(torch.bfloat16).to(options.device)  # as shipped weights are
    samplers = samplers_of(model)
    variants: dict[str, Variant] = {f"tessera {name}": _tessera(sampler, batch) for name, sampler in samplers.items()}
    if options.rivals:
        variants |= _transformers(config, batch, options.device)
    times = in_turns(variants, options.repeats, options.device, f"{grid**2} tokens, batch {batch}")
    rows = []
    for name, seconds_of in times.items():
        seconds = statistics.median(seconds_of)
        row = {
            "variant": name, "batch": batch, "tokens": grid**2, "ms_per_step": 1e3 * seconds / grid**2,
            "fastest_ms_per_step": 1e3 * min(seconds_of) / grid**2, "images_per_second": batch / seconds,
            "tokens_per_second": batch * grid**2 / seconds,
        }  # fmt: skip
        engine = name.removeprefix("tessera ")
        if engine in samplers:
            row["dtype"] = str(samplers[engine].dtype_at(2 * batch)).removeprefix("torch.")
            least = bytes_per_step(samplers[engine], 2 * batch)
            row["bytes_per_step"], row["bandwidth_share"] = least, least * grid**2 / seconds / bandwidth
            row["cache_bytes"] = samplers[engine].cache_bytes
            if options.profile:
                row["profile_ms_per_step"] = profile(variants[name], grid**2)
        rows.append(row)
    return rows


def samplers_of(model: TokenModel) -> dict[str, Sampler]:
    """A sampler by the name of its variant: of each engine that the machine allows, with weights in bfloat16.

    A CPU computes in float32 with them; where it multiplies in bfloat16 too, there is `packed bfloat16` as well.
    """
    device = model.decoder.rows.device
    if device.type != "cpu":
        return {engine: Sampler(model, engine) for engine in engines(device, torch.bfloat16)}
    exact = copy.deepcopy(model).float()
    samplers = {str(engine): Sampler(exact, engine) for engine in engines(device)}
    if "packed" in samplers and has_bf16("cpu"):
        samplers[BFLOAT16] = Sampler(model, "packed")
    return samplers


def bytes_per_step(sampler: Sampler, rows: int) -> int:
    """The bytes that a step has to read at least, with that many rows.

    These are the weights of the decoder's linear layers, except those that compute the caption's keys and values once,
    and on average half of the cache, captions included.
    """
    decoder = getattr(sampler.model.decoder, "decoder", sampler.model.decoder)  # the packed one keeps what it packed
    linears = [module for module in decoder.modules() if isinstance(module, nn.Linear)]
    weights = sum(linear.weight.numel() for linear in linears)
    weights -= sum(block.cross.key_value.weight.numel() for block in decoder.blocks)
    return weights * sampler.dtype_at(rows).itemsize + sampler.cache_bytes // 2


def _tessera(sampler: Sampler, batch: int) -> Variant:
    device = sampler.device
    text = torch.randint(4, 2048, (batch, CAPTION), device=device)
    seeds = torch.arange(batch, device=device)
    return lambda: sampler.draw(text, seeds, OPTIONS)


def _transformers(config: TokenModelConfig, batch: int, device: str) -> dict[str, Variant]:
    """`BartForConditionalGeneration.generate` with each cache, in each precision that the device computes in."""
    from transformers import BartConfig, BartForConditionalGeneration, LogitsProcessor, LogitsProcessorList

    class Guidance(LogitsProcessor):
        """Draws a token from the guided distribution and rules out all others, in both halves of the batch."""

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            token = torch.multinomial(guided(scores.float(), OPTIONS.guidance).softmax(-1), 1).repeat(2, 1)
            return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)

    length = config.length
    bart = BartConfig(
        vocab_size=config.codebook_size + 2, d_model=config.width, encoder_layers=config.encoder_depth,
        decoder_layers=config.decoder_depth, encoder_ffn_dim=config.mlp_width, decoder_ffn_dim=config.mlp_width,
        encoder_attention_heads=config.heads, decoder_attention_heads=config.heads, dropout=0.0,
        max_position_embeddings=max(length, CAPTION) + 2, decoder_start_token_id=0, bos_token_id=0, pad_token_id=1,
        eos_token_id=2, forced_eos_token_id=None,
    )  # fmt: skip
    text = torch.randint(4, 2048, (2 * batch, CAPTION), device=device)
    dtypes = [torch.float32, torch.bfloat16] if has_bf16(torch.device(device).type) else [torch.float32]
    variants: dict[str, Variant] = {}
    for dtype, cache in itertools.product(dtypes, ("dynamic", "static")):
        model: Any = BartForConditionalGeneration(bart).train(False)
        model = model.to(device=device, dtype=dtype)
        settings = {
            "max_new_tokens": length, "min_new_tokens": length, "do_sample": False, "num_beams": 1, "use_cache": True,
            "cache_implementation": cache, "logits_processor": LogitsProcessorList([Guidance()]),
        }  # fmt: skip
        variants[f"transformers {str(dtype).removeprefix('torch.')} {cache}"] = lambda model=model, settings=settings: (  # type: ignore[misc]
            model.generate(input_ids=text, attention_mask=torch.ones_like(text), **settings)
        )
    return variants


def in_turns(variants: Mapping[str, Variant], repeats: int, device: str, label: str) -> dict[str, list[float]]:
    """Run the variants in turns; returns the seconds that each took in each turn. `label` names the progress bar."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in tqdm(range(repeats + 1), desc=label, unit="turn"):
        for name, run in variants.items():
            seconds = timed(run, device)
            if turn:  # the first turn is a warm-up
                times[name].append(seconds)
    return times


def timed(run: Variant, device: str) -> float:
    """Seconds that a variant takes, until the device has finished its work."""
    begin = time.perf_counter()
    with torch.no_grad():
        run()
    if device != "cpu":
        torch.accelerator.synchronize(torch.device(device))
    return time.perf_counter() - begin


def copy_bandwidth(device: str) -> float:
    """Memory bandwidth, bytes read and written a second: the best of ten copies of 256 MiB."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(timed(lambda: target.copy_(source), device) for _ in range(10))


def profile(run: Variant, steps: int) -> dict[str, float]:
    """Self time of the twelve costliest operators, in milliseconds a step. The profiler itself slows all of them."""
    with torch.profiler.profile() as found:
        run()
    where = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    costly = sorted(found.key_averages(), key=lambda event: -getattr(event, where))[:12]
    return {event.key: round(getattr(event, where) / 1e3 / steps, 4) for event in costly}


def table(rows: list[dict[str, Any]]) -> str:
    """The results as a plain-text table, for a terminal."""
    lines = [f"{'variant':32} {'tokens':>6} {'batch':>5} {'ms/step':>9} {'images/s':>9} {'of bandwidth':>12}"]
    for row in rows:
        share = f"{row['bandwidth_share']:.0%}" if "bandwidth_share" in row else ""
        lines.append(
            f"{row['variant']:32} {row['tokens']:6} {row['batch']:5} {row['ms_per_step']:9.2f} "
            f"{row['images_per_second']:9.2f} {share:>12}"
        )
    return "\n".join(lines)


def markdown(result: dict[str, Any]) -> str:
    """The results as a Markdown table: a row for each size, with milliseconds a step of each variant and the ratio."""
    rows = result["rows"]
    names = list(dict.fromkeys(row["variant"] for row in rows))
    sizes = list(dict.fromkeys((row["tokens"], row["batch"]) for row in rows))
    head = ["tokens", "pictures at a time", *names, "speed-up over transformers", "in float32", "share of bandwidth"]
    lines = []
    for tokens, batch in sizes:
        here = {row["variant"]: row for row in rows if (row["tokens"], row["batch"]) == (tokens, batch)}
        fastest = min((row for row in here.values() if "bandwidth_share" in row), key=lambda row: row["ms_per_step"])
        lines.append([
            str(tokens), str(batch), *(f"{here[name]['ms_per_step']:.1f}" if name in here else "" for name in names),
            f"{result['ratios_by_tokens'][str(tokens)][str(batch)]:.2f}",
            f"{result['float32_ratios_by_tokens'][str(tokens)][str(batch)]:.2f}",
            f"{fastest['bandwidth_share']:.0%}",
        ])  # fmt: skip
    machine, model = result["machine"], result["model"]
    caption = (
        f"Milliseconds a step, {model['depth']} blocks of width {model['width']}, guidance on; {machine['device']}, "
        f"{machine['threads']} threads, torch {machine['torch']}, transformers {machine['transformers']}."
    )
    return f"{tabulated(head, lines)}\n\n{caption}\n"


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Plot milliseconds a step over batch size: a panel for each number of tokens, a line for each variant."""
    with needing("bench"):
        from matplotlib.figure import Figure
    lengths = sorted({row["tokens"] for row in rows})
    figure = Figure(figsize=(5 * len(lengths) + 2, 4), layout="constrained")
    for panel, tokens in zip(figure.subplots(1, len(lengths), squeeze=False)[0], lengths, strict=True):
        for name in dict.fromkeys(row["variant"] for row in rows):
            points = [
                (row["batch"], row["ms_per_step"]) for row in rows if (row["variant"], row["tokens"]) == (name, tokens)
            ]
            panel.plot(
                *zip(*sorted(points), strict=True), "-" if name.startswith("tessera") else "--", marker="o", label=name
            )
        panel.set(title=f"{tokens} tokens", xlabel="pictures at a time", ylabel="ms a step", xscale="log", yscale="log")
    panel.legend(fontsize="small")
    with atomic(file) as temporary:
        figure.savefig(temporary, format=file.suffix.removeprefix(".") or "png", dpi=150)


def ratios(rows: list[dict[str, Any]], time: str, rival: str) -> dict[str, float]:
    """By batch size, the time of the rival's fastest variant over that of Tessera's fastest; 0 without rivals.

    `time` is the key of the times in `rows`; names of variants begin with "tessera" or `rival`.
    """
    found = {}
    for batch in dict.fromkeys(row["batch"] for row in rows):
        ours, theirs = (
            min((row[time] for row in rows if row["batch"] == batch and row["variant"].startswith(name)), default=0.0)
            for name in ("tessera", rival)
        )
        found[str(batch)] = round(theirs / ours, 3)
    return found


def machine(device: str) -> dict[str, Any]:
    """The device, threads and library versions that the results depend on."""
    import transformers

    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    elif device != "cpu":
        name = f"{device} GPU ({platform.machine()})"
    else:
        name = f"{torch.backends.cpu.get_cpu_capability()} CPU ({platform.processor() or platform.machine()})"
    return {
        "device": name, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "transformers": transformers.__version__,
    }  # fmt: skip


if __name__ == "__main__":
    command(main, BenchOptions)
