"""Builds the optimizer of a module: AdamW trains some parameters, Muon others."""

import re
import warnings

import torch
from torch import nn

from training.muon import Muon
from training.options import OptimizerConfig

_HIDDEN = re.compile(r"(.*\.)?(\w*blocks?|levels|middle)\..*\.weight")
"""Names of the weights of layers inside transformer blocks, and inside the blocks of convolutional networks."""


def optimizer_for(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW, with weight decay on tensors of two or more dimensions; and Muon, where the config has a rate for it.

    Muon trains the linear layers and convolutions inside blocks and leaves the rest to AdamW: first and last layers,
    embeddings, biases and norms. The `lr` of each parameter group is its peak.

    Warns of a rate of Muon where it has nothing to train, as in the upsampler.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    by_muon = [
        p for name, p in trained.items()
        if config.muon_learning_rate and p.ndim >= 2 and _HIDDEN.fullmatch(name)
    ]  # fmt: skip
    muon_ids = {id(p) for p in by_muon}
    others = [p for p in trained.values() if id(p) not in muon_ids]
    decay, adamw, muon = config.weight_decay, config.learning_rate, config.muon_learning_rate
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": decay, "lr": adamw},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0, "lr": adamw},
    ]
    betas = (config.beta1, config.beta2)
    if not by_muon:
        if muon:
            name = type(module).__name__
            warnings.warn(f"muon_learning_rate has no effect: AdamW trains {name}, which has no blocks", stacklevel=2)
        return torch.optim.AdamW(groups, betas=betas, fused=True)
    groups.append({"params": by_muon, "weight_decay": decay, "lr": muon, "muon": True})
    return Muon(groups, betas=betas, fused=True)
