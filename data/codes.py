"""Image codes in a store, from which a token model trains without the pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from data.store import HEAD, Array, Store
from training.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class CodesInfo:
    """What a store of codes says of itself."""

    kind: ClassVar[str] = "codes"

    codes_id: str
    """Image tokenizer that made them."""
    codebook_size: int
    """Number of codes there are."""
    rows: int
    """Rows of codes a picture."""
    columns: int
    """Codes a row."""
    views: int
    """Augmented views a picture; the first is the picture itself."""
    seed: int
    """Fixed the augmentation."""
    source: str
    """Name of the corpus."""
    fingerprint: str
    """Content hash of the corpus."""

    @property
    def arrays(self) -> Mapping[str, Array]:
        """The codes of each picture's views, as uint16 where they fit."""
        dtype = "uint16" if self.codebook_size <= 2**16 else "uint32"
        return {"codes": Array(dtype, (self.views, self.rows, self.columns))}

    @property
    def origin(self) -> dict[str, Any]:
        """What a run that goes on must find again."""
        return {"codes_id": self.codes_id, "fingerprint": self.fingerprint, "views": self.views}


def open_codes(folder: Path) -> Store[CodesInfo]:
    """The store of codes in `folder`. Raises `BadInput` where there is none, or not all of one."""
    if not (folder / HEAD).is_file():
        raise BadInput(
            f"{folder}: holds no image codes; write some with `python -m tokenizer.encode --out {folder.parent}`"
        )
    return Store(folder, CodesInfo)


def require_tokenizer(store: Store[CodesInfo], codes_id: str) -> None:
    """Raises `BadInput` unless the codes were made by the image tokenizer with this `codes_id`."""
    if codes_id != store.info.codes_id:
        raise BadInput(
            f"{store.folder}: the codes were made by image tokenizer {store.info.codes_id}, but this one is "
            f"{codes_id}: encode the pictures again with it, or give the tokenizer that made them"
        )
