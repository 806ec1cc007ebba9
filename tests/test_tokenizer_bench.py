"""The benchmark of image tokenizers."""

import json
from pathlib import Path

import pytest

from tokenizer.bench import TokenizerBenchOptions, main
from training.command_line import parse


def test_rows_and_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = "--size 16 --conv.channels 8 --conv.multipliers 1,2 --conv.attention 1 --conv.groups 4 --conv.width 8"
    more = f"--vq.size 16 --vq.dim 8 --batch 1,2 --repeats 1 --device cpu --json {tmp_path / 'bench.json'}"
    main(parse(TokenizerBenchOptions, [*small.split(), *more.split()]))
    rows = {(row["tokenizer"], row["batch"]): row for row in json.loads((tmp_path / "bench.json").read_text())["rows"]}
    assert len(rows) == 8
    codebook = 16 * 8  # a parameter of theirs
    assert rows["conv", 1]["parameters"] == rows["diffusers", 1]["parameters"] - codebook
    for batch in (1, 2):
        assert rows["conv, recompute", batch]["kept"] < rows["conv", batch]["kept"] / 2
        assert 0.3 < rows["conv", batch]["kept"] / rows["diffusers", batch]["kept"] < 1.5
    assert rows["conv", 2]["kept"] > 1.5 * rows["conv", 1]["kept"]
    assert "conv, batch 2: times as fast as diffusers: step " in capsys.readouterr().out
