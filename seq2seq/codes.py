"""Where a trainer of the token model finds its image codes."""

from pathlib import Path

from seq2seq.options import TokenTrainingConfig
from tokenizer.encode import EncodeOptions, encode_corpus
from tokenizer.image_tokenizer import ImageTokenizer


def code_folder(config: TokenTrainingConfig, tokenizer: ImageTokenizer) -> Path:
    """`config.data` where that holds code stores; else `codes/` in the run folder, encoded from the pictures once."""
    if (Path(config.data) / "train" / "store.json").is_file():
        return Path(config.data)
    folder = Path(config.out) / "codes"
    if not (folder / "validation" / "store.json").is_file():  # the last one written
        device = str(next(tokenizer.parameters()).device)
        encode_corpus(
            tokenizer,
            EncodeOptions(
                model=Path(config.tokenizer), data=config.data, out=folder, cache=config.cache, device=device
            ),
        )
    return folder
