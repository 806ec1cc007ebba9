"""The learning rate as a function of the step, so checkpoints need not save any schedule."""

import math


def learning_rate(step: int, *, peak: float, warmup: int, total: int, floor: float = 0.0) -> float:
    """Linear warm-up over `warmup` steps, then a cosine to `floor * peak` at `total` (SGDR, arXiv 1608.03983, eq. 5).

    `step` counts from 0. The rate of the first step is above 0.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
