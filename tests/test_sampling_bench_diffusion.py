"""The diffusion benchmark: every variant draws, and the results are consistent."""

import json
from pathlib import Path

import pytest
from tiny_models import add_diffusion, save_bundle

from sampling.bench_diffusion import DiffusionBenchOptions, main
from training.errors import BadInput


@pytest.mark.slow
def test_both_backends_and_both_loops_in_one_run(tmp_path: Path) -> None:
    options = DiffusionBenchOptions(
        model=str(add_diffusion(save_bundle(tmp_path / "bundle"))), batch=[1, 2], steps=[1, 2], repeats=1,
        device="cpu", json=tmp_path / "bench.json", readme=tmp_path / "README.md",
    )  # fmt: skip
    (tmp_path / "README.md").write_text("<!-- bench-diffusion -->\nold\n<!-- /bench-diffusion -->\n")
    main(options)
    found = json.loads(options.json.read_text())
    assert [row["variant"] for row in found["rows"] if row["batch"] == 2] == [
        "autoregressive", "diffusion, 1 steps", "diffusion, 2 steps", "tessera, 1 steps", "plain diffusers, 1 steps",
    ]  # fmt: skip
    for batch, ratio in found["ratios"].items():
        ours, theirs = (row["seconds"] for row in found["rows"] if row["batch"] == int(batch) and row["of"] == "U-Net")
        assert ratio == pytest.approx(theirs / ours, abs=1e-3)
    lines = (tmp_path / "README.md").read_text().splitlines()
    assert lines[1] == "| images/s | 1 at a time | 2 at a time |"
    assert len(lines) == 1 + 2 + 5 + 2 + 1


def test_a_bundle_with_one_backend(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="this bundle has no diffusion part"):
        main(DiffusionBenchOptions(model=str(save_bundle(tmp_path)), json=tmp_path / "bench.json"))
