"""How well a model predicts real pictures: the one figure that needs no sampling.

The two are not of one kind: a token model gives codes a probability, a diffusion model bounds the density of latents.
Each compares models of its own backend on one image tokenizer.
"""

from collections.abc import Sequence
from math import log
from typing import Any

import torch
from torch import Tensor

from diffusion.loss import bits_per_dimension
from diffusion.text import caption_ids
from sampling.pipeline import Bundle
from seq2seq.loss import log_likelihood


@torch.no_grad()
def bits_per_image(bundle: Bundle, captions: Sequence[str], images: Tensor, batch_size: int = 32) -> Tensor:
    """Bits of each picture's true tokens, EOS included, given its caption: uint8 (N, 3, H, W) -> (N,).

    Of one image tokenizer only: other codes are other bits. Raises `BadInput` for a bundle without a token model.
    """
    bundle.require("autoregressive")
    model = bundle.autoregressive
    assert model is not None
    device = model.decoder.rows.device
    bits = []
    for start in range(0, len(images), batch_size):
        tokens = bundle.tokenizer.encode(images[start : start + batch_size].to(device)).flatten(1)
        text = bundle.text.encode(captions[start : start + batch_size]).to(device)
        bits.append(-log_likelihood(model(text, tokens), tokens, model.config.eos).cpu() / log(2))
    return torch.cat(bits)


TIMES = 50
"""Of the variational bound: at most so many stand for all."""


@torch.no_grad()
def bound_per_dimension(bundle: Bundle, captions: Sequence[str], images: Tensor) -> Tensor:
    """The variational bound on each picture's true latents given its caption, bits an element: -> (N,).

    `images`: uint8 (N, 3, H, W). Its noise is fixed by the order of the pictures. Raises `BadInput` for a bundle
    without a diffusion model.
    """
    bundle.require("diffusion")
    model = bundle.diffusion
    assert model is not None
    device, generator = bundle.tokenizer.latent_mean.device, torch.Generator().manual_seed(0)
    bits = []
    for start in range(0, len(images), 32):
        part, said = images[start : start + 32], captions[start : start + 32]
        read = model.caption(caption_ids(model.config.text, bundle.text, said).to(device))
        latents = bundle.tokenizer.latents(part.to(device))

        def denoise(x: Tensor, t: Tensor, read: Any = read) -> Tensor:
            return model.denoise(x, t, read)

        bits.append(bits_per_dimension(denoise, model.process, latents, generator, TIMES).cpu())
    return torch.cat(bits)
