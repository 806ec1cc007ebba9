"""The store of image codes: memory-mapped Arrow, so that a token model trains without the pictures."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets.arrow_writer import ArrowWriter
from torch import Tensor

from training.config import from_dict, to_dict
from training.errors import BadInput
from training.files import atomic, remove, write_json
from training.strict_json import read_json


@dataclass(kw_only=True)
class CodeStoreInfo:
    """What the codes of a store are."""

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
    source: str
    """Name of the corpus."""
    fingerprint: str
    """Content hash of the corpus."""

    @property
    def origin(self) -> dict[str, Any]:
        """What a run that goes on must find again."""
        return {"codes_id": self.codes_id, "fingerprint": self.fingerprint, "views": self.views}


@dataclass(kw_only=True)
class CodedPicture:
    """One entry of a store."""

    key: str
    """Id of the picture in its corpus."""
    group: str
    """What it is a variant of; variants share a turn in training."""
    captions: tuple[str, ...]
    """Its captions."""
    codes: Tensor
    """(views, rows, columns) int64."""


class CodeStore:
    """A folder of codes opened for reading."""

    def __init__(self, folder: str | Path) -> None:
        """Raises `BadInput` when `folder` is not a complete code store."""
        self.folder = folder = Path(folder)
        if not (folder / "store.json").is_file():
            raise BadInput(
                f"{folder}: not a code store; write one with `python -m tokenizer.encode --out {folder.parent}`"
            )
        self.info = from_dict(CodeStoreInfo, read_json(folder / "store.json"), folder / "store.json")
        try:
            self._table = datasets.load_from_disk(str(folder / "codes"))
        except Exception as error:  # whatever Arrow raises for a damaged file
            raise BadInput(f"{folder}: a damaged code store ({error}); encode it again") from None
        if self._table.features != _features(self.info):
            raise BadInput(
                f"{folder}: a damaged code store (codes of another shape than store.json says); encode it again"
            )

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> CodedPicture:
        row: dict[str, Any] = self._table[int(index)]
        shape = (self.info.views, self.info.rows, self.info.columns)
        return CodedPicture(
            key=row["key"],
            group=row["group"],
            captions=tuple(row["captions"]),
            codes=torch.tensor(row["codes"]).view(shape),
        )

    @cached_property
    def groups(self) -> list[str]:
        """The group of each picture."""
        return list(self._table["group"])

    def require_tokenizer(self, codes_id: str) -> None:
        """Raises `BadInput` unless the codes were made by the tokenizer with this `codes_id`."""
        if codes_id != self.info.codes_id:
            raise BadInput(
                f"{self.folder}: the codes were made by image tokenizer {self.info.codes_id}, but this one is "
                f"{codes_id}: encode the pictures again with it, or give the tokenizer that made them"
            )


def write_codes(folder: Path, info: CodeStoreInfo, pictures: Iterable[CodedPicture]) -> None:
    """Writes a store whole or not at all; codes as uint16 where they fit. It may replace an older store, but no more.

    Raises `BadInput` when `folder` holds anything else.
    """
    if folder.exists() and not _is_free(folder):
        raise BadInput(f"{folder}: holds something else than a code store; choose another --out")

    with atomic(folder) as temporary:
        temporary.mkdir()
        written = temporary / "rows.arrow"  # row by row: a large corpus' codes need not fit into memory
        with ArrowWriter(path=str(written), features=_features(info)) as writer:
            for picture in pictures:
                codes = picture.codes.flatten().tolist()
                writer.write(
                    {"key": picture.key, "group": picture.group, "captions": list(picture.captions), "codes": codes}
                )
            writer.finalize()
        datasets.Dataset.from_file(str(written)).save_to_disk(str(temporary / "codes"))
        remove(written)
        write_json(temporary / "store.json", to_dict(info))


def _features(info: CodeStoreInfo) -> datasets.Features:
    code = "uint16" if info.codebook_size <= 2**16 else "uint32"
    count = info.views * info.rows * info.columns
    return datasets.Features(
        {
            "key": datasets.Value("string"),
            "group": datasets.Value("string"),
            "captions": datasets.List(datasets.Value("string")),
            "codes": datasets.List(datasets.Value(code), length=count),
        }
    )


def _is_free(folder: Path) -> bool:
    """Whether there is nothing in a folder, or nothing but a store."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    return not names or ("store.json" in names and names <= {"store.json", "codes"})
