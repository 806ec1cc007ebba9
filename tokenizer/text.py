"""The text tokenizer: captions <-> ids, a SentencePiece model (arXiv 1808.06226) trained on the corpus's captions."""

import hashlib
import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
import torch
from torch import Tensor

from training.config import MAX_WIDTH, from_dict, require, to_dict
from training.errors import BadInput
from training.files import write_bytes, write_json
from training.hub import fetched
from training.strict_json import read_bytes, read_json

SPECIAL_IDS = 4
"""Number of special ids; those of pieces follow."""
PAD, EOS, NULL, UNKNOWN = range(SPECIAL_IDS)
"""Ids of the special pieces. SentencePiece requires `UNKNOWN`, but with byte fallback it is never used."""


class CaptionCut(UserWarning):
    """A caption is longer than the model can read, so that its end is cut off."""


@dataclass(kw_only=True)
class TextTokenizerConfig:
    """Shape of encoded captions."""

    max_length: int = 64
    """Ids in an encoded caption, with its end mark. Captions are padded or cut to this."""

    def __post_init__(self) -> None:
        require(self, "max_length", 2 <= self.max_length <= MAX_WIDTH, f"from 2 to {MAX_WIDTH}")


class TextTokenizer:
    """Maps captions to ids, and back. Byte fallback encodes any text, so that no input is unknown."""

    def __init__(self, config: TextTokenizerConfig, spiece: bytes) -> None:
        if not spiece:
            raise RuntimeError("no model")  # SentencePiece would load it as a model without pieces
        self.config = config
        self._spiece = spiece
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=spiece)

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int, config: TextTokenizerConfig) -> "TextTokenizer":
        """Train a unigram model of at most `vocab_size` pieces.

        Raises `BadInput` when there is no caption, or more letters than pieces.
        """
        captions = sorted({caption.strip() for caption in captions} - {""})  # so that their order does not matter
        if not captions:
            raise BadInput("there is no caption to train the text tokenizer on")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(captions), model_writer=model, model_type="unigram", vocab_size=vocab_size,
                hard_vocab_limit=False, byte_fallback=True, character_coverage=1.0,
                normalization_rule_name="identity", max_sentence_length=100_000, num_threads=1, minloglevel=2,
                pad_id=PAD, eos_id=EOS, unk_id=UNKNOWN, bos_id=-1, control_symbols=["<null>"],
                pad_piece="<pad>", eos_piece="</s>", unk_piece="<unk>",
            )  # fmt: skip
        except (RuntimeError, OSError) as error:
            reason = str(error).splitlines()[-1]
            raise BadInput(f"SentencePiece cannot make {vocab_size} pieces of these captions ({reason})") from None
        return cls(config, model.getvalue())

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "TextTokenizer":
        """Load a folder of `config.json` and `spiece.model`, or a model on the Hub, `hf://owner/name@commit`.

        Raises `BadInput` when a file is missing or damaged.
        """
        folder, _ = fetched(path, ("config.json", "spiece.model"))
        values = read_json(folder / "config.json")
        if values.pop("model", None) != cls.__name__:
            raise BadInput(f"{folder / 'config.json'}: does not describe a text tokenizer")
        config = from_dict(TextTokenizerConfig, values, folder / "config.json")
        file = folder / "spiece.model"
        if not file.is_file():
            raise BadInput(f"{folder}: has no spiece.model, so it is not a complete text tokenizer")
        try:
            return cls(config, read_bytes(file, max_bytes=2**26))
        except RuntimeError:
            raise BadInput(f"{file}: not a complete SentencePiece model") from None

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `spiece.model` into `folder`, which may hold other files."""
        write_bytes(Path(folder) / "spiece.model", self._spiece)
        write_json(Path(folder) / "config.json", {"model": type(self).__name__, **to_dict(self.config)})

    @property
    def vocab_size(self) -> int:
        """Number of ids, with the special ones."""
        return int(self._pieces.get_piece_size())

    @property
    def text_id(self) -> str:
        """Hash of the model: text tokenizers with the same `text_id` give the same ids."""
        return hashlib.sha256(self._spiece + str(self.config.max_length).encode()).hexdigest()[:16]

    def encode(self, captions: Sequence[str | None]) -> Tensor:
        """Captions -> ids (B, max_length) int64, padded with `PAD`; `None` is the null caption.

        Cuts a caption that is too long, with the warning `CaptionCut`. Raises `BadInput` for half a surrogate pair.
        """
        ids = torch.full((len(captions), self.config.max_length), PAD)
        for row, caption in zip(ids, captions, strict=True):
            pieces = [NULL] if caption is None else self._fitting(caption)
            row[: len(pieces)] = torch.tensor(pieces)
        return ids

    def decode(self, ids: Tensor) -> list[str]:
        """Ids (B, L) -> captions, without special ids."""
        return [self._pieces.decode([i for i in row if i > UNKNOWN]) for row in ids.tolist()]

    def _fitting(self, caption: str) -> list[int]:
        try:
            pieces = self._pieces.encode(caption)
        except (RuntimeError, TypeError):  # by the version of SentencePiece
            raise BadInput(f"{caption!r} is not text: it contains half of a surrogate pair") from None
        room = self.config.max_length - 1
        if len(pieces) > room:
            kept = self._pieces.decode(pieces[:room])
            warnings.warn(
                CaptionCut(f"a caption of {len(pieces)} pieces is cut to {room}, after '{kept[-40:]}'"), stacklevel=3
            )
        return [*pieces[:room], EOS]


def trim_padding(ids: Tensor) -> Tensor:
    """Cut columns that are all padding: ids (B, L) -> (B, length of the longest caption).

    Models mask padding, so that these columns only cost time. Call it before ids go to a GPU: it reads their values.
    """
    return ids[:, : int((ids != PAD).sum(1).max())]
