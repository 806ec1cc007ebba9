"""Training of the decoder alone, on the codes of another image tokenizer (Parti, arXiv 2206.10789, section 2.1)."""

from pathlib import Path

import torch
from torch import nn

from tokenizer.image_tokenizer import ImageTokenizer
from training.pretrained import exported, startable


def start_decoder(model: ImageTokenizer, init: Path) -> None:
    """Take all weights of the image tokenizer `init`, and freeze all of them but the decoder's.

    A decoder of another shape keeps its own weights. Raises `BadInput` where the configs differ in any option that does
    not affect the decoder alone.
    """
    other = startable(model, init, free=model.config.options("pixels_only"))
    if _shapes(other.decoder) != _shapes(model.decoder):
        other.decoder = model.decoder
    model.load_state_dict(other.state_dict())
    model.freeze_codes()


def export_decoder(average: ImageTokenizer, folder: Path) -> None:
    """Write `average` into `folder`, its decoder in bfloat16, and all else without any change of a value."""
    average.decoder.load_state_dict(exported(average.decoder))
    for tensor in (*average.parameters(), *average.buffers()):
        if tensor.is_floating_point() and torch.equal(tensor, tensor.bfloat16().to(tensor.dtype)):
            tensor.data = tensor.bfloat16()
    average.save_pretrained(folder)


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}
