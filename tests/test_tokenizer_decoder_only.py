"""Training of the decoder alone: codes stay as they were, to the bit, and models that draw them can use it."""

from pathlib import Path

import pytest
import torch
from test_tokenizer_train import Train, _fresh_accelerator, flags, log, train  # noqa: F401
from tiny_models import text_tokenizer, token_model

from sampling.pipeline import Bundle
from seq2seq.model import TokenModelConfig
from tokenizer.image_tokenizer import ImageTokenizer
from training.pretrained import PretrainedModel

SHORT = ("--sample_every", "0", "--checkpoint_every", "3", "--log_every", "1", "--precision", "no")
LARGER = ("--model.backbone.decoder_depth", "2", "--model.backbone.pixel_width", "6")


@pytest.fixture
def init(train: Train, tmp_path: Path) -> Path:  # noqa: F811
    """A tokenizer in float32, as those are that other programs have trained."""
    assert train("--out", tmp_path / "first", "--steps", "3", *SHORT) == 0
    model = ImageTokenizer.from_pretrained(tmp_path / "first" / "model")
    torch.manual_seed(0)
    for tensor in (*model.parameters(), model.latent_mean):
        tensor.data += torch.rand_like(tensor) * 1e-3
    model.save_pretrained(tmp_path / "init")
    return tmp_path / "init"


def frozen(model: PretrainedModel) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("decoder.")}


@pytest.mark.parametrize("shape", [(), LARGER], ids=["same decoder", "larger decoder"])
def test_codes_stay_and_pixels_change(init: Path, train: Train, tmp_path: Path, shape: tuple[str, ...]) -> None:  # noqa: F811
    out = tmp_path / "second"
    given = ("--decoder_only", "true", "--init", init, *shape, *SHORT)
    assert train("--out", out, "--steps", "3", *given) == 0
    assert train("--out", out, "--steps", "6", *given) == 0  # resumed
    before, after = ImageTokenizer.from_pretrained(init), ImageTokenizer.from_pretrained(out / "model")
    assert frozen(before).keys() == frozen(after).keys()
    assert all(torch.equal(tensor, frozen(after)[name]) for name, tensor in frozen(before).items())
    assert after.codes_id == before.codes_id
    assert after.pixels_id != before.pixels_id
    on_disk = ImageTokenizer.from_pretrained(out / "model", dtype=None)
    assert {p.dtype for p in on_disk.decoder.parameters()} == {torch.bfloat16}
    first, *_, last = (line["l1"] for line in log(out) if "l1" in line)
    assert last < first

    config = TokenModelConfig(
        width=32, mlp_width=64, heads=2, encoder_depth=1, decoder_depth=1, text_vocab_size=text_tokenizer().vocab_size,
        codebook_size=32, grid=2, codes_id=before.codes_id, text_id=text_tokenizer().text_id,
    )  # fmt: skip
    for tokenizer in (before, after):  # the token model was trained for the first one
        bundle = Bundle(text=text_tokenizer(), tokenizer=tokenizer, models={"autoregressive": token_model(config)})
        (picture,) = bundle.generate(["a fox"])
        assert (picture.dtype, picture.shape) == (torch.uint8, (3, 16, 16))


def test_a_decoder_of_the_same_shape_starts_as_it_was(init: Path, train: Train, tmp_path: Path) -> None:  # noqa: F811
    tiny = ("--steps", "1", "--optimizer.learning_rate", "1e-12", "--optimizer.muon_learning_rate", "0", *SHORT)
    assert train("--out", tmp_path / "second", "--decoder_only", "true", "--init", init, *tiny) == 0
    before, after = ImageTokenizer.from_pretrained(init), ImageTokenizer.from_pretrained(tmp_path / "second" / "model")
    for name, tensor in before.decoder.state_dict().items():
        assert torch.equal(tensor.bfloat16().float(), after.decoder.state_dict()[name])


def test_what_shapes_the_codes_must_be_equal(
    init: Path,
    train: Train,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "second"
    assert train("--out", out, "--decoder_only", "true") == 2
    assert "TokenizerTrainingConfig.decoder_only is True: must be false without init" in capsys.readouterr().err
    given = ("--out", out, "--decoder_only", "true", "--init", init)
    for flag, value, said in (
        ("backbone.encoder_depth", "2", "backbone.encoder_depth: 1 there, 2 here"),
        ("quantizer.size", "64", "quantizer.size: 32 there, 64 here"),
    ):
        assert train(*given, f"--model.{flag}", value) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line == f"error: {init}: not a model to start from ({said})"
    assert not out.exists()
