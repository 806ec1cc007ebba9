"""Benchmark of image tokenizers: `python -m tokenizer.bench`.

It times a training step, encoding and decoding of the convolutional tokenizer and of `VQModel` of diffusers, which has
the same layers and as many parameters; and of the vision transformer beside them. All take turns in one run, so that a
slow phase of the machine affects all.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizer.conv import ConvConfig, groups_of
from tokenizer.image_tokenizer import ImageTokenizer, ImageTokenizerConfig, to_float
from tokenizer.quantizers import CosineVQConfig, VQConfig
from tokenizer.vit import ViTConfig
from training.cli import command
from training.config import require, to_dict
from training.device import with_device
from training.errors import BadInput, install
from training.files import write_json
from training.markdown import tabulated

RIVAL = "diffusers"
TIMED = ("step", "encode", "decode")
"""What is timed."""


@dataclass(frozen=True, kw_only=True)
class TokenizerBenchOptions:
    """Time untrained image tokenizers on pictures of noise."""

    size: int = 64
    """Height and width of the pictures in pixels."""
    batch: list[int] = field(default_factory=lambda: [8, 32])
    """Batch sizes."""
    conv: ConvConfig = field(default_factory=ConvConfig)
    """Shape of the convolutional tokenizer, and of the one of diffusers."""
    vq: VQConfig = field(default_factory=VQConfig)
    """Codebook of both."""
    precision: Literal["bf16", "no"] = "no"
    """Train under autocast to bfloat16, or in float32."""
    repeats: int = 5
    """Timed runs of each; the median is reported."""
    device: str = "auto"
    """Device to compute on: `auto` (a GPU if there is one), `cpu`, `cuda`, `mps`, or another of torch's."""
    json: Path = Path("outputs/bench-tokenizer.json")
    """File for the results."""

    def __post_init__(self) -> None:
        require(self, "repeats", self.repeats >= 1, "1 or more")
        require(self, "batch", bool(self.batch) and min(self.batch) >= 1, "numbers of 1 or more")
        require(self.conv, "decoder_blocks", self.conv.decoder_blocks == self.conv.encoder_blocks + 1,
                "encoder_blocks + 1, as in diffusers")  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """A tokenizer, and what is timed of it."""

    model: nn.Module
    reconstruct: Callable[[Tensor], tuple[Tensor, Any]]
    """Floats (B, 3, H, W) in [-1, 1] -> their reconstruction and the loss of the quantizer."""
    encode: Callable[[Tensor], Tensor]
    """Pictures uint8 (B, 3, H, W) -> codes."""
    decode: Callable[[Tensor], Tensor]
    """Codes -> pictures."""


def main(options: TokenizerBenchOptions) -> None:
    """Time all variants, print a table and ratios, and write the results."""
    options = with_device(options)
    variants = tokenizers(options)
    rows = [row for batch in options.batch for row in measure(variants, batch, options)]
    result = {"options": to_dict(options), "torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows}
    write_json(options.json, result)
    head = ["tokenizer", "M parameters", "batch", *(f"{name}, ms" for name in TIMED), "kept, MiB"]
    print(tabulated(head, [
        [row["tokenizer"], f"{row['parameters'] / 1e6:.2f}", str(row["batch"]),
         *(f"{1e3 * row[name]:.1f}" for name in TIMED), f"{row['kept'] / 2**20:.1f}"]
        for row in rows
    ]))  # fmt: skip
    for row in rows:
        rival = next(one for one in rows if one["tokenizer"] == RIVAL and one["batch"] == row["batch"])
        if row is not rival:
            times = ", ".join(f"{name} {rival[name] / row[name]:.2f}" for name in TIMED)
            print(f"{row['tokenizer']}, batch {row['batch']}: times as fast as {RIVAL}: {times}")
    print(f"the results are in {options.json}")


def tokenizers(options: TokenizerBenchOptions) -> dict[str, Variant]:
    """The tokenizers by name, untrained, on the device."""
    torch.manual_seed(0)
    conv, again = (
        ImageTokenizerConfig(image_size=options.size, backbone=replace(options.conv, recompute=recompute),
                             quantizer=options.vq)
        for recompute in (False, True)
    )  # fmt: skip
    vit = ImageTokenizerConfig(
        image_size=options.size, backbone=ViTConfig(patch_size=options.conv.factor), quantizer=CosineVQConfig()
    )
    ours = {"conv": conv, "conv, recompute": again, "vit": vit}
    made = {name: _tessera(ImageTokenizer(config).to(options.device)) for name, config in ours.items()}
    return {**made, RIVAL: _diffusers(options)}


def measure(variants: Mapping[str, Variant], batch: int, options: TokenizerBenchOptions) -> list[dict[str, Any]]:
    """Time all variants at one batch size; a row of results for each.

    `kept` is how many bytes a training step keeps for its backward pass, without the weights.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, options.size, options.size), generator=generator, dtype=torch.uint8)
    images = images.to(options.device)
    runs: dict[tuple[str, str], Callable[[], Any]] = {}
    kept = {}
    for name, variant in variants.items():
        step = training_step(variant, images, options)
        kept[name] = kept_bytes(variant.model, step)
        with torch.no_grad():
            codes = variant.encode(images)
        runs[name, "step"] = step
        runs[name, "encode"] = torch.no_grad()(lambda one=variant: one.encode(images))
        runs[name, "decode"] = torch.no_grad()(lambda one=variant, codes=codes: one.decode(codes))
    times: dict[tuple[str, str], list[float]] = {which: [] for which in runs}
    for _ in range(options.repeats):
        for which, run in runs.items():
            times[which].append(_seconds(run, options.device))
    return [
        {"tokenizer": name, "batch": batch, "parameters": sum(p.numel() for p in variant.model.parameters()),
         "kept": kept[name], **{what: statistics.median(times[name, what]) for what in TIMED}}
        for name, variant in variants.items()
    ]  # fmt: skip


def training_step(variant: Variant, images: Tensor, options: TokenizerBenchOptions) -> Callable[[], None]:
    """A step of AdamW on the squared error."""
    optimizer, floats = torch.optim.AdamW(variant.model.parameters(), lr=1e-4), to_float(images)
    kind = torch.device(options.device).type

    def step() -> None:
        variant.model.train()
        with torch.autocast(kind, torch.bfloat16) if options.precision == "bf16" else nullcontext():
            made, loss = variant.reconstruct(floats)
        (F.mse_loss(made.float(), floats) + loss).backward()
        optimizer.step()
        optimizer.zero_grad()
        variant.model.eval()

    return step


def kept_bytes(model: nn.Module, step: Callable[[], None]) -> int:
    """Bytes of the tensors that a step keeps from its forward for its backward pass, each counted once."""
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(kept.values())


def _seconds(run: Callable[[], Any], device: str) -> float:
    began = time.perf_counter()
    run()
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize(torch.device(device))
    return time.perf_counter() - began


def _tessera(model: ImageTokenizer) -> Variant:
    def reconstruct(floats: Tensor) -> tuple[Tensor, Tensor]:
        made = model(floats)
        return made.images, made.losses["commitment"]

    return Variant(model.eval(), reconstruct, model.encode, model.decode)


def _diffusers(options: TokenizerBenchOptions) -> Variant:
    try:
        from diffusers import VQModel
    except ImportError:
        raise BadInput(f"the benchmark needs diffusers: {install('diffusion')}") from None
    conv, levels = options.conv, range(len(options.conv.multipliers))
    down = tuple(f"{'Attn' * (i in conv.attention)}DownEncoderBlock2D" for i in levels)
    up = tuple(f"{'Attn' * (i in conv.attention)}UpDecoderBlock2D" for i in reversed(levels))
    model: Any = VQModel(
        down_block_types=down, up_block_types=up, block_out_channels=tuple(conv.level_channels),
        layers_per_block=conv.encoder_blocks, latent_channels=conv.width, num_vq_embeddings=options.vq.size,
        vq_embed_dim=options.vq.dim, norm_num_groups=groups_of(conv.channels, conv.groups),
        mid_block_add_attention=conv.mid_attention,
    ).to(options.device).eval()  # fmt: skip
    grid = options.size // conv.factor

    def reconstruct(floats: Tensor) -> tuple[Tensor, Tensor]:
        made = model(floats)
        return made.sample, made.commit_loss.mean()

    def encode(images: Tensor) -> Tensor:
        return model.quantize(model.encode(to_float(images)).latents)[2][2]

    def decode(codes: Tensor) -> Tensor:
        shape = (len(codes) // grid**2, grid, grid, options.vq.dim)
        return model.decode(model.quantize.get_codebook_entry(codes, shape), force_not_quantize=True).sample

    return Variant(model, reconstruct, encode, decode)


if __name__ == "__main__":
    command(main, TokenizerBenchOptions)
