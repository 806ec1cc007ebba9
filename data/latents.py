"""A store of latents, on which a diffusion model trains without the pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from data.store import Array, Store
from training.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class LatentsInfo:
    """Describes a store of latents."""

    kind: ClassVar[str] = "latents"

    latents_id: str
    """Id of the latents of the image tokenizer that made them."""
    fingerprint: str
    """Hash of the pictures and captions."""
    channels: int
    """Channels of a latent, C."""
    grid: int
    """Rows of latents in a picture, and latents in a row."""
    views: int
    """Augmented views per picture. The first is the picture itself."""
    seed: int
    """Seed of the augmentation."""

    @property
    def arrays(self) -> Mapping[str, Array]:
        """`latents` (views, C, grid, grid) for each picture, in float16: its error is far smaller than the distance
        between codes, and than the deviation of a posterior."""
        return {"latents": Array("float16", (self.views, self.channels, self.grid, self.grid))}

    @property
    def origin(self) -> dict[str, Any]:
        """What identifies the latents: a run resumes only on the same."""
        return {"latents_id": self.latents_id, "fingerprint": self.fingerprint, "views": self.views, "seed": self.seed}


def require_latents_of(store: Store[LatentsInfo], latents_id: str) -> None:
    """Raises `BadInput` unless the image tokenizer with this `latents_id` made the latents."""
    if latents_id != store.info.latents_id:
        raise BadInput(
            f"{store.folder}: the latents were made by image tokenizer {store.info.latents_id}, but this one is "
            f"{latents_id}: encode the pictures again with it, or give the tokenizer that made them"
        )
