"""The plot of loss against compute, from the `training.json` beside each model."""

import json
from pathlib import Path

import pytest
from PIL import Image

from evaluation.curves import CurvesOptions, main
from training.errors import BadInput
from training.record import whole_curves


def bundle(folder: Path, **curves: list[list[float]]) -> Path:
    for name in ("autoregressive", "diffusion"):
        (folder / name).mkdir(parents=True)
    (folder / "bundle.json").write_text(json.dumps({"parts": ["text", "tokenizer", "autoregressive", "diffusion"]}))
    found = {"steps": 2, "batch_size": 4, "data": "emoji", "figures": {}, "flops": 2e15, "curves": curves}
    (folder / "autoregressive" / "training.json").write_text(json.dumps(found))
    return folder


def test_known_curves_are_plotted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = bundle(tmp_path / "bundle", loss=[[1e15, 5.0], [2e15, 4.0]], validation_loss=[])
    main(CurvesOptions(model=model, plot=tmp_path / "plots" / "curves.png"))
    assert "token model: 2 PFLOP, loss 4.000 at the end" in capsys.readouterr().out
    with Image.open(tmp_path / "plots" / "curves.png") as image:
        assert image.width > image.height


def test_the_curve_of_further_training_continues_the_first_one() -> None:
    first = {"flops": 2.0, "curves": {"loss": [[1.0, 5.0], [2.0, 4.0]], "validation_loss": [[2.0, 4.5]]}}
    second = {"flops": 3.0, "init": first, "curves": {"loss": [[3.0, 3.0]], "validation_loss": []}}
    third = {"flops": 1.0, "init": second, "curves": {"loss": [[1.0, 2.0]], "validation_loss": [[1.0, 6.0]]}}
    assert whole_curves(third) == {
        "loss": [[1.0, 5.0], [2.0, 4.0], [5.0, 3.0], [6.0, 2.0]],
        "validation_loss": [[2.0, 4.5], [6.0, 6.0]],
    }
    assert whole_curves({}) == {}


def test_a_bundle_without_curves_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no training\.json beside its models has losses and their compute"):
        main(CurvesOptions(model=bundle(tmp_path / "bundle"), plot=tmp_path / "curves.png"))
