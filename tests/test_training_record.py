"""The record of a finished run."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import training.record
from training.errors import BadInput
from training.options import TrainingConfig
from training.record import FILE, flop_counter, read_record, record, total


def test_flops_of_matrix_products_and_attention() -> None:
    """A forward product takes 2 n m k. Backward takes two such products; attention five where forward has two."""
    a, b = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    with flop_counter() as counter:
        (a @ b).sum().backward()
    assert counter.get_total_flops() == 3 * (2 * 3 * 5 * 7)
    q, k, v = (torch.randn(2, 3, length, 8, requires_grad=True) for length in (5, 9, 9))
    with flop_counter() as counter:
        F.scaled_dot_product_attention(q, k, v).sum().backward()
    assert counter.get_total_flops() == (2 + 5) * (2 * 2 * 3 * 5 * 9 * 8)


def test_shared_heads_of_keys_count_for_each_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before torch 2.12, its formulas demand equal heads: training with `key_heads` stopped in the first step."""

    def strict(count: Callable[..., int]) -> Callable[..., int]:
        def counted(*shapes: Sequence[int]) -> int:
            assert len({shape[1] for shape in shapes}) == 1
            return count(*shapes)

        return counted

    for name in ("sdpa_flop_count", "sdpa_backward_flop_count"):
        monkeypatch.setattr(training.record, name, strict(getattr(training.record, name)))
    q, k, v = (torch.randn(2, heads, length, 8, requires_grad=True) for heads, length in ((6, 5), (2, 9), (2, 9)))
    expected = (2 + 5) * (2 * 2 * 6 * 5 * 9 * 8)
    with flop_counter() as counter:
        F.scaled_dot_product_attention(q, k, v, enable_gqa=True).sum().backward()
    assert counter.get_total_flops() == expected
    for name in ("flash", "efficient", "cudnn"):  # a GPU's
        forward, backward = (
            counter.flop_registry[getattr(torch.ops.aten, f"_scaled_dot_product_{name}_attention{end}")]
            for end in ("", "_backward")
        )
        assert forward(q, k, v, out_val=q) + backward(q, q, k, v, out_val=(q, k, v)) == expected


def test_the_record_of_a_run(tmp_path: Path) -> None:
    """Two log lines of 10 steps, at 8 and 16 pictures/s, take 10 * 4 / 8 + 10 * 4 / 16 seconds. All kinds of lines
    count."""
    lines = [
        {"step": 10, "loss": 2.0, "images_per_second": 8.0, "flops": 10.0, "batch": "a", "precision": "no"},
        {"step": 10, "validation_loss": 3.0},
        {"step": 20, "loss": 1.0, "images_per_second": 16.0, "flops": 20.0, "batch": "b", "precision": "no"},
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = TrainingConfig(data="numbers", out=str(tmp_path), steps=20, batch_size=4, precision="no")
    found = record(config, "accelerate launch it", log, torch.device("cpu"))
    assert found["seconds"] == 7.5
    assert found["pictures"] == 80
    assert found["flops"] == 20.0
    assert found["figures"] == {"loss": 1.0, "validation_loss": 3.0}
    assert found["curves"] == {"loss": [[10.0, 2.0], [20.0, 1.0]], "validation_loss": [[10.0, 3.0]]}
    (tmp_path / FILE).write_text(json.dumps(found))
    assert read_record(tmp_path) == found


def test_a_record_contains_no_private_paths(tmp_path: Path) -> None:
    """It is copied into every bundle and published with it."""
    (tmp_path / "first").mkdir()
    older = {"steps": 1, "batch_size": 1, "data": "/home/me/a", "figures": {}, "command": "x --data /home/me/a"}
    (tmp_path / "first" / FILE).write_text(json.dumps(older))
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "loss": 1.0}\n')
    config = TrainingConfig(data="/home/me/photos", out=str(tmp_path), steps=1, batch_size=1, precision="no")
    command, before = f"accelerate launch it --data=/home/me/photos --out {tmp_path}", read_record(tmp_path / "first")
    found = record(config, command, log, torch.device("cpu"), before)
    assert found["data"] == "photos"
    assert found["command"] == f"accelerate launch it --data=photos --out {tmp_path.name}"
    assert (found["init"]["data"], found["init"]["command"]) == ("a", "x --data a")


def test_long_curves_are_averaged(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    lines = [{"step": i, "loss": i % 2, "images_per_second": 8.0, "flops": 3.0 * i} for i in range(1, 401)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = TrainingConfig(data="numbers", out=str(tmp_path), steps=400, batch_size=4, precision="no")
    curve = record(config, "accelerate launch it", log, torch.device("cpu"))["curves"]["loss"]
    assert len(curve) == 80
    assert curve[-1] == [1200.0, pytest.approx(0.4)]


def test_a_missing_and_a_wrong_record(tmp_path: Path) -> None:
    assert read_record(tmp_path) == {}
    (tmp_path / FILE).write_text('{"steps": 3}')
    with pytest.raises(BadInput, match=r"training.json: not a training record: batch_size is missing"):
        read_record(tmp_path)


def test_costs_include_the_runs_it_started_from() -> None:
    assert total({"flops": 3.0, "init": {"flops": 4.0, "init": {"flops": None}}}, "flops") == 7.0
    assert total({}, "seconds") == 0.0
