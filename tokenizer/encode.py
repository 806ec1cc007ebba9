"""Encodes a corpus once: `python -m tokenizer.encode --model RUN/model --data emoji --out FOLDER`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from data.codes import CodedPicture, CodeStoreInfo, write_codes
from data.source import CaptionedImages, open_source
from tokenizer.augment import augmented
from tokenizer.image_tokenizer import ImageTokenizer
from training.cli import command
from training.config import require


@dataclass(kw_only=True)
class EncodeOptions:
    """Writes one code store a split: `OUT/train`, `OUT/validation`."""

    model: Path
    """Image tokenizer: a model folder or `hf://owner/name`."""
    out: Path
    """Folder to write."""
    data: str = "emoji"
    """`emoji`, or a folder or parquet file of your own pictures."""
    views: int = 4
    """Views of a training picture, itself and small shifts and zooms of it. Other splits have one."""
    batch_size: int = 64
    """Pictures encoded at a time."""
    limit: int | None = None
    """Encode only this many pictures a split."""
    seed: int = 0
    """Fixes the shifts and zooms."""
    strict: bool = False
    """Stop at an unreadable picture; otherwise it is skipped and listed."""
    cache: Path | None = None
    """Folder for prepared pictures; by default the user's cache folder."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to encode."""

    def __post_init__(self) -> None:
        for name in ("views", "batch_size"):
            require(self, name, getattr(self, name) >= 1, "1 or more")
        require(self, "seed", 0 <= self.seed < 2**31, "from 0 to 2147483647")


def main(options: EncodeOptions) -> None:
    """Encodes the training and validation splits."""
    encode_corpus(ImageTokenizer.from_pretrained(options.model, device=options.device), options)


def encode_corpus(model: ImageTokenizer, options: EncodeOptions) -> None:
    """Writes the stores of both splits with `model`, wherever it came from."""
    for split, (pictures, info) in planned(model, options).items():
        encode_split(split, model, pictures, info, options)


def planned(model: ImageTokenizer, options: EncodeOptions) -> dict[str, tuple[CaptionedImages, CodeStoreInfo]]:
    """By split, the pictures to encode and what their store is going to be."""
    plan: dict[str, tuple[CaptionedImages, CodeStoreInfo]] = {}
    for split, views in (("train", options.views), ("validation", 1)):
        pictures = open_source(
            options.data, size=model.config.image_size, split=split,
            cache=options.cache, strict=options.strict, limit=options.limit,
        )  # fmt: skip
        info = CodeStoreInfo(
            codes_id=model.codes_id, codebook_size=model.config.codebook_size, rows=model.config.grid,
            columns=model.config.grid, views=views, source=pictures.name, fingerprint=pictures.fingerprint,
        )  # fmt: skip
        plan[split] = pictures, info
    return plan


def encode_split(
    split: str, model: ImageTokenizer, pictures: CaptionedImages, info: CodeStoreInfo, options: EncodeOptions
) -> None:
    """Writes the store of one split."""
    write_codes(options.out / split, info, encoded(model, pictures, info.views, options))
    print(f"{len(pictures)} pictures x {info.views} views are in {options.out / split}")


def encoded(
    model: ImageTokenizer, pictures: CaptionedImages, views: int, options: EncodeOptions
) -> Iterator[CodedPicture]:
    """The entries of a store, in the order of the corpus."""
    generator = torch.Generator().manual_seed(options.seed)
    for start in tqdm(range(0, len(pictures), options.batch_size), desc=f"encoding {pictures.name}", unit="batch"):
        indices = range(start, min(start + options.batch_size, len(pictures)))
        images = torch.stack([pictures[i] for i in indices])
        seen = [images, *(augmented(images, generator) for _ in range(views - 1))]
        codes = torch.stack([model.encode(view.to(options.device)).cpu() for view in seen], dim=1)
        for i, picture_codes in zip(indices, codes, strict=True):
            yield CodedPicture(
                key=pictures.key(i), group=pictures.group(i), captions=pictures.captions(i), codes=picture_codes
            )


if __name__ == "__main__":
    command(main, EncodeOptions)
