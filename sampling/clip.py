"""CLIP (arXiv 2103.00020) from `transformers`: embeddings of pictures and captions, and how similar they are."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenizer.features import resized
from training.errors import BadInput, reason
from training.hub import SAFELY, TRANSFORMERS_FILES, fetched, load_complete
from training.precision import without_tf32


class Clip:
    """A frozen CLIP from a folder, or from the Hub as `hf://owner/name@commit`."""

    def __init__(self, path: str, device: str | torch.device = "cpu") -> None:
        """Raises `BadInput` if there is no CLIP at `path`."""
        from transformers import AutoTokenizer, CLIPModel

        folder, self.source = fetched(path, TRANSFORMERS_FILES)
        try:
            self.model = load_complete(CLIPModel, folder).eval().to(device)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, **SAFELY)
        except Exception as error:  # `transformers` raises many types for files that it cannot read
            raise BadInput(f"{path}: not a CLIP of transformers ({reason(error)})") from None
        self.size = int(self.model.config.vision_config.image_size)
        self._device = device

    @without_tf32()
    @torch.inference_mode()
    def images(self, pictures: Sequence[Tensor]) -> Tensor:
        """Embed pictures, uint8 (3, H, W) each, of any sizes: (N, D) float32 on the CPU."""
        # the means and deviations of openai/CLIP, clip/clip.py
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], device=self._device).view(3, 1, 1)
        std = torch.tensor([0.26862954, 0.26130258, 0.27577711], device=self._device).view(3, 1, 1)
        x = torch.cat([resized(picture[None].to(self._device), self.size) for picture in pictures])
        pooled = self.model.vision_model(pixel_values=(x / 255 - mean) / std).pooler_output
        return self.model.visual_projection(pooled).float().cpu()

    @without_tf32()
    @torch.inference_mode()
    def texts(self, prompts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Embed prompts, truncated to the model's length: (N, D) float32 on the CPU."""
        parts = []
        for start in range(0, len(prompts), batch_size):
            batch = list(prompts[start : start + batch_size])
            length = self.model.config.text_config.max_position_embeddings
            ids = self._tokenizer(batch, padding=True, truncation=True, max_length=length, return_tensors="pt")
            pooled = self.model.text_model(**ids.to(self._device)).pooler_output
            parts.append(self.model.text_projection(pooled).float().cpu())
        return torch.cat(parts)


@lru_cache(maxsize=1)
def clip_at(path: str, device: str) -> Clip:
    """The CLIP at `path`. The last one used stays in memory."""
    return Clip(path, device)


def clip_similarity(clip: Clip, captions: Sequence[str], pictures: Sequence[Tensor]) -> Tensor:
    """Cosine similarity of each picture, uint8 (3, H, W), and its caption: (N,), from -1 to 1."""
    return F.cosine_similarity(clip.images(pictures), clip.texts(captions))
