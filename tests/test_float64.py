"""Apple's GPU has no float64: no operator of a sampler or of a training step may use one there.

The token model's sampler and whole trainings run on the CPU, where no float64 tensor is allowed at all. What computes
in float64 on purpose, the noise process, runs with its latents on the meta device: there no operator may mix them.
"""

import functools
from pathlib import Path
from typing import Any

import pytest
import test_seq2seq_train
import test_tokenizer_train
import torch
from test_seq2seq_train import _fresh_accelerator, parts  # noqa: F401
from test_tokenizer_train import flags, train  # noqa: F401
from tiny_models import captions, diffusion_model, token_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffusion.loss import bits_per_dimension, diffusion_loss
from diffusion.process import ProcessConfig
from sampling.decode import Sampler
from sampling.diffuse import denoiser, sample, seeded_noise
from sampling.options import DiffusionOptions, SamplingOptions


class NoFloat64(TorchDispatchMode):
    """Refuses operators that have both a float64 tensor and one on `device`, among what they take and return."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and args[0].is_meta and kwargs.get("device") == torch.device("cpu"):
            made = torch.zeros(args[0].shape, dtype=kwargs.get("dtype", args[0].dtype))  # there are no values to read
        else:
            made = func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs, made)) if isinstance(leaf, Tensor)]
        there = any(tensor.device.type == self.device for tensor in tensors)
        assert not (there and any(tensor.dtype == torch.float64 for tensor in tensors)), f"{func} in float64"
        return made


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_check_finds_what_it_is_for(device: str) -> None:
    double, single = torch.ones(1, dtype=torch.float64), torch.ones(1, device=device)
    with NoFloat64(device):
        single * 2.0 + single.mean()
        for wrong in (single.double, lambda: double.clone().to(device), lambda: single * double[0]):
            with pytest.raises(AssertionError, match="in float64"):
                wrong()


@pytest.mark.parametrize("window", [0, 4])
def test_drawing_tokens(window: int) -> None:
    options = SamplingOptions(guidance=2.0, guidance_schedule="cosine", top_k=9, top_p=0.9, min_p=0.01, parallel=window)
    sampler = Sampler(token_model(), "plain")
    with NoFloat64("cpu"):
        sampler.draw(captions(2), torch.arange(2), options)


@pytest.mark.parametrize(
    ("process", "schedulers"),
    [
        ({}, ["dpm", "ddim", "ddpm"]),
        ({"learned_variance": True}, ["ddpm"]),
        ({"schedule": "flow", "target": "velocity"}, ["dpm", "euler", "heun", "ddpm"]),
    ],
)
def test_drawing_latents(process: dict[str, Any], schedulers: list[str]) -> None:
    model = diffusion_model(ProcessConfig(steps=100, **process)).to("meta")
    text, start = captions(2).to("meta"), torch.ones(2, *model.latent_shape, device="meta")
    for scheduler in schedulers:
        eta = {"eta": 0.5} if scheduler == "ddim" else {}
        options = DiffusionOptions(steps=4, scheduler=scheduler, guidance=2.0, threshold=0.9, **eta)  # type: ignore[arg-type]
        with NoFloat64("meta"):
            noise = seeded_noise(torch.arange(2, device="meta"), model.latent_shape)
            denoise = denoiser(model, text, text[:1], options)
            assert sample(denoise, model.process, noise, options, init=start, strength=0.8).is_meta


@pytest.mark.parametrize(
    "process",
    [{"min_snr": 5.0}, {"learned_variance": True}, {"schedule": "flow", "target": "velocity", "times": "logit-normal"}],
)
def test_training_and_measuring_diffusion(process: dict[str, Any]) -> None:
    model = diffusion_model(ProcessConfig(steps=100, **process)).to("meta")
    text, latents = captions(2).to("meta"), torch.ones(2, *model.latent_shape, device="meta")
    denoise = functools.partial(model, text=text)
    with NoFloat64("meta"):
        diffusion_loss(denoise, model.process, latents).backward()
        assert bits_per_dimension(denoise, model.process, latents, torch.Generator(), times=3).is_meta


def test_training_the_token_model(tmp_path: Path, parts: list[str]) -> None:  # noqa: F811
    with NoFloat64("cpu"):
        test_seq2seq_train.fit(tmp_path / "run", parts)


def test_training_the_tokenizer(tmp_path: Path, train: test_tokenizer_train.Train) -> None:  # noqa: F811
    with NoFloat64("cpu"):
        assert train("--out", tmp_path / "run", "--steps", 3, "--optimizer.muon_learning_rate", 0.02) == 0
