"""The benchmark: every variant draws, and the results are consistent. Their values are not tested."""

import json
import sys
from pathlib import Path

import pytest
import torch

from sampling.bench import BenchOptions, bytes_per_step, main
from sampling.bench_linears import variants
from sampling.decode import Sampler
from sampling.options import SamplingOptions
from seq2seq.model import TokenModel, TokenModelConfig
from seq2seq.packed import BF16_ROWS, dtype_at, packing
from training.cli import command


@pytest.mark.slow
def test_it_times_all_variants_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = BenchOptions(
        batch=[1, 2], grid=[2], width=64, depth=1, repeats=1, profile=True, device="cpu",
        json=tmp_path / "figures" / "bench.json", plot=tmp_path / "bench.png", readme=tmp_path / "README.md",
    )  # fmt: skip
    (tmp_path / "README.md").write_text("# Fast\n\n<!-- bench -->\nold\n<!-- /bench -->\n\nThe end.\n")
    main(options)
    head, _, *rows = (tmp_path / "README.md").read_text().split("<!-- bench -->\n")[1].splitlines()
    assert head.startswith("| tokens | pictures at a time | tessera plain |")
    assert [row.split(" | ")[:2] for row in rows[:2]] == [["| 4", "1"], ["| 4", "2"]]
    assert (tmp_path / "README.md").read_text().endswith("<!-- /bench -->\n\nThe end.\n")
    found = json.loads(options.json.read_text())
    assert found["ratios"].keys() == {"1", "2"}
    variants = {row["variant"] for row in found["rows"]}
    assert {"tessera plain", "transformers float32 dynamic", "transformers float32 static"} <= variants
    for batch, ratio in found["ratios"].items():
        times = {row["variant"]: row["ms_per_step"] for row in found["rows"] if row["batch"] == int(batch)}
        ours, theirs = (
            min(time for name, time in times.items() if name.startswith(who)) for who in ("tessera", "transformers")
        )
        assert ratio == pytest.approx(theirs / ours, abs=1e-3)
    for row in found["rows"]:
        assert row["images_per_second"] == pytest.approx(1e3 * row["batch"] / (4 * row["ms_per_step"]))
        if row["variant"].startswith("tessera"):
            assert row["bandwidth_share"] > 0
            assert row["profile_ms_per_step"]
    assert (tmp_path / "bench.png").stat().st_size > 1000
    assert "bench.json" in capsys.readouterr().out


def test_bytes_of_a_step() -> None:
    """One block of width 64: four square matrices of self-attention, two of cross-attention, the MLP, the head."""
    config = TokenModelConfig(
        width=64, mlp_width=128, heads=1, encoder_depth=1, decoder_depth=1, text_vocab_size=9, text_length=5,
        codebook_size=10, grid=2,
    )  # fmt: skip
    model = TokenModel(config).eval()
    for engine, bytes_a_weight in (("plain", 4), ("packed", packing(torch.float32)[1].itemsize)):
        sampler = Sampler(model, engine)  # type: ignore[arg-type]
        text = torch.ones(1, 5, dtype=torch.int64)
        sampler.draw(text, torch.tensor([0]), SamplingOptions(guidance=1.0))
        weights = (4 + 2) * 64 * 64 + 2 * 64 * 128 + 64 * 11
        assert bytes_per_step(sampler, 1) == bytes_a_weight * weights + (2 * (5 + 5) * 64 * 4 + 5) // 2


def test_sizes_out_of_range(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, says in ((["--width", "100"], "a multiple of 64"), (["--batch", "[]"], "numbers of 1 or more")):
        monkeypatch.setattr(sys, "argv", ["bench", *flags])
        with pytest.raises(SystemExit) as left:
            command(main, BenchOptions)
        assert left.value.code == 2
        assert says in capsys.readouterr().err


def test_the_packing_rule_agrees_with_what_was_measured() -> None:
    """In the committed results: never much slower than the fastest dtype that is precise enough."""
    file = Path(__file__).parents[1] / "sampling" / "benchmarks" / "linears-one-core-avx512.json"
    rules = {("float32", "float16"): {1: torch.float16}}
    rules[("float32", "float16", "bfloat16")] = {1: torch.float16, BF16_ROWS: torch.bfloat16}
    for row in json.loads(file.read_text())["rows"]:
        for allowed, rule in rules.items():
            taken = str(dtype_at(row["rows"], rule)).removeprefix("torch.")
            assert row["ms"][taken] <= 1.2 * min(row["ms"][name] for name in allowed)


@pytest.mark.parametrize("name", variants())
def test_variants_of_linear_layers(name: str) -> None:
    """Each multiplies within the rounding that its name promises."""
    torch.manual_seed(0)
    weight, x = torch.randn(40, 32).bfloat16().float(), torch.randn(3, 32)
    found, expected = variants()[name](weight)(x), x @ weight.T
    error = float((found - expected).norm() / expected.norm())
    assert error < {"int8": 2e-2, "bfloat16": 5e-3, "split bfloat16": 2e-5}.get(name, 1e-6)
