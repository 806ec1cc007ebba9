"""What every way of drawing promises. `token_backend` and `diffusion_backend` are the two that come with Tessera."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from sampling.options import BACKENDS, BackendOptions
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.text import TextTokenizer
from training.errors import BadInput
from training.pretrained import PretrainedModel

Model = TypeVar("Model", bound=PretrainedModel)
Options = TypeVar("Options", bound=BackendOptions)
Drawing = TypeVar("Drawing", bound="Backend[Any, Any]")


@dataclass(frozen=True, kw_only=True)
class Start:
    """A picture to start from, and what of it may change. Raises `BadInput` for what cannot be."""

    image: Tensor
    """uint8 (3, H, W)."""
    strength: float = 1.0
    """Above 0, at most 1. Diffusion starts from the picture noised so much of the way; the token model draws this share
    of its rows anew, the lowest ones."""
    mask: Tensor | None = None
    """Bool (H, W), True where the token model draws anew, in whole tokens; instead of `strength`. It reads from left to
    right and from top to bottom, so what is drawn fits what comes before it; `best_of` chooses by the rest too."""

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise BadInput(f"strength is {self.strength}: must be above 0, at most 1")
        if self.mask is not None and self.strength != 1:
            raise BadInput("mask and strength both say what is drawn anew: give one of them")
        if self.mask is not None and self.mask.shape != self.image.shape[1:]:
            raise BadInput(f"the mask is {tuple(self.mask.shape)}, the picture {tuple(self.image.shape[1:])}")


class Backend(ABC, Generic[Model, Options]):
    """A model with all that it needs to draw. Several threads may use one at once.

    A picture depends on its caption, seed, options and start alone, not on the batch that it is drawn in.
    """

    title: ClassVar[str]
    """What it is, in words."""
    loss_unit: ClassVar[str]
    """Unit of its training loss."""
    likelihood_name: ClassVar[str]
    """What `likelihood` is called in a result; fewer bits are better."""
    recipe: ClassVar[str] = "see its documentation"
    """How a model is trained."""
    model_class: ClassVar[type[PretrainedModel]]
    """Its config says by `codes_id` and `text_id` what it was trained with; the latter may be empty."""
    options_class: ClassVar[type[BackendOptions]]

    def __init__(self, model: Model, text: TextTokenizer, tokenizer: ImageTokenizer, engine: str | None = None) -> None:
        """`engine` computes the steps, by default as fits the machine."""
        self.model, self.text, self.tokenizer, self.engine = model, text, tokenizer, engine
        self._preparing, self._prepared = threading.RLock(), None

    @property
    def kind(self) -> str:
        """Its name: on the command line, as a part of a bundle, and in results."""
        return BACKENDS.kind_of(self.options_class)

    @classmethod
    def dtype_on(cls, device: str) -> torch.dtype:
        """The model's dtype on a kind of device, where none is asked for."""
        return torch.float32

    def prepare(self) -> Any:
        """What draws, as `engine` says; the model itself where there is nothing to prepare."""
        return self.model

    @property
    def prepared(self) -> Any:
        """What `prepare` makes, once, when it is first asked for."""
        with self._preparing:
            if self._prepared is None:
                self._prepared = self.prepare()
            return self._prepared

    @abstractmethod
    def draw(self, captions: Sequence[str], seeds: Tensor, options: Options, start: Start | None) -> list[Tensor]:
        """One batch of pictures, uint8 (3, H, W) on the CPU each, of captions and their seeds (B,) int64."""

    def stream(self, captions: Sequence[str], seeds: Tensor, options: Options) -> Iterator[list[Tensor]]:
        """The pictures of a batch as far as they have come, again and again; the last are those of `draw`."""
        yield self.draw(captions, seeds, options, None)

    @abstractmethod
    def likelihood(self, captions: Sequence[str], images: Tensor) -> Tensor:
        """Bits of real pictures given their captions, uint8 (N, 3, H, W) -> (N,): how well the model predicts them.

        It needs no drawing, and compares models of one backend on one image tokenizer: other codes are other bits.
        """

    @abstractmethod
    def arithmetic(self) -> dict[str, str]:
        """What pictures are computed with: `engine`, and the `dtype` of products."""

    def check(self, start: Start | None) -> None:
        """Raises `BadInput` for a start that it cannot draw from; by default any."""
        if start:
            raise BadInput(f"backend {self.kind} does not start from a picture")

    def between(self, prompts: tuple[str, str], seeds: tuple[int, int], part: Tensor, options: Options) -> list[Tensor]:
        """Pictures at `part` (B,) of the way from the first prompt and seed to the second."""
        raise BadInput(f"backend {self.kind} does not interpolate")

    def describe(self, options: Options) -> str:
        """Model and options in a few words, for a table."""
        return f"{self.kind}, guidance {options.guidance:g}"

    def drawn(self) -> dict[str, Any]:
        """What there is to tell of the drawing so far, for a record."""
        return {}

    @cached_property
    def model_id(self) -> str:
        """Names the model by its config and weights."""
        return self.model.model_id

    @property
    def device(self) -> torch.device:
        """Of the image tokenizer, and of seeds."""
        return self.tokenizer.latent_mean.device

    def require_engine(self, *known: str) -> None:
        """Raises `BadInput` where an engine is asked for that is none of those `known`."""
        if self.engine not in (None, *known):
            raise BadInput(f"engine {self.engine}: backend {self.kind} has {', '.join(known)} here")


def backend(kind: str) -> Callable[[type[Drawing]], type[Drawing]]:
    """Decorates a backend, which is known by this name from then on. Raises `BadInput` where the name is taken."""

    def add(drawing: type[Drawing]) -> type[Drawing]:
        if kind in ("text", "tokenizer"):
            raise BadInput(f"a backend cannot be called {kind!r}, as another part of a bundle is")
        BACKENDS.register(kind)(drawing.options_class)
        drawing.options_class.drawn_by = drawing
        return drawing

    return add


def backend_class(kind: str) -> type[Backend[Any, Any]]:
    """The backend of a kind. Raises `BadInput` naming the known kinds for one that is none."""
    return BACKENDS[kind].drawn_by
