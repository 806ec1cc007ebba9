"""Pictures for two control rows: reconstructions of real pictures, and training pictures with the nearest caption."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from evaluation.features import Pictures, batches
from tokenizer.image_tokenizer import ImageTokenizer
from training.errors import needing

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def reconstructed(model: ImageTokenizer, pictures: Pictures, batch_size: int = 32) -> Tensor:
    """Encode and decode pictures with the image tokenizer: uint8 (N, 3, H, W)."""
    device = model.latent_mean.device
    return torch.cat([model.reconstruct(part.to(device)).cpu() for part in batches(pictures, batch_size)])


def nearest_captions(prompts: Sequence[str], captions: Sequence[str]) -> list[int]:
    """The index of the caption nearest to each prompt, by cosine similarity of TF-IDF vectors; of equal ones the first.

    The weight of a word that df of n captions have is 1 + log((1 + n) / (1 + df)).
    """
    vocabulary = {word: i for i, word in enumerate(sorted({word for text in captions for word in _words(text)}))}
    of_captions, of_prompts = _counts(captions, vocabulary), _counts(prompts, vocabulary)
    frequency = np.asarray((of_captions > 0).sum(0)).ravel()
    weights = 1 + np.log((1 + len(captions)) / (1 + frequency))
    of_prompts, of_captions = _normalised(of_prompts * weights), _normalised(of_captions * weights).T.tocsr()
    nearest: list[int] = []
    for start in range(0, len(prompts), 256):
        similarity = (of_prompts[start : start + 256] @ of_captions).toarray()
        # rounded, so that equal captions are equal whatever the order of their sums
        nearest += np.round(similarity, 9).argmax(1).tolist()
    return nearest


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _counts(texts: Sequence[str], vocabulary: dict[str, int]) -> "csr_array":
    """How often each text has each word: (texts, words)."""
    with needing("eval"):
        from scipy.sparse import csr_array
    rows, columns = [], []
    for row, text in enumerate(texts):
        known = [vocabulary[word] for word in _words(text) if word in vocabulary]
        rows += [row] * len(known)
        columns += known
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(texts), max(len(vocabulary), 1)))


def _normalised(counts: "csr_array") -> "csr_array":
    """Rows scaled to unit length."""
    norms = np.sqrt(np.asarray((counts * counts).sum(1)).ravel())
    return (counts * (1 / np.maximum(norms, 1e-12))[:, None]).tocsr()
