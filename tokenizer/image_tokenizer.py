"""The image tokenizer: a backbone and a quantizer that map pictures to codes or latents, and back.

Dimension names: B batch, H and W pixels, h and w codes (H / factor), D width, C dimensions in which codes are compared.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from einops import rearrange
from torch import Tensor

from tokenizer.parts import BackboneConfig, QuantizerConfig
from tokenizer.quantizers import CosineVQConfig
from tokenizer.vit import ViTConfig
from training.config import non_defaults, require, require_sizes
from training.errors import BadInput
from training.pretrained import PretrainedModel, fingerprint


@dataclass(kw_only=True)
class ImageTokenizerConfig:
    """Shape of the image tokenizer."""

    image_size: int = 64
    """Height and width of a picture in pixels."""
    backbone: BackboneConfig = field(default_factory=ViTConfig)
    """The encoder (pictures to vectors) and the decoder (vectors to pictures)."""
    quantizer: QuantizerConfig = field(default_factory=CosineVQConfig)
    """Maps vectors to codes, and back."""

    def __post_init__(self) -> None:
        require_sizes(self, image_size=2**14)
        factor, width = self.backbone.factor, self.backbone.width
        require(self, "image_size", self.image_size % factor == 0, f"a multiple of {factor}, the pixels a code")
        require(self.quantizer, "dim", self.quantizer.dim <= width, f"at most the backbone's width {width}")

    @property
    def grid(self) -> int:
        """Codes in a row of a picture, and rows in a picture."""
        return self.image_size // self.backbone.factor

    def options(self, group: str) -> set[str]:
        """Dotted names of the options in `group`, which is the name of one of the three sets of `PartConfig`."""
        parts = {"backbone": self.backbone, "quantizer": self.quantizer}
        return {f"{part}.{name}" for part, config in parts.items() for name in getattr(config, group)}


def require_matching_grid(model: Any, grid: int) -> None:
    """Raise `BadInput` where a model's config sets a `grid` that is not the image tokenizer's.

    Presets for large pictures set one. With an image tokenizer for small pictures, training would silently use another
    model than the preset describes.
    """
    default = next(field.default for field in dataclasses.fields(model) if field.name == "grid")
    if model.grid not in (default, grid):
        raise BadInput(
            f"model.grid is {model.grid}, but the image tokenizer makes {grid} codes a row: "
            f"leave it out, or train the image tokenizer for pictures of that size"
        )


class Reconstruction(NamedTuple):
    """What the forward pass returns for training."""

    images: Tensor
    """Reconstructed pictures (B, 3, H, W), about [-1, 1], not clamped."""
    codes: Tensor
    """(B, h, w) int64."""
    losses: dict[str, Tensor]
    """The quantizer's losses, scalars by name."""


class ImageTokenizer(PretrainedModel):
    """Turns pictures into a grid of discrete codes, and back.

    Public methods take and return uint8 RGB. Only `forward` takes floats in [-1, 1].
    """

    config_class = ImageTokenizerConfig
    config: ImageTokenizerConfig
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.backbone.encoder(config.image_size)
        self.quantizer = config.quantizer.build(config.backbone.width)
        self.decoder = config.backbone.decoder(config.image_size)
        self.register_buffer("latent_mean", torch.zeros(config.quantizer.dim))
        self.register_buffer("latent_std", torch.ones(config.quantizer.dim))

    @property
    def training_only(self) -> set[str]:
        """Fields of the config that affect only training."""
        return self.config.options("training_only")

    @classmethod
    def from_pretrained(cls, path: Any, *, dtype: torch.dtype | None = torch.float32, **kwargs: Any) -> Self:
        """Load as the base class does, but in float32 whatever the file's dtype: lower precision changes codes."""
        return super().from_pretrained(path, dtype=dtype, **kwargs)

    def _load(self, file: Path) -> None:
        super()._load(file)
        if not (self.latent_std > 0).all():
            raise BadInput(f"{file}: latent_std must be above 0; fetch it again")

    def forward(self, images: Tensor) -> Reconstruction:
        """Float pictures (B, 3, H, W) in [-1, 1] -> their reconstruction. Gradients pass through the codes."""
        z = self.encoder(images)
        with torch.autocast(z.device.type, enabled=False):  # autocast changed a third of the codes
            quantized, codes, losses = self.quantizer(z.float())
        return Reconstruction(self.decoder(quantized), codes, losses)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) uint8 -> codes (B, h, w) int64."""
        return self._nearest(self._lookup_vectors(images))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) int64 -> pictures (B, 3, h * factor, w * factor) uint8; h may be less than w.

        Raises `BadInput` for another shape or dtype, or codes out of range.
        """
        grid = self.config.grid
        if codes.dtype != torch.int64 or codes.ndim != 3 or not self._is_grid(*codes.shape[1:]):
            raise BadInput(
                f"codes are {codes.dtype} of shape {tuple(codes.shape)}: "
                f"must be int64 (B, h, {grid}) with h from 1 to {grid}"
            )
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.config.quantizer.size:
            raise BadInput(f"codes must be from 0 to {self.config.quantizer.size - 1}")
        return to_uint8(self.decoder(self.quantizer.lookup(codes)))

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) uint8 -> standardised latents (B, C, h, w) float32: the vectors before quantization."""
        z = (self._lookup_vectors(images) - self.latent_mean) / self.latent_std
        return rearrange(z, "b h w c -> b c h w")

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Standardised latents (B, C, h, w) -> pictures uint8, through the nearest codes, as `decode(encode(.))`."""
        channels, grid = self.config.quantizer.dim, self.config.grid
        if latents.ndim != 4 or latents.shape[1] != channels or not self._is_grid(*latents.shape[2:]):
            raise BadInput(
                f"latents of shape {tuple(latents.shape)}: must be (B, {channels}, h, {grid}) with h from 1 to {grid}"
            )
        z = rearrange(latents, "b c h w -> b h w c") * self.latent_std + self.latent_mean
        return self.decode(self._nearest(z))

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Set the mean and standard deviation of latents from batches of pictures (B, 3, H, W) uint8."""
        z = torch.cat([rearrange(self._lookup_vectors(images), "b h w c -> (b h w) c") for images in batches])
        self.latent_mean.copy_(z.mean(0))
        self.latent_std.copy_(z.std(0).clamp_min(1e-4))

    @property
    def codes_id(self) -> str:
        """Hash of encoder and quantizer: tokenizers with the same `codes_id` make the same codes."""
        return self._hash("encoder", self.quantizer.codes_tensors, "pixels_only")

    @property
    def pixels_id(self) -> str:
        """Hash of quantizer and decoder: tokenizers with the same `pixels_id` make the same pixels of given codes."""
        return self._hash("decoder", self.quantizer.pixels_tensors, "codes_only")

    def _lookup_vectors(self, images: Tensor) -> Tensor:
        """Pictures uint8 -> vectors that the quantizer compares with codes, (B, h, w, C) float32, without autocast."""
        size = self.config.image_size
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise BadInput(
                f"pictures are {images.dtype} of shape {tuple(images.shape)}: must be uint8 (B, 3, {size}, {size})"
            )
        with torch.autocast(images.device.type, enabled=False):
            return self.quantizer.vectors(self.encoder(to_float(images)))

    def _nearest(self, z: Tensor) -> Tensor:
        """Vectors (B, h, w, C) -> codes (B, h, w), the same as in training."""
        with torch.autocast(z.device.type, enabled=False):
            return self.quantizer.nearest(z.float())

    def _is_grid(self, rows: int, columns: int) -> bool:
        return 1 <= rows <= self.config.grid == columns

    def _hash(self, half: str, quantizer: Iterable[str], without: str) -> str:
        """Hash of one half's tensors (encoder or decoder), some of the quantizer's, and the options that shape them."""
        parts = (f"{half}.", *(f"quantizer.{name}" for name in quantizer))
        tensors = {name: t for name, t in self.state_dict().items() if f"{name}.".startswith(parts)}
        return fingerprint(
            non_defaults(self.config, exclude=self.training_only | self.config.options(without)), tensors
        )


def to_float(images: Tensor) -> Tensor:
    """Map uint8 0..255 to float32 [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Map floats in [-1, 1] to uint8 0..255, clamped and rounded."""
    return (images.float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
