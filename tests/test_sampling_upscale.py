"""`--upscale`: a bundle with an upsampler draws larger pictures, and says with which one."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_readme import ROOT, commands
from test_sampling_generate import Refusal, generate, refusal  # noqa: F401
from tiny_models import save_bundle, save_upsampler
from torch import Tensor

from sampling import load
from sampling.bundle import BundleOptions, assemble
from sampling.generate import GenerateOptions
from tokenizer.upsampler import Upsampler
from tokenizer.upsampler_options import UpsamplerTrainingConfig
from training.command_line import parse
from training.errors import BadInput


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with an upsampler of scale 4; beside it the same one without, `plain`."""
    folder = tmp_path_factory.mktemp("upscale")
    plain = save_bundle(folder / "plain")
    save_upsampler(folder / "upsampler", scale=4)
    backend = [f"autoregressive={plain / 'autoregressive'}"]
    parts = {"text": plain / "text", "tokenizer": plain / "tokenizer", "upsampler": folder / "upsampler"}
    assemble(BundleOptions(**parts, backend=backend, out=folder / "bundle"))
    return folder / "bundle"


def test_the_command_enlarges_what_it_draws(bundle: Path, tmp_path: Path) -> None:
    """Their names and metadata differ from those of small pictures, which stay what they are without an upsampler."""
    ask = ("--prompt", "a fox", "--num_images", "2", "--out", tmp_path)
    images = {}
    for model, upscale in ((bundle, 1), (bundle, 4), (bundle.parent / "plain", 1)):
        generate("--model", model, "--upscale", str(upscale), *ask)
        record = json.loads((tmp_path / "generation.json").read_text())
        images[model.name, upscale] = [image["file"] for image in record["images"]]
        assert record.get("upsampler_id") == (load(bundle).upsampler_id if upscale > 1 else None)
        assert record["options"].get("upscale") == (4 if upscale > 1 else None)
        for image in record["images"]:
            with Image.open(tmp_path / image["file"]) as png:
                assert png.size == (12 * upscale, 12 * upscale)
                assert image["height"] == png.height
                assert png.text.get("upsampler_id") == record.get("upsampler_id")  # type: ignore[attr-defined]
    assert images["bundle", 1] == images["plain", 1]
    assert not set(images["bundle", 1]) & set(images["bundle", 4])


def test_pictures_are_what_the_upsampler_makes_of_the_small_ones(bundle: Path) -> None:
    loaded = load(bundle)
    small = loaded.generate(["a fox"], num_images=3)
    large = loaded.generate(["a fox"], num_images=3, upscale=4, batch_size=2)
    upsampler = Upsampler.from_pretrained(bundle / "upsampler")
    assert all(torch.equal(one, upsampler.upsample(of[None])[0]) for one, of in zip(large, small, strict=True))
    (flat,) = loaded.upscaled([small[0][:, :4]], 4)  # a picture that the model has ended early
    assert (flat.dtype, flat.shape) == (torch.uint8, (3, 16, 48))


def test_pictures_go_to_the_device_of_the_upsampler_and_back(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are drawn on a device and returned on the CPU. On a GPU, `--upscale` failed at the first convolution."""
    loaded, seen = load(bundle), []
    assert loaded.upsampler
    small, upsample = loaded.generate(["a fox"]), loaded.upsampler.upsample

    def elsewhere(images: Tensor) -> Tensor:
        seen.append(images.device)
        large = upsample(images)
        assert large.device == images.device
        return torch.zeros(large.shape, dtype=large.dtype)  # the meta device has no values to bring back

    loaded.upsampler.to("meta")
    monkeypatch.setattr(loaded.upsampler, "upsample", elsewhere)
    (large,) = loaded.upscaled(small, 4)
    assert seen == [torch.device("meta")]
    assert (large.device.type, large.shape) == ("cpu", (3, 48, 48))


def test_the_model_card_names_it(bundle: Path) -> None:
    card, loaded = (bundle / "README.md").read_text(), load(bundle)
    assert f"upsampler_id {loaded.upsampler_id}" in card
    assert " and an upsampler, which fit together" in card.replace("\n", " ")
    assert json.loads((bundle / "bundle.json").read_text())["parts"][-1] == "upsampler"


def test_what_cannot_be_enlarged(bundle: Path, tmp_path: Path, refusal: Refusal) -> None:  # noqa: F811
    plain, ask = bundle.parent / "plain", ("--prompt", "a fox", "--out", tmp_path / "out")
    said = refusal("--model", plain, "--upscale", "4", *ask)
    assert said.startswith("upscale is 4, but this bundle has no upsampler: train one with `accelerate launch ")
    said = refusal("--model", bundle, "--upscale", "2", *ask)
    assert said == "upscale is 2: must be 4, the scale of this bundle's upsampler, or 1 for none"
    assert refusal("--model", bundle, "--upscale", "3", *ask).endswith("upscale is 3: must be 1, 2 or 4")
    assert not (tmp_path / "out").exists()
    with pytest.raises(BadInput, match="this bundle has no upsampler"):
        load(plain).generate(["a fox"], upscale=2)


def test_the_commands_of_the_page_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    three = commands("docs/train.md", "Larger pictures")
    trained, assembled, drawn = (
        parse(options, words[3 if words[0] == "accelerate" else 2 :])
        for options, words in zip((UpsamplerTrainingConfig, BundleOptions, GenerateOptions), three, strict=True)
    )
    assert trained.model.scale == drawn.upscale == 4
    assert assembled.upsampler == Path(trained.out) / "model"


def test_an_upsampler_stays_only_where_it_is_given(bundle: Path, tmp_path: Path) -> None:
    """As every other part: assembling again without it removes its files."""
    parts = {name: bundle / name for name in ("text", "tokenizer", "upsampler")}
    backend, out = [f"autoregressive={bundle / 'autoregressive'}"], tmp_path / "out"
    assemble(BundleOptions(**parts, backend=backend, out=out))
    assert load(out).upsampler_id == load(bundle).upsampler_id
    del parts["upsampler"]
    assemble(BundleOptions(**parts, backend=backend, out=out))
    assert load(out).upsampler is None
    assert not (out / "upsampler").exists()
    with pytest.raises(BadInput, match="nothing: no such folder"):
        assemble(BundleOptions(**parts, upsampler=tmp_path / "nothing", backend=backend, out=out))
