"""Finds or makes the image codes that the token model is trained on."""

from pathlib import Path

from data.store import HEAD
from seq2seq.options import TokenTrainingConfig
from tokenizer.encode import EncodeOptions, codes_with_eos, encode_for_run, plan_codes
from tokenizer.image_tokenizer import ImageTokenizer
from training.run import RunFolder


def code_folder(config: TokenTrainingConfig) -> Path:
    """The folder of the stores of codes: `config.data` if it holds them, else `codes/` in the run folder."""
    given = (Path(config.data) / "train" / HEAD).is_file()
    return Path(config.data) if given else Path(config.out) / "codes"


def encode_once(config: TokenTrainingConfig, run: RunFolder, tokenizer: ImageTokenizer) -> list[Path]:
    """Encode the pictures of `config.data` into the run folder, unless their codes are there already.

    Returns the folders of the stores of both splits. For a dry run they are temporary and hold the first pictures.

    Every process must call it, and encodes its share. Raises `BadInput` when another trainer is using the folder, or
    when the run was trained on other codes.
    """
    device = tokenizer.latent_mean.device
    options = EncodeOptions(
        model=Path(config.tokenizer), data=config.data, out=code_folder(config), strict=config.strict,
        cache=config.cache, device=str(device), views=config.views,
    )  # fmt: skip
    return encode_for_run(run, plan_codes(tokenizer, options), codes_with_eos(tokenizer), device)
