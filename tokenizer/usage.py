"""How often codes are used, for quantizers from a library that does not count them."""

import torch
from torch import Tensor, distributed

from tokenizer.parts import Quantizer

_STEPS = 100
"""Training steps in the window, roughly."""


class CountingQuantizer(Quantizer):
    """Counts the codes of all processes, as a moving average over about the last hundred training steps.

    The counts are saved with the model, so that a run that is resumed does not begin at 0 and stop for it
    (`task.min_usage`).
    """

    counts: Tensor

    def init_counts(self, size: int) -> None:
        """Start to count `size` codes. Call it in the constructor."""
        self.register_buffer("counts", torch.zeros(size))

    @torch.no_grad()
    def count(self, codes: Tensor) -> None:
        """In training, count the codes of a step, int64 of any shape."""
        if not self.training:
            return
        codes = codes.flatten()
        counts = torch.zeros_like(self.counts).scatter_add_(0, codes, self.counts.new_ones(len(codes)))
        if distributed.is_initialized():
            distributed.all_reduce(counts)
        self.counts.lerp_(counts, 1 / _STEPS)

    def health(self) -> dict[str, Tensor]:
        """Return the share of the codes that were used in the window, and their perplexity."""
        once = (1 - 1 / _STEPS) ** _STEPS / _STEPS  # what is left of one use at the start of the window
        p = self.counts / self.counts.sum().clamp_min(1e-10)
        return {"usage": (self.counts >= once).float().mean(), "perplexity": torch.exp(torch.special.entr(p).sum())}
