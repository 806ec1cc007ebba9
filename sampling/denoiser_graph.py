"""Passes of a denoiser as CUDA graphs: recorded once for a size of batch, then replayed for all captions and times."""

import threading

from torch import Tensor, nn

from diffusion.condition import CaptionCache
from diffusion.dit import DiT
from diffusion.model import DiffusionModel
from diffusion.unet import UNet
from sampling.graphs import Graphs, padded_batch


def with_graph_denoiser(model: DiffusionModel) -> DiffusionModel:
    """Return a copy of `model` whose denoiser is replayed. They share all weights, which must stay where they are."""
    return model.with_denoiser(GraphDenoiser(model.denoiser, model.config.text.length))


class GraphDenoiser(nn.Module):
    """Computes what the denoiser computes, within rounding. Threads may share it: it makes one pass at a time."""

    def __init__(self, denoiser: DiT | UNet, caption_length: int) -> None:
        """`caption_length`: the most ids of a caption."""
        super().__init__()
        self.denoiser, self.caption_length = denoiser, caption_length
        self._by_rows: dict[int, Buffers] = {}
        self._graphs = Graphs(next(denoiser.parameters()).device)
        self._lock = threading.Lock()

    def forward(self, x: Tensor, t: Tensor, states: Tensor | None, caption: CaptionCache) -> Tensor:
        """Take and return what the denoiser does. The first pass, which reads the captions, is not recorded."""
        if states is not None:
            return self.denoiser(x, t, states, caption)
        rows = padded_batch(len(x))
        with self._lock:
            if rows not in self._by_rows:
                self._by_rows[rows] = Buffers(self.denoiser, x, t, caption, rows, self.caption_length)
            buffers = self._by_rows[rows]
            buffers.fill(x, t, caption)
            self._graphs.run(rows, buffers.step, [])
            return buffers.output[: len(x)].clone()


class Buffers:
    """What a pass reads and writes, for batches of up to R pictures. The tensors stay where they are."""

    def __init__(
        self, denoiser: DiT | UNet, x: Tensor, t: Tensor, caption: CaptionCache, rows: int, length: int
    ) -> None:
        """Buffers of `rows` pictures, R, and captions of up to `length` ids, for such x, t and caption.

        Whatever the rows that are not filled hold is computed and dropped.
        """
        self.denoiser = denoiser
        self.x, self.t = x.new_zeros(rows, *x.shape[1:]), t.new_zeros(rows)
        self.caption = CaptionCache(None)
        self.caption.mask = caption.mask.new_ones(rows, 1, 1, length)
        self.caption.pooled = caption.pooled.new_zeros(rows, caption.pooled.shape[1])
        for number, (keys, values) in caption.keys_values.items():
            size = (rows, keys.shape[1], length, keys.shape[3])
            self.caption.keep(number, keys.new_zeros(size), values.new_zeros(size))
        self.output = denoiser(self.x, self.t, None, self.caption)
        self._filled_from: CaptionCache | None = None

    def fill(self, x: Tensor, t: Tensor, caption: CaptionCache) -> None:
        """Copy the arguments of a pass. Captions are copied only if they are not those of the last pass."""
        count = len(x)
        self.x[:count].copy_(x)
        self.t[:count].copy_(t)
        if caption is self._filled_from:
            return
        length = caption.mask.shape[3]
        self.caption.mask[:count].fill_(False)
        self.caption.mask[:count, :, :, :length].copy_(caption.mask)
        self.caption.pooled[:count].copy_(caption.pooled)
        for number, kept in caption.keys_values.items():
            for buffer, new in zip(self.caption.keys_values[number], kept, strict=True):
                buffer[:count, :, :length].copy_(new)
        self._filled_from = caption

    def step(self) -> None:
        """Make a pass, in place."""
        self.output.copy_(self.denoiser(self.x, self.t, None, self.caption))
