"""Metrics: pure functions of uint8 batches or of codes, each with a direction and a bootstrap interval."""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure with its 95 % interval."""

    value: float
    low: float | None = None
    high: float | None = None
    higher_is_better: bool = True

    def to_dict(self) -> dict[str, float | bool | None]:
        """As it stands in a result file."""
        return asdict(self)


def psnr(made: Tensor, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture: uint8 (B, 3, H, W) twice -> (B,); at most 100."""
    error = (made.float() - images.float()).square().flatten(1).mean(1)
    return (10 * torch.log10(255**2 / error)).clamp(max=100)


def ssim(made: Tensor, images: Tensor) -> Tensor:
    """Structural similarity of each picture (Wang et al. 2004, Gaussian, edges reflected): uint8 twice -> (B,)."""
    values = structural_similarity_index_measure(made.float(), images.float(), data_range=255.0, reduction="none")
    assert isinstance(values, Tensor)
    return values


def usage(codes: Tensor, codebook_size: int) -> float:
    """Share of the codebook that occurs in `codes` (any shape, int64)."""
    return int((torch.bincount(codes.flatten(), minlength=codebook_size) > 0).sum()) / codebook_size


def perplexity(codes: Tensor, codebook_size: int) -> float:
    """exp of the entropy of how often each code occurs: the size of a uniform codebook as varied as this one."""
    p = torch.bincount(codes.flatten(), minlength=codebook_size).double()
    return float(torch.special.entr(p / p.sum()).sum().exp())


def mean(values: Tensor, *, higher_is_better: bool = True, resamples: int = 1000) -> Metric:
    """Mean of a value a picture, (B,), with the percentile interval of the bootstrap over pictures."""
    sample = values.double().numpy()
    draws = np.random.default_rng(0).integers(len(sample), size=(resamples, len(sample)))
    low, high = np.percentile(sample[draws].mean(1), [2.5, 97.5])
    return Metric(value=float(sample.mean()), low=float(low), high=float(high), higher_is_better=higher_is_better)
