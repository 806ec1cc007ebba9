"""Draw pictures from text: `from sampling import load; load(path).generate(["a noto emoji of a fox"])`."""

from sampling.backend import Backend, Start, backend
from sampling.diffusion_backend import DiffusionBackend
from sampling.options import BACKENDS, BackendOptions, DiffusionOptions, SamplingOptions
from sampling.pipeline import Bundle, load
from sampling.server import Server, Stream
from sampling.token_backend import TokenBackend

__all__ = [
    "BACKENDS", "Backend", "BackendOptions", "Bundle", "DiffusionBackend", "DiffusionOptions", "SamplingOptions",
    "Server", "Start", "Stream", "TokenBackend", "backend", "load",
]  # fmt: skip
