"""The likelihood of real pictures, against sums over single tokens and single times."""

import math

import pytest
import torch
from tiny_models import IMAGES, add_diffusion, save_bundle
from torch import Tensor

from diffusion.loss import bits_per_dimension
from diffusion.text import caption_ids
from sampling.pipeline import Bundle, load
from training.errors import BadInput

CAPTIONS = ["a noto emoji of a fox", "a twemoji emoji of a cat", "a cat"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = save_bundle(tmp_path_factory.mktemp("bundle"))
    with pytest.raises(BadInput, match="has no diffusion part"):
        load(folder).backend("diffusion")
    return load(add_diffusion(folder))


def pictures() -> Tensor:
    shape = (3, 3, IMAGES.image_size, IMAGES.image_size)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_bits_of_a_picture_are_the_sum_over_its_tokens(bundle: Bundle) -> None:
    found = bundle.backend("autoregressive").likelihood(CAPTIONS, pictures())
    model = bundle.backend("autoregressive").model
    text = bundle.text.encode(CAPTIONS)
    for n, tokens in enumerate(bundle.tokenizer.encode(pictures()).flatten(1)):
        bits = 0.0
        for t, token in enumerate([*tokens.tolist(), model.config.eos]):
            so_far = torch.where(torch.arange(len(tokens)) < t, tokens, 0)  # of what is to come, nothing
            with torch.no_grad():
                said = model(text[n : n + 1], so_far[None])[0, t]
            bits -= said.double().log_softmax(0)[token].item() / math.log(2)
        assert found[n].item() == pytest.approx(bits, rel=1e-4)
    alone = bundle.backend("autoregressive").likelihood(CAPTIONS[:1], pictures()[:1])
    torch.testing.assert_close(alone, found[:1])


def test_the_bound_uses_each_picture_with_its_caption_over_all_times(bundle: Bundle) -> None:
    found = bundle.backend("diffusion").likelihood(CAPTIONS, pictures())
    model = bundle.backend("diffusion").model
    latents = bundle.tokenizer.latents(pictures())
    ids = caption_ids(model.config.text, bundle.text, CAPTIONS)
    with torch.no_grad():
        draws = [
            bits_per_dimension(
                lambda x, t: model(x, t, ids), model.process, latents, torch.Generator().manual_seed(seed)
            )
            for seed in range(4)
        ]
    # a picture has 36 elements, so the noise alone changes its bound by 0.3
    assert found.mean().item() == pytest.approx(torch.stack(draws).mean().item(), abs=0.4)
    other = bundle.backend("diffusion").likelihood(CAPTIONS[::-1], pictures())
    assert (found != other).tolist() == [True, False, True]  # each by its own caption, and the same noise
