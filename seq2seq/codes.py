"""Where a trainer of the token model finds its image codes."""

from pathlib import Path

from data.codes import CodeStore, CodeStoreInfo
from seq2seq.options import TokenTrainingConfig
from tokenizer.encode import EncodeOptions, encode_split, planned
from tokenizer.image_tokenizer import ImageTokenizer
from training.errors import BadInput
from training.run import RunFolder


def code_folder(config: TokenTrainingConfig) -> Path:
    """`config.data` where that holds code stores; else `codes/` in the run folder."""
    given = (Path(config.data) / "train" / "store.json").is_file()
    return Path(config.data) if given else Path(config.out) / "codes"


def encode_once(config: TokenTrainingConfig, run: RunFolder, tokenizer: ImageTokenizer) -> None:
    """Encodes the pictures `config.data` into the run folder, except where their codes are there already.

    Raises `BadInput` when another trainer is in the folder, or one has learnt from other codes there.
    """
    options = EncodeOptions(
        model=Path(config.tokenizer), data=config.data, out=code_folder(config), strict=config.strict,
        cache=config.cache, device=str(next(tokenizer.parameters()).device),
    )  # fmt: skip
    plan = planned(tokenizer, options)
    run.lock()
    run.require_data({split: info.origin for split, (_, info) in plan.items()})
    for split, (pictures, info) in plan.items():
        if not _holds(options.out / split, info):
            encode_split(split, tokenizer, pictures, info, options)


def _holds(folder: Path, info: CodeStoreInfo) -> bool:
    try:
        return CodeStore(folder).info.origin == info.origin
    except BadInput:  # none, or a damaged one
        return False
