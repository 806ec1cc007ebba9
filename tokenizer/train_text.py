"""Trains the text tokenizer on the captions of a corpus: `python -m tokenizer.train_text --data emoji --out FOLDER`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from data.source import open_source
from tokenizer.text import TextTokenizer, TextTokenizerConfig
from training.cli import command
from training.config import require
from training.errors import BadInput
from training.files import atomic


@dataclass(kw_only=True)
class TextTrainingOptions:
    """Trains the SentencePiece model on the captions of the training split."""

    presets: ClassVar = "text"

    data: str = "emoji"
    """`emoji`, `scenes`, or your own pictures: a folder, a parquet or tar file, `labels:FOLDER`, or
    `hf://datasets/owner/name`. Several are joined by `+`."""
    out: Path
    """Folder to write."""
    vocab_size: int = 4096
    """Largest number of pieces. There are fewer when the captions do not contain as many."""
    limit: int | None = None
    """Use the captions of at most this many pictures."""
    size: int = 64
    """Size of the corpus's pictures in pixels. It only selects the prepared copy to read captions from."""
    cache: Path | None = None
    """Folder for prepared pictures; by default the user's cache folder."""
    model: TextTokenizerConfig = field(default_factory=TextTokenizerConfig)
    """Shape of encoded captions."""

    def __post_init__(self) -> None:
        require(self, "vocab_size", 300 <= self.vocab_size <= 256_000, "from 300 (256 are bytes) to 256000")


def main(options: TextTrainingOptions) -> None:
    """Train and save a text tokenizer. Raises `BadInput` where `out` holds anything but this text tokenizer."""
    _require_free(options.out)
    pictures = open_source(options.data, size=options.size, split="train", cache=options.cache, limit=options.limit)
    captions = [caption for i in range(len(pictures)) for caption in pictures.captions(i)]
    text = TextTokenizer.train(captions, options.vocab_size, options.model)
    if options.out.is_dir() and any(options.out.iterdir()):
        there = TextTokenizer.from_pretrained(options.out).text_id
        if there != text.text_id:
            raise BadInput(
                f"{options.out}: holds the text tokenizer {there}, and these captions make another, {text.text_id}; "
                "models may depend on it, so choose another --out"
            )
    with atomic(options.out) as temporary:
        text.save_pretrained(temporary)
    print(f"{text.vocab_size} pieces from {len(captions)} captions; the text tokenizer is in {options.out}")


def _require_free(out: Path) -> None:
    """Raise `BadInput` unless `out` is empty or holds only a text tokenizer, before time is spent on training."""
    if out.is_dir() and any(out.iterdir()):
        others = {file.name for file in out.iterdir()} - {"config.json", "spiece.model"}
        if others:
            raise BadInput(f"{out}: holds something other than a text tokenizer ({min(others)}); choose another --out")
        TextTokenizer.from_pretrained(out)


if __name__ == "__main__":
    command(main, TextTrainingOptions)
