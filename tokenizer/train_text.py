"""Trains the text tokenizer on a corpus's captions: `python -m tokenizer.train_text --data emoji --out FOLDER`."""

from dataclasses import dataclass, field
from pathlib import Path

from data.source import open_source
from tokenizer.text import TextTokenizer, TextTokenizerConfig
from training.cli import command
from training.config import require


@dataclass(kw_only=True)
class TextTrainingOptions:
    """Trains the SentencePiece model on the captions of the training split."""

    data: str = "emoji"
    """`emoji`, or a folder or parquet file of your own pictures."""
    out: Path
    """Folder to write."""
    vocab_size: int = 4096
    """Most pieces to make; fewer when the captions do not hold as many."""
    limit: int | None = None
    """Use only this many pictures' captions."""
    size: int = 64
    """Picture size of the corpus; only decides which prepared copy is read."""
    cache: Path | None = None
    """Folder for prepared pictures; by default the user's cache folder."""
    model: TextTokenizerConfig = field(default_factory=TextTokenizerConfig)
    """Shape of encoded captions."""

    def __post_init__(self) -> None:
        require(self, "vocab_size", 300 <= self.vocab_size <= 256_000, "from 300 (256 are bytes) to 256000")


def main(options: TextTrainingOptions) -> None:
    """Trains, saves, and says where."""
    pictures = open_source(options.data, size=options.size, split="train", cache=options.cache, limit=options.limit)
    captions = [caption for i in range(len(pictures)) for caption in pictures.captions(i)]
    text = TextTokenizer.train(captions, options.vocab_size, options.model)
    text.save_pretrained(options.out)
    print(f"{text.vocab_size} pieces from {len(captions)} captions; the text tokenizer is in {options.out}")


if __name__ == "__main__":
    command(main, TextTrainingOptions)
