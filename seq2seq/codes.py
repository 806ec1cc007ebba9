"""Finds or makes the image codes that the token model is trained on."""

from pathlib import Path

from data.codes import CodesInfo
from data.store import holds_stores
from seq2seq.options import TokenTrainingConfig
from tokenizer.encode import SPLITS, EncodeOptions, codes_with_eos, encode_for_run, plan_codes
from tokenizer.image_tokenizer import ImageTokenizer
from training.run import RunFolder


def code_folders(config: TokenTrainingConfig, run: RunFolder, tokenizer: ImageTokenizer) -> list[Path]:
    """The folders of the stores of both splits: those in `config.data`; or the pictures there are encoded into the run
    folder, unless they have been. For a dry run they are temporary and hold the first pictures.

    Every process must call it, and encodes its share. Raises `BadInput` when another trainer is using the folder, or
    when the run was trained on other codes.
    """
    if holds_stores(config.data, CodesInfo.kind):
        return [Path(config.data) / split for split in SPLITS]
    device = tokenizer.latent_mean.device
    options = EncodeOptions(
        model=Path(config.tokenizer), data=config.data, out=Path(config.out) / "codes", strict=config.strict,
        cache=config.cache, device=str(device), views=config.views,
    )  # fmt: skip
    return encode_for_run(run, plan_codes(tokenizer, options), codes_with_eos(tokenizer), device)
