"""`Backend`, the interface of a model that draws pictures; `token_backend` and `diffusion_backend` implement it."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from sampling.options import BACKENDS, BackendOptions
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.text import TextTokenizer
from training.errors import BadInput
from training.pretrained import PretrainedModel

Model = TypeVar("Model", bound=PretrainedModel)
Options = TypeVar("Options", bound=BackendOptions)
BackendType = TypeVar("BackendType", bound="Backend[Any, Any]")


@dataclass(frozen=True, kw_only=True)
class Start:
    """A picture to start from, and which part of it is drawn again.

    Raises `BadInput` for a strength out of range, for a mask of another size, or for both a mask and a strength.
    """

    image: Tensor
    """uint8 (3, H, W)."""
    strength: float = 1.0
    """Above 0, at most 1. Diffusion adds noise to the picture up to this fraction of the noise process. The token model
    draws this fraction of its rows again, from the bottom."""
    mask: Tensor | None = None
    """Bool (H, W), True where the token model draws again, in whole tokens; used instead of `strength`. The model reads
    from left to right and from top to bottom, so new tokens fit the ones before them. `best_of` compares whole
    pictures, so it also takes the later ones into account."""

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise BadInput(f"strength is {self.strength}: must be above 0, at most 1")
        if self.mask is not None and self.strength != 1:
            raise BadInput("mask and strength both say what is drawn again: give one of them")
        if self.mask is not None and self.mask.shape != self.image.shape[1:]:
            raise BadInput(
                f"the mask is {tuple(self.mask.shape)}, the picture {tuple(self.image.shape[1:])}: must be one size"
            )


@dataclass(eq=False, kw_only=True)
class Job:
    """A picture to draw, one of any number (`Backend.draw_jobs`)."""

    caption: str
    seed: int
    cancelled: bool = False
    """Any thread may set it to True. A picture that is not begun is then never begun. One that is drawn continuously is
    given up at the next step, on a GPU at the next row of tokens. A backend that draws batch by batch, as diffusion
    does, finishes its batch."""


class Progress(NamedTuple):
    """What there is of a job's picture."""

    job: Job
    picture: Callable[[], Tensor]
    """Makes it, uint8 (3, H so far, W) on the CPU. That takes time, so call it only for a picture that is wanted."""
    finished: bool


class Backend(ABC, Generic[Model, Options]):
    """A model together with the tokenizers that it needs to draw. Several threads may use one at once.

    A picture depends only on its caption, seed, options and start, not on the batch that it is drawn in; but for
    rounding, by which a token of the picture may change. The size of a batch decides the kernels on a GPU, and with
    dtype bfloat16 on a CPU the precision of matrix products, which changes at 16 rows (`seq2seq.packed`).
    """

    title: ClassVar[str]
    """What the model is called in texts for people."""
    loss_unit: ClassVar[str]
    """Unit of the training loss."""
    likelihood_name: ClassVar[str]
    """Name of `likelihood` in a result; fewer bits are better."""
    recipe: ClassVar[str] = "see its documentation"
    """The command that trains such a model."""
    model_class: ClassVar[type[PretrainedModel]]
    """The class of the model. Its config has the `image_id` and `text_id` of the tokenizers that it was trained with.
    `text_id` may be empty."""
    image_id: ClassVar[Literal["codes_id", "latents_id"]] = "codes_id"
    """Which id of the image tokenizer the model depends on. A model of latents needs no codes."""
    options_class: ClassVar[type[BackendOptions]]

    def __init__(self, model: Model, text: TextTokenizer, tokenizer: ImageTokenizer, engine: str | None = None) -> None:
        """`engine` says how the steps are computed; None chooses by the machine."""
        self.model, self.text, self.tokenizer, self.engine = model, text, tokenizer, engine
        self._preparing, self._prepared = threading.RLock(), None

    @property
    def kind(self) -> str:
        """Name of the backend on the command line, in bundles and in results."""
        return BACKENDS.kind_of(self.options_class)

    @classmethod
    def dtype_on(cls, device: str) -> torch.dtype:
        """The model's default dtype on a type of device."""
        return torch.float32

    def prepare(self) -> Any:
        """Make the object that draws, according to `engine`. By default it is the model itself."""
        return self.model

    @property
    def prepared(self) -> Any:
        """The result of `prepare`, which is called once, at first use."""
        with self._preparing:
            if self._prepared is None:
                self._prepared = self.prepare()
            return self._prepared

    @abstractmethod
    def draw(self, captions: Sequence[str], seeds: Tensor, options: Options, start: Start | None) -> list[Tensor]:
        """Draw one batch: a picture, uint8 (3, H, W) on the CPU, for each caption and its seed (B,) int64."""

    def draw_jobs(
        self, more: Callable[[int], Sequence[Job]], options: Options, start: Start | None, batch_size: int
    ) -> Iterator[Progress]:
        """Draw any number of pictures, `batch_size` at a time, and yield each as soon as it is finished, in any order.

        `more` returns new jobs, at most as many as it is asked for. It is asked whenever there is room for them.
        Drawing ends when it has none and all others are finished. Some backends yield unfinished pictures too. By
        default pictures are drawn batch by batch.
        """
        while jobs := more(batch_size):
            jobs = [job for job in jobs if not job.cancelled]
            if not jobs:
                continue
            seeds = torch.tensor([job.seed for job in jobs], device=self.device)
            pictures = self.draw([job.caption for job in jobs], seeds, options, start)
            for job, picture in zip(jobs, pictures, strict=True):
                yield Progress(job, partial(torch.clone, picture), finished=True)

    def stream(self, captions: Sequence[str], seeds: Tensor, options: Options) -> Iterator[list[Tensor]]:
        """Yield the unfinished pictures of a batch after each stage of drawing; the last ones are those of `draw`."""
        yield self.draw(captions, seeds, options, None)

    @abstractmethod
    def likelihood(self, captions: Sequence[str], images: Tensor) -> Tensor:
        """How well the model predicts real pictures, uint8 (N, 3, H, W), given their captions: bits, (N,).

        Nothing is drawn. Values compare only between models of one backend with one image tokenizer.
        """

    @abstractmethod
    def compute_settings(self) -> dict[str, str]:
        """How pictures are computed: `engine`, and the `dtype` of matrix products."""

    def check(self, start: Start | None) -> None:
        """Raise `BadInput` for a start that the backend cannot draw from. By default it takes none."""
        if start:
            raise BadInput(f"backend {self.kind} does not start from a picture")

    def interpolate(
        self, prompts: tuple[str, str], seeds: tuple[int, int], part: Tensor, options: Options
    ) -> list[Tensor]:
        """Draw a picture at each `part` (B,), from 0 at the first prompt and seed to 1 at the second.

        Raises `BadInput` for a backend that cannot, which is the default.
        """
        raise BadInput(f"backend {self.kind} does not interpolate")

    def describe(self, options: Options) -> str:
        """Name of the model with its most important options, for tables."""
        return f"{self.kind}, guidance {options.guidance:g}"

    def drawing_stats(self) -> dict[str, Any]:
        """Statistics of the drawing so far, which `sampling.generate` writes into `generation.json`."""
        return {}

    @cached_property
    def model_id(self) -> str:
        """Hash of the model's config and weights."""
        return self.model.model_id

    @property
    def device(self) -> torch.device:
        """Device of the image tokenizer and of seeds."""
        return self.tokenizer.latent_mean.device

    def require_engine(self, *known: str) -> None:
        """Raise `BadInput` for an engine other than None and those `known`."""
        if self.engine not in (None, *known):
            raise BadInput(f"engine {self.engine}: backend {self.kind} has {', '.join(known)} here")


def backend(kind: str) -> Callable[[type[BackendType]], type[BackendType]]:
    """Decorator that registers a backend under a name. Raises `BadInput` for a name that is taken."""

    def add(new: type[BackendType]) -> type[BackendType]:
        if kind in ("text", "tokenizer"):
            raise BadInput(f"a backend cannot be called {kind!r}: this is the name of another part of a bundle")
        BACKENDS.register(kind)(new.options_class)
        new.options_class.backend_class = new
        return new

    return add


def backend_class(kind: str) -> type[Backend[Any, Any]]:
    """The backend of a name. Raises `BadInput` with the known names for another."""
    return BACKENDS[kind].backend_class
