"""Means of the models that a run kept."""

from pathlib import Path

import pytest
import torch
from tiny_models import IMAGES, token_model

from sampling.average import AverageOptions, main, merged
from sampling.card import _training
from seq2seq.model import TokenModel
from tokenizer.image_tokenizer import ImageTokenizer
from training.errors import BadInput
from training.files import write_json
from training.record import FILE as RECORD
from training.record import read_record


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that kept its models of steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("run")
    for step in (2, 4, 6):
        kept = folder / "averages" / f"step-{step:08d}"
        token_model(seed=step).save_pretrained(kept)
        write_json(kept / RECORD, {
            "steps": step, "batch_size": 3, "data": "numbers", "figures": {"loss": 1 / step}, "command": "train",
            "seed": 0, "flops": 1e12 * step,
        })  # fmt: skip
    return folder


@pytest.mark.parametrize("steps", [[], [2, 6], [4, 2, 2]])
def test_every_weight_is_the_mean(run: Path, tmp_path: Path, steps: list[int]) -> None:
    main(AverageOptions(run=run, step=steps, out=tmp_path / "mean"))
    found = TokenModel.from_pretrained(tmp_path / "mean").state_dict()
    kept = [token_model(seed=step).state_dict() for step in steps or (2, 4, 6)]
    for name, tensor in found.items():
        expected = sum(model[name].double() for model in kept) / len(kept)
        torch.testing.assert_close(tensor.double(), expected, rtol=2**-8, atol=1e-6)  # bfloat16


def test_the_record_and_the_card_say_what_was_averaged(run: Path, tmp_path: Path) -> None:
    for steps in ([2, 4], [6, 2]):  # the second time it replaces what it wrote
        main(AverageOptions(run=run, step=steps, out=tmp_path / "mean"))
    record = read_record(tmp_path / "mean")
    assert record == {**read_record(run / "averages" / "step-00000006"), "averaged": [6, 2]}
    assert "6 steps of 3 pictures" in (said := _training("Token model", record))
    assert "The weights are the mean of those after steps 6, 2." in said
    assert "mean" not in _training("Token model", read_record(run / "averages" / "step-00000006"))
    assert merged([{"steps": 4, "flops": 2}, {"steps": 9, "flops": 3}]) == {"steps": 9, "flops": 3, "averaged": [4, 9]}


def test_the_card_tells_runs_in_the_order_in_which_they_were(run: Path) -> None:
    first, second, third = ({**read_record(run / "averages" / "step-00000002"), "data": data} for data in "abc")
    said = _training("Tokenizer", {**third, "init": {**second, "init": first}})
    assert [line[:31] for line in said.splitlines() if line.startswith("**")] == [
        f"**Tokenizer, run {i} of 3**: 2 st" for i in (1, 2, 3)
    ]
    unknown = _training("Tokenizer", {**third, "init": {}})  # it started from weights without a record
    assert "**Tokenizer, run 1 of 2**: unknown" in unknown
    assert "**Tokenizer, run 2 of 2**: 2 steps" in unknown
    assert said.index("pictures of a,") < said.index("pictures of b,") < said.index("pictures of c,")


def test_refusals(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"there are 2, 4, 6$"):
        main(AverageOptions(run=run, step=[2, 5], out=tmp_path / "mean"))
    with pytest.raises(BadInput, match="give two steps or more"):
        main(AverageOptions(run=run, step=[2], out=tmp_path / "mean"))
    with pytest.raises(BadInput, match="none; train with --keep_every"):
        main(AverageOptions(run=tmp_path, out=tmp_path / "mean"))
    with pytest.raises(BadInput, match="holds files that Tessera did not write"):
        main(AverageOptions(run=run, out=run / "averages" / "step-00000002"))
    main(AverageOptions(run=run, out=tmp_path / "mine"))
    (tmp_path / "mine" / "notes.txt").write_text("not Tessera's")
    with pytest.raises(BadInput, match=r"notes\.txt: would be lost with the old folder"):
        main(AverageOptions(run=run, step=[2, 4], out=tmp_path / "mine"))
    assert (tmp_path / "mine" / "notes.txt").read_text() == "not Tessera's"
    for step in (1, 2):
        ImageTokenizer(IMAGES).save_pretrained(tmp_path / "averages" / f"step-{step:08d}")
    with pytest.raises(BadInput, match="holds the model ImageTokenizer; only models that draw"):
        main(AverageOptions(run=tmp_path, out=tmp_path / "mean"))
    assert not (tmp_path / "mean").exists()
