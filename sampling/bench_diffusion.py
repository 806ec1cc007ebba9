"""Benchmark of the diffusion sampler: `python -m sampling.bench_diffusion`.

It compares both backends of a bundle, from prompt to picture; and, for the U-Net of `diffusers`, our sampler with a
loop like that of its pipelines. All variants take turns in one run, so that a slow phase of the machine affects all.
"""

import copy
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from diffusion.condition import mean_state
from diffusion.model import DiffusionModel, DiffusionModelConfig
from diffusion.traced import with_traced_denoiser
from diffusion.unet import UNet
from sampling.bench import Variant, in_turns, machine, ratios
from sampling.diffuse import denoiser, sample, seeded_noise
from sampling.options import BackendOptions, DiffusionOptions, SamplingOptions
from sampling.pipeline import load
from seq2seq.model import null_caption
from training.cli import command
from training.config import require
from training.device import with_device
from training.errors import needing
from training.files import splice, write_json
from training.markdown import tabulated
from training.shipped import shipped

PROMPT = "a noto emoji of a fox"
CAPTION = 24
"""Ids in each caption of the U-Net."""


@dataclass(frozen=True, kw_only=True)
class DiffusionBenchOptions:
    """Time both backends of a bundle, and an untrained U-Net in our sampler and in a plain loop."""

    model: str = field(default_factory=shipped)
    """Bundle with both backends."""
    batch: list[int] = field(default_factory=lambda: [1, 16])
    """Batch sizes."""
    steps: list[int] = field(default_factory=lambda: [10, 25, 50])
    """Numbers of denoising steps."""
    repeats: int = 5
    """Timed runs of each variant; the median is reported."""
    device: str = "auto"
    """Device to compute on: `auto` (a GPU if there is one), `cpu`, `cuda`, `mps`, or another of torch's."""
    json: Path = Path("outputs/bench-diffusion.json")
    """File for the results."""
    readme: Path | None = None
    """Markdown file whose text between `<!-- bench-diffusion -->` and `<!-- /bench-diffusion -->` is replaced by the
    table."""

    def __post_init__(self) -> None:
        require(self, "repeats", self.repeats >= 1, "1 or more")
        for name in ("batch", "steps"):
            require(self, name, bool(getattr(self, name)) and min(getattr(self, name)) >= 1, "numbers of 1 or more")


def main(options: DiffusionBenchOptions) -> None:
    """Time all variants, print a table and write the results."""
    options = with_device(options)
    rows = []
    for batch in options.batch:
        for kind, variants in (("bundle", _backends(batch, options)), ("U-Net", _unets(batch, options))):
            for name, times in in_turns(variants, options.repeats, options.device, f"{kind}, batch {batch}").items():
                seconds = statistics.median(times)
                rows.append({"of": kind, "variant": name, "batch": batch, "seconds": seconds,
                             "images_per_second": batch / seconds})  # fmt: skip
    result = {"machine": machine(options.device), "ratios": ratios(rows, "seconds", "plain"), "rows": rows}
    write_json(options.json, result)
    print(markdown(result))
    if options.readme:
        splice(options.readme, "bench-diffusion", markdown(result))
    print(f"the results are in {options.json}")


def _backends(batch: int, options: DiffusionBenchOptions) -> dict[str, Variant]:
    bundle = load(options.model, device=options.device)
    pairs = [(PROMPT, seed) for seed in range(batch)]
    variants: dict[str, BackendOptions] = {"autoregressive": SamplingOptions()}
    variants |= {f"diffusion, {steps} steps": DiffusionOptions(steps=steps) for steps in options.steps}
    return {name: lambda chosen=chosen: bundle.draw(pairs, chosen) for name, chosen in variants.items()}  # type: ignore[misc]


def _unets(batch: int, options: DiffusionBenchOptions) -> dict[str, Variant]:
    with needing("diffusion"):
        from diffusers import DPMSolverMultistepScheduler
        from diffusers.models.attention_processor import AttnProcessor2_0

    torch.manual_seed(0)
    model = DiffusionModel(DiffusionModelConfig(denoiser="unet")).eval().to(options.device)
    assert isinstance(model.denoiser, UNet)
    read, project = model.text, model.project
    quick = with_traced_denoiser(model) if options.device == "cpu" else model
    net = copy.deepcopy(model.denoiser.net)
    net.set_attn_processor(AttnProcessor2_0())
    text = torch.randint(4, 2000, (batch, CAPTION), device=options.device)
    chosen = DiffusionOptions(steps=options.steps[0])
    seeds, null = torch.arange(batch, device=options.device), null_caption(text[:1]).expand(1, CAPTION)

    def ours() -> Any:
        noise = seeded_noise(seeds, model.latent_shape)
        return sample(denoiser(quick, text, null, chosen), model.process, noise, chosen)

    def plain() -> Any:
        states, mask = read(torch.cat([null.expand_as(text), text]))
        states = project(states)
        pooled = mean_state(states, mask)
        scheduler = DPMSolverMultistepScheduler(prediction_type="v_prediction")
        scheduler.set_timesteps(chosen.steps)
        x = torch.randn(batch, *model.latent_shape, device=options.device)
        for t in scheduler.timesteps:
            both = net(torch.cat([x, x]), t, encoder_hidden_states=states, timestep_cond=pooled).sample
            unconditional, conditional = both.chunk(2)
            mixed = unconditional + chosen.guidance * (conditional - unconditional)
            x = scheduler.step(mixed, t, x).prev_sample
        return x

    return {f"tessera, {chosen.steps} steps": ours, f"plain diffusers, {chosen.steps} steps": plain}


def markdown(result: Mapping[str, Any]) -> str:
    """The results as a Markdown table: a row for each variant, with images/s by batch size."""
    rows = result["rows"]
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    head, lines = ["images/s", *(f"{batch} at a time" for batch in batches)], []
    for of, name in dict.fromkeys((row["of"], row["variant"]) for row in rows):
        here = {row["batch"]: row["images_per_second"] for row in rows if (row["of"], row["variant"]) == (of, name)}
        lines.append([f"{of}: {name}", *(f"{here[batch]:.2f}" for batch in batches)])
    machine = result["machine"]
    faster = ", ".join(f"{ratio:.2f} at {batch}" for batch, ratio in result["ratios"].items())
    caption = (
        f"The U-Net is {faster} times as fast as in a plain loop. {machine['device']}, {machine['threads']} threads."
    )
    return f"{tabulated(head, lines)}\n\n{caption}\n"


if __name__ == "__main__":
    command(main, DiffusionBenchOptions)
