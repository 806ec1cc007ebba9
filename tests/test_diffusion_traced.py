"""Two optimisations of sampling: captions are read once, and denoisers are traced."""

import copy

import pytest
import torch

from diffusion.condition import CaptionCache
from diffusion.dit import DiTConfig
from diffusion.model import DiffusionModel, DiffusionModelConfig
from diffusion.traced import TracedDenoiser, with_traced_denoiser
from diffusion.unet import AttentionProcessor, UNet, UNetConfig

UNET = UNetConfig(channels=(32, 64), layers=1)


def model(denoiser: str) -> DiffusionModel:
    """A model with random weights: an untrained one predicts zero."""
    torch.manual_seed(0)
    config = DiffusionModelConfig(denoiser=denoiser, channels=4, dit=DiTConfig(depth=2), unet=UNET)  # type: ignore[arg-type]
    made = DiffusionModel(config).eval()
    for parameter in made.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return made


def test_the_unet_reads_a_caption_once() -> None:
    """It computes what the attention of `diffusers` computes, also for a second caption, and in training."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    ours = model("unet")
    assert isinstance(ours.denoiser, UNet) and ours.text is not None
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([300.0, 900.0])
    layers = [layer for name, layer in ours.denoiser.net.named_modules() if name.endswith("attn2.to_k")]
    calls = []
    for layer in layers:
        layer.register_forward_hook(lambda *_: calls.append(1))
    texts = [torch.randint(4, 2000, (2, 9)) for _ in range(2)]
    with torch.no_grad():
        captions = [CaptionCache(text) for text in texts]
        said = [ours(x, t, caption) for caption in captions for _ in range(3)]
    assert len(calls) == 2 * len(layers)
    in_training = ours(x, t, texts[1])
    in_training.sum().backward()
    assert all(layer.weight.grad.any() for layer in layers)
    net = ours.denoiser.net
    processors = net.attn_processors.values()
    assert sum(isinstance(one, AttentionProcessor) and one.number is not None for one in processors) == len(layers)
    net.set_attn_processor(AttnProcessor2_0())
    with torch.no_grad():
        theirs = [
            net(x, t, ours.project(ours.text(text)[0]), timestep_cond=caption.pooled).sample
            for text, caption in zip(texts, captions, strict=True)
            for _ in range(3)
        ]
    for a, b in zip([*said, in_training], [*theirs, theirs[-1]], strict=True):
        assert b.abs().max() > 1e-3
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("denoiser", ["dit", "unet"])
def test_a_traced_denoiser_predicts_the_same(denoiser: str) -> None:
    """Also for other captions, caption lengths and batch sizes than those it was traced with."""
    plain = model(denoiser)
    quick = with_traced_denoiser(plain)
    for batch, length in ((2, 9), (3, 9), (1, 4), (2, 9)):
        x, t = torch.randn(batch, 4, 8, 8), torch.rand(batch) * 1000
        text = torch.randint(4, 2000, (batch, length))
        text[0, length - 1] = 0  # padding
        with torch.no_grad():
            expected, caption = plain(x, t, text), CaptionCache(text)
            assert expected.abs().max() > 1e-3
            for _ in range(4):
                torch.testing.assert_close(quick(x, t, caption), expected, atol=1e-5, rtol=1e-5)
    assert isinstance(quick.denoiser, TracedDenoiser)
    assert isinstance(quick.denoiser.traced.traces[None], torch.jit.ScriptModule)
    plain.train()
    plain(x, t, text).sum().backward()


@torch.no_grad()
def test_a_traced_transformer_is_as_precise_in_bfloat16() -> None:
    """Its norms round in other places, but not more."""
    exact = model("dit")
    plain = copy.deepcopy(exact).to(torch.bfloat16)
    x, t, text = torch.randn(4, 4, 8, 8), torch.rand(4) * 1000, torch.randint(4, 2000, (4, 9))
    quick, caption, expected = with_traced_denoiser(plain), CaptionCache(text), exact(x, t, text)
    quick(x, t, caption)  # reads the captions and is not traced
    errors = [(made - expected).square().mean() for made in (plain(x, t, text), quick(x, t, caption))]
    assert 0 < errors[1] < 1.5 * errors[0]
