"""The image tokenizer: pictures <-> codes <-> latents, a ViT-VQGAN (arXiv 2110.04627).

Dimension names: B batch, H and W pixels, h and w codes (H / patch_size), D width, C dimensions of the code lookup.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from einops import rearrange
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from tokenizer.vit import Decoder, Encoder
from training.config import MOST_DEPTH, MOST_WIDTH, require, require_sizes, stated
from training.errors import BadInput
from training.pretrained import PretrainedModel, fingerprint


@dataclass(kw_only=True)
class ImageTokenizerConfig:
    """Shape of the image tokenizer."""

    image_size: int = 64
    """Height and width of a picture in pixels."""
    patch_size: int = 8
    """Height and width in pixels that one code stands for."""
    width: int = 256
    """Width of both transformers."""
    encoder_depth: int = 4
    """Blocks of the encoder."""
    decoder_depth: int = 6
    """Blocks of the decoder."""
    heads: int = 4
    """Attention heads; they divide the width."""
    pixel_width: int = 32
    """Channels of the convolutions that close the seams between patches."""
    codebook_size: int = 2048
    """Number of codes."""
    codebook_dim: int = 16
    """Dimensions in which codes are compared, on the unit sphere."""

    def __post_init__(self) -> None:
        require_sizes(
            self, image_size=2**14, patch_size=2**14, width=MOST_WIDTH, encoder_depth=MOST_DEPTH,
            decoder_depth=MOST_DEPTH, heads=MOST_WIDTH, pixel_width=MOST_WIDTH,
        )  # fmt: skip
        require(
            self, "image_size", self.image_size % self.patch_size == 0, f"a multiple of patch_size {self.patch_size}"
        )
        require(self, "width", self.width % self.heads == 0, f"a multiple of heads {self.heads}")
        require(self, "codebook_size", 2 <= self.codebook_size <= 2**24, "from 2 to 16777216")
        require(self, "codebook_dim", 1 <= self.codebook_dim <= self.width, f"from 1 to width {self.width}")

    @property
    def grid(self) -> int:
        """Codes in a row, and rows in a picture."""
        return self.image_size // self.patch_size


def require_own_grid(model: Any, grid: int) -> None:
    """Raises `BadInput` where the config of a model states another `grid` than the image tokenizer has.

    Presets for large pictures state one; with an image tokenizer for small ones, another model than they say would be
    trained.
    """
    usual = next(field.default for field in dataclasses.fields(model) if field.name == "grid")
    if model.grid not in (usual, grid):
        raise BadInput(
            f"model.grid is {model.grid}, but the image tokenizer makes {grid} codes a row: "
            f"leave it out, or train the image tokenizer for pictures of that size"
        )


class Reconstruction(NamedTuple):
    """What a training step needs of the forward pass."""

    images: Tensor
    """(B, 3, H, W), about [-1, 1], not clamped."""
    codes: Tensor
    """(B, h, w) int64."""
    commitment: Tensor
    """Scalar: mean squared distance of the encoder's output to its code."""


class ImageTokenizer(PretrainedModel):
    """Turns pictures into a grid of discrete codes and back. Pictures are uint8 RGB outside, [-1, 1] only in here."""

    config_class = ImageTokenizerConfig
    config: ImageTokenizerConfig
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        c = config
        self.encoder = Encoder(c.image_size, c.patch_size, c.width, c.encoder_depth, c.heads)
        # ViT-VQGAN section 3.2: low-dimensional, l2-normalised lookup. Codes follow the encoder by a moving average;
        # one used less than a tenth of the mean is replaced by a vector of the batch.
        self.quantizer = VectorQuantize(
            c.width,
            c.codebook_size,
            codebook_dim=c.codebook_dim,
            use_cosine_sim=True,
            decay=0.99,
            threshold_ema_dead_code=0.1,
            commitment_weight=1.0,
        )
        self.decoder = Decoder(c.image_size, c.patch_size, c.width, c.decoder_depth, c.heads, c.pixel_width)
        self.register_buffer("latent_mean", torch.zeros(c.codebook_dim))
        self.register_buffer("latent_std", torch.ones(c.codebook_dim))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, path: Any, *, dtype: torch.dtype | None = torch.float32, **kwargs: Any
    ) -> Self:
        """As the base class, but in float32 whatever the file's dtype: in lower precision codes flip."""
        return super().from_pretrained(path, dtype=dtype, **kwargs)

    def _load(self, file: Path) -> None:
        super()._load(file)
        if not (self.latent_std > 0).all():
            raise BadInput(f"{file}: latent_std must be above 0; fetch it again")

    def forward(self, images: Tensor) -> Reconstruction:
        """Float pictures (B, 3, H, W) in [-1, 1] -> their reconstruction, with gradients through the codes."""
        z = self.encoder(images)
        with torch.autocast(z.device.type, enabled=False):  # autocast was seen to change a third of the codes
            quantized, codes, commitment = self.quantizer(rearrange(z.float(), "b h w d -> b (h w) d"))
        h = z.shape[1]
        grid = rearrange(quantized, "b (h w) d -> b h w d", h=h)
        return Reconstruction(self.decoder(grid), rearrange(codes, "b (h w) -> b h w", h=h), commitment)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) uint8 -> codes (B, h, w) int64."""
        return self._nearest(self._lookup_vectors(images))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) int64, h up to the trained grid -> pictures (B, 3, h * p, w * p) uint8."""
        grid = self.config.grid
        if codes.dtype != torch.int64 or codes.ndim != 3 or not self._is_grid(*codes.shape[1:]):
            raise BadInput(
                f"codes are {codes.dtype} of shape {tuple(codes.shape)}: "
                f"must be int64 (B, h, {grid}) with h from 1 to {grid}"
            )
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.config.codebook_size:
            raise BadInput(f"codes must be from 0 to {self.config.codebook_size - 1}")
        return to_uint8(self.decoder(self.quantizer.get_output_from_indices(codes)))

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) uint8 -> the vectors that the lookup compares, standardised, (B, C, h, w) float32."""
        z = (self._lookup_vectors(images) - self.latent_mean) / self.latent_std
        return rearrange(z, "b h w c -> b c h w")

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Standardised latents (B, C, h, w) -> pictures uint8, by the nearest codes: as `decode(encode(.))`."""
        channels, grid = self.config.codebook_dim, self.config.grid
        if latents.ndim != 4 or latents.shape[1] != channels or not self._is_grid(*latents.shape[2:]):
            raise BadInput(
                f"latents of shape {tuple(latents.shape)}: must be (B, {channels}, h, {grid}) with h from 1 to {grid}"
            )
        z = rearrange(latents, "b c h w -> b h w c") * self.latent_std + self.latent_mean
        return self.decode(self._nearest(z))

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Sets the constants that standardise latents from batches of pictures (B, 3, H, W) uint8."""
        z = torch.cat([rearrange(self._lookup_vectors(images), "b h w c -> (b h w) c") for images in batches])
        self.latent_mean.copy_(z.mean(0))
        self.latent_std.copy_(z.std(0).clamp_min(1e-4))

    @torch.no_grad()
    def codebook_statistics(self) -> tuple[Tensor, Tensor]:
        """Share of the codes in use and their perplexity over about the last hundred training steps."""
        counts = self.quantizer._codebook.cluster_size.flatten()
        p = counts / counts.sum().clamp_min(1e-10)
        return (counts > 0.1).float().mean(), torch.exp(torch.special.entr(p).sum())

    @property
    def codes_id(self) -> str:
        """Names what decides the codes, encoder and codebook: two tokenizers with one `codes_id` share their codes."""
        return self._hash(
            "encoder.", "quantizer.project_in.", "quantizer._codebook.embed.", without=("decoder_depth", "pixel_width")
        )

    @property
    def pixels_id(self) -> str:
        """Names what decides the pixels of given codes: codebook and decoder."""
        return self._hash(
            "decoder.", "quantizer.project_out.", "quantizer._codebook.embed.", without=("encoder_depth",)
        )

    def _lookup_vectors(self, images: Tensor) -> Tensor:
        """Pictures uint8 -> unit vectors (B, h, w, C), float32, outside autocast."""
        size = self.config.image_size
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise BadInput(
                f"pictures are {images.dtype} of shape {tuple(images.shape)}: must be uint8 (B, 3, {size}, {size})"
            )
        with torch.autocast(images.device.type, enabled=False):
            z = self.quantizer.project_in(self.encoder(to_float(images)))
        return nn.functional.normalize(z, dim=-1)

    def _nearest(self, z: Tensor) -> Tensor:
        """Vectors (B, h, w, C) -> codes (B, h, w) of the largest inner product, as the quantizer in training."""
        with torch.autocast(z.device.type, enabled=False):
            return (z.float() @ self.quantizer.codebook.T).argmax(-1)

    def _is_grid(self, rows: int, columns: int) -> bool:
        return 1 <= rows <= self.config.grid == columns

    def _hash(self, *parts: str, without: Sequence[str]) -> str:
        """Of the tensors that belong to `parts` and of the config, except its fields that shape none of them."""
        tensors = {name: t for name, t in self.state_dict().items() if f"{name}.".startswith(parts)}
        return fingerprint(stated(self.config, but=without), tensors)


def to_float(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Float [-1, 1], clamped -> uint8 0..255, rounded."""
    return (images.float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
