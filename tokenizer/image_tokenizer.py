"""The image tokenizer: a backbone and a bottleneck that map pictures to codes or latents, and back.

Every tokenizer has latents; one with a quantizer has codes too.

Dimension names: B batch, H and W pixels, h and w places (H / factor), n codes in a row (w, with a residual quantizer
w * depth: see `tokenizer.parts`), D width, C dimensions of a latent.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import torch
from einops import rearrange
from torch import Tensor

from tokenizer import conv, kl  # noqa: F401 registers their kinds
from tokenizer.parts import BackboneConfig, BottleneckConfig, Quantizer, QuantizerConfig
from tokenizer.quantizers import CosineVQConfig
from tokenizer.vit import ViTConfig
from training.config import non_defaults, require, require_sizes
from training.errors import BadInput
from training.precision import without_tf32
from training.pretrained import PretrainedModel, fingerprint


@dataclass(kw_only=True)
class ImageTokenizerConfig:
    """Shape of the image tokenizer."""

    image_size: int = 64
    """Height and width of a picture in pixels."""
    backbone: BackboneConfig = field(default_factory=ViTConfig)
    """The encoder (pictures to vectors) and the decoder (vectors to pictures)."""
    quantizer: BottleneckConfig = field(default_factory=CosineVQConfig)
    """Maps vectors to codes, and back; kind `kl` maps them to continuous latents."""

    def __post_init__(self) -> None:
        require_sizes(self, image_size=2**14)
        factor, width = self.backbone.factor, self.backbone.width
        require(self, "image_size", self.image_size % factor == 0, f"a multiple of {factor}, the pixels a code")
        require(self.quantizer, "dim", self.quantizer.dim <= width, f"at most the backbone's width {width}")

    @property
    def grid(self) -> int:
        """Rows of a picture, and places in a row."""
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
            f"model.grid is {model.grid}, but the image tokenizer makes {grid} rows: "
            f"leave it out, or train the image tokenizer for pictures of that size"
        )


class Reconstruction(NamedTuple):
    """What the forward pass returns for training."""

    images: Tensor
    """Reconstructed pictures (B, 3, H, W), about [-1, 1], not clamped."""
    codes: Tensor | None
    """(B, h, n) int64; None with continuous latents."""
    losses: dict[str, Tensor]
    """The bottleneck's losses, scalars by name."""
    z: Tensor
    """What the encoder returned, (B, h, w, D)."""


class ImageTokenizer(PretrainedModel):
    """Turns pictures into a grid of discrete codes or continuous latents, and back.

    Public methods take and return uint8 RGB. Only `forward` takes floats in [-1, 1]. What needs codes raises `BadInput`
    in a tokenizer that has none (`has_codes`).
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
        self._codes_are_frozen = False

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

    @property
    def has_codes(self) -> bool:
        """Whether there are codes, and not only latents."""
        return isinstance(self.quantizer, Quantizer)

    def require_codes(self) -> Quantizer:
        """Return the quantizer. Raises `BadInput` if there are no codes."""
        if isinstance(self.quantizer, Quantizer):
            return self.quantizer
        raise BadInput(
            "this image tokenizer has continuous latents and no codes: train one with a quantizer for a token model"
        )

    @property
    def codebook_size(self) -> int:
        """Number of codes, at each depth."""
        self.require_codes()
        return cast(QuantizerConfig, self.config.quantizer).size

    @property
    def depth(self) -> int:
        """Number of codes of a place."""
        self.require_codes()
        return cast(QuantizerConfig, self.config.quantizer).depth

    @property
    def columns(self) -> int:
        """Codes in a row of a picture."""
        return self.config.grid * self.depth

    def freeze_codes(self) -> None:
        """Train only the decoder from now on. All else keeps its weights and stays in eval mode, also in training."""
        self._codes_are_frozen = True
        self.requires_grad_(False).train(self.training)
        self.decoder.requires_grad_(True)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode, of the decoder only if the codes are frozen."""
        super().train(mode)
        for name, part in self.named_children():
            if self._codes_are_frozen and name != "decoder":
                part.eval()  # in training mode, a quantizer may change its codebook without any gradient
        return self

    def forward(self, images: Tensor) -> Reconstruction:
        """Float pictures (B, 3, H, W) in [-1, 1] -> their reconstruction. Gradients pass through the bottleneck, which
        may sample latents."""
        z = self.encoder(images)
        with torch.autocast(z.device.type, enabled=False):  # autocast changed a third of the codes
            quantized, codes, losses = self.quantizer(z.float())
        return Reconstruction(self.decoder(quantized), codes, losses, z)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) uint8 -> codes (B, h, n) int64.

        The encoder computes in the dtype of its weights. In training with precision bf16 it computes in bfloat16, which
        gives some places another code.
        """
        quantizer, vectors = self.require_codes(), self._vectors(images)
        with torch.autocast(vectors.device.type, enabled=False):
            return quantizer.nearest(vectors.float())

    @torch.no_grad()
    @without_tf32()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, n) int64 -> pictures (B, 3, h * factor, w * factor) uint8; h may be less than w.

        Raises `BadInput` for another shape or dtype, or codes out of range.
        """
        quantizer, size, rows, columns = self.require_codes(), self.codebook_size, self.config.grid, self.columns
        fits = codes.ndim == 3 and 1 <= codes.shape[1] <= rows and codes.shape[2] == columns
        if codes.dtype != torch.int64 or not fits:
            raise BadInput(
                f"codes are {codes.dtype} of shape {tuple(codes.shape)}: "
                f"must be int64 (B, h, {columns}) with h from 1 to {rows}"
            )
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < size:
            raise BadInput(f"codes must be from 0 to {size - 1}")
        return to_uint8(self.decoder(quantizer.lookup(codes)))

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) uint8 -> standardised latents (B, C, h, w) float32.

        They are the vectors before quantization, or the mean of the posterior.
        """
        z = (self._vectors(images) - self.latent_mean) / self.latent_std
        return rearrange(z, "b h w c -> b c h w")

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Standardised latents (B, C, h, w) -> pictures uint8; with a quantizer through the nearest codes, as
        `decode(encode(.))`."""
        channels, grid = self.config.quantizer.dim, self.config.grid
        fits = latents.ndim == 4 and latents.shape[1::2] == (channels, grid) and 1 <= latents.shape[2] <= grid
        if not fits:
            raise BadInput(
                f"latents of shape {tuple(latents.shape)}: must be (B, {channels}, h, {grid}) with h from 1 to {grid}"
            )
        return self._pixels(rearrange(latents, "b c h w -> b h w c") * self.latent_std + self.latent_mean)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) uint8 -> the same encoded and decoded: through codes, or the mean of the posterior."""
        return self._pixels(self._vectors(images))

    @torch.no_grad()
    def decode_prior(self, count: int, generator: torch.Generator) -> Tensor:
        """Decode latents from a standard normal distribution, the prior of a KL bottleneck: (count, 3, H, W) uint8."""
        grid, mean = self.config.grid, self.latent_mean
        return self._pixels(torch.randn(count, grid, grid, len(mean), generator=generator).to(mean.device))

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Set the mean and standard deviation of latents from batches of pictures (B, 3, H, W) uint8."""
        z = torch.cat([rearrange(self._vectors(images), "b h w c -> (b h w) c") for images in batches])
        self.latent_mean.copy_(z.mean(0))
        self.latent_std.copy_(z.std(0).clamp_min(1e-4))

    @property
    def codes_id(self) -> str:
        """Hash of encoder and quantizer: tokenizers with the same `codes_id` make the same codes."""
        return self._hash(("encoder.",), self.require_codes().codes_tensors, "pixels_only")

    @property
    def latents_id(self) -> str:
        """Hash of encoder and standardisation: tokenizers with the same `latents_id` make the same latents."""
        return self._hash(("encoder.", "latent_mean.", "latent_std."), self.quantizer.latents_tensors, "pixels_only")

    @property
    def pixels_id(self) -> str:
        """Hash of bottleneck and decoder: tokenizers with the same `pixels_id` make the same pixels of given codes, or
        of given latents before standardisation."""
        return self._hash(("decoder.",), self.quantizer.pixels_tensors, "codes_only")

    @property
    def ids(self) -> dict[str, str]:
        """The ids by name. Without codes there is no `codes_id`."""
        codes = {"codes_id": self.codes_id} if self.has_codes else {}
        return {**codes, "latents_id": self.latents_id, "pixels_id": self.pixels_id}

    @without_tf32()
    def _vectors(self, images: Tensor) -> Tensor:
        """Pictures uint8 -> latents before standardisation, (B, h, w, C) float32, computed without autocast or TF32."""
        size = self.config.image_size
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise BadInput(
                f"pictures are {images.dtype} of shape {tuple(images.shape)}: must be uint8 (B, 3, {size}, {size})"
            )
        with torch.autocast(images.device.type, enabled=False):
            return self.quantizer.vectors(self.encoder(to_float(images)))

    @without_tf32()
    def _pixels(self, vectors: Tensor) -> Tensor:
        """Latents before standardisation, (B, h, w, C) -> pictures uint8. The bottleneck computes without autocast."""
        with torch.autocast(vectors.device.type, enabled=False):
            z = self.quantizer.decoded(vectors.float())
        return to_uint8(self.decoder(z))

    def _hash(self, names: Iterable[str], bottleneck: Iterable[str], without: str) -> str:
        """Hash of tensors by the prefixes of their names, some of them of the bottleneck, and the options but those in
        the group `without`."""
        parts = (*names, *(f"quantizer.{name}" for name in bottleneck))
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
