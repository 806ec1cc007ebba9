"""The diffusion benchmark: every variant draws, and the figures add up."""

import json
from pathlib import Path

import pytest
import torch
from tiny_models import add_diffusion, save_bundle

from diffusion.model import DiffusionModel, DiffusionModelConfig
from diffusion.unet import ReadOnce, UNet
from sampling.bench_diffusion import DiffusionBenchOptions, main
from training.errors import BadInput


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


def test_the_unet_reads_a_caption_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says what the attention of `diffusers` says, to a second caption too, and in training."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    torch.manual_seed(0)
    model = DiffusionModel(DiffusionModelConfig(denoiser="unet", channels=4)).eval()
    assert isinstance(model.denoiser, UNet)
    for parameter in model.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([300.0, 900.0])
    layers = [layer for name, layer in model.denoiser.net.named_modules() if name.endswith("attn2.to_k")]
    calls = []
    for layer in layers:
        layer.register_forward_hook(lambda *_: calls.append(1))
    texts = [torch.randint(4, 2000, (2, 9)) for _ in range(2)]
    with torch.no_grad():
        captions = [model.caption(text) for text in texts]
        ours = [model.denoise(x, t, caption) for caption in captions for _ in range(3)]
    assert len(calls) == 2 * len(layers)
    in_training = model.denoise(x, t, captions[1])
    in_training.sum().backward()
    assert len(calls) == 3 * len(layers)
    processors = model.denoiser.net.attn_processors
    assert sum(isinstance(processor, ReadOnce) for processor in processors.values()) == len(layers)
    model.denoiser.net.set_attn_processor(AttnProcessor2_0())
    with torch.no_grad():
        theirs = [model.denoise(x, t, caption) for caption in captions for _ in range(3)]
    for a, b in zip([*ours, in_training], [*theirs, theirs[-1]], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
