"""A store of image codes, on which a token model trains without the pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from data.store import HEAD, Array, Store
from training.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class CodesInfo:
    """Describes a store of codes."""

    kind: ClassVar[str] = "codes"

    codes_id: str
    """The image tokenizer that made them."""
    codebook_size: int
    """Number of different codes."""
    rows: int
    """Rows of codes per picture."""
    columns: int
    """Codes per row: as many as rows, or with a residual quantizer several times as many."""
    views: int
    """Augmented views per picture. The first is the picture itself."""
    seed: int
    """Seed of the augmentation."""
    source: str
    """Name of the pictures."""
    fingerprint: str
    """Hash of the pictures and captions."""

    @property
    def arrays(self) -> Mapping[str, Array]:
        """`codes` (views, rows, columns) for each picture: uint16 if they fit, else uint32.

        Below the last row of a picture that is not as high as wide, they are `codebook_size`, which is EOS.
        """
        dtype = "uint16" if self.codebook_size < 2**16 else "uint32"
        return {"codes": Array(dtype, (self.views, self.rows, self.columns))}

    @property
    def origin(self) -> dict[str, Any]:
        """What identifies the codes: a run resumes only on the same."""
        augmented = {"seed": self.seed} if self.views > 1 else {}
        return {"codes_id": self.codes_id, "fingerprint": self.fingerprint, "views": self.views, **augmented}


def open_codes(folder: Path) -> Store[CodesInfo]:
    """Opens the store of codes in `folder`. Raises `BadInput` if there is none or it is damaged."""
    if not (folder / HEAD).is_file():
        raise BadInput(
            f"{folder}: holds no image codes; write some with `python -m tokenizer.encode --out {folder.parent}`"
        )
    return Store(folder, CodesInfo)


def require_tokenizer(store: Store[CodesInfo], codes_id: str) -> None:
    """Raises `BadInput` unless the image tokenizer with this `codes_id` made the codes."""
    if codes_id != store.info.codes_id:
        raise BadInput(
            f"{store.folder}: the codes were made by image tokenizer {store.info.codes_id}, but this one is "
            f"{codes_id}: encode the pictures again with it, or give the tokenizer that made them"
        )
