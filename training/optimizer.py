"""The optimizer of a module: which of its parameters learn by which rule."""

import torch
from torch import nn

from training.muon import Muon
from training.options import OptimizerConfig


def optimizer_for(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW, with weight decay for matrices alone; and Muon, where asked for, for those inside a transformer's blocks.

    The `lr` of each group of parameters is its peak.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    turned = [
        p for name, p in trained.items()
        if config.muon_learning_rate and p.ndim == 2 and "blocks." in name and name.endswith(".weight")
    ]  # fmt: skip
    inner = {id(p) for p in turned}
    others = [p for p in trained.values() if id(p) not in inner]
    decay, adamw, muon = config.weight_decay, config.learning_rate, config.muon_learning_rate
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": decay, "lr": adamw},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0, "lr": adamw},
    ]
    betas = (config.beta1, config.beta2)
    if not turned:
        return torch.optim.AdamW(groups, betas=betas, fused=True)
    groups.append({"params": turned, "weight_decay": decay, "lr": muon, "muon": True})
    return Muon(groups, betas=betas, fused=True)
