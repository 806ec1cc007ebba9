"""How well a token model predicts real pictures: the one figure that needs no sampling."""

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor

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
