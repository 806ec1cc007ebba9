"""What `evaluation.run` and `evaluation.score` share: options, opening networks and real pictures, scoring."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from platformdirs import user_cache_dir
from torch import Tensor

from data.captioned import CaptionedImages
from data.emoji import ORIGINALS, SOURCE
from data.source import is_captioned, open_source
from data.splits import TRAIN
from evaluation.controls import nearest_captions
from evaluation.features import ClipFeatures, Inception, Lite, Network, Pictures
from evaluation.gallery import emoji_gallery
from evaluation.judge import Judge, Scores
from evaluation.pictures import Folder
from evaluation.result import FORMAT, scores_to_dict
from evaluation.suites import Prompt, Suite
from training.config import require
from training.device import usable_device
from training.errors import BadInput, needing
from training.strict_json import read_json


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """How pictures are scored."""

    networks: list[Literal["lite0", "lite1", "lite2"]] = field(default_factory=lambda: ["lite0", "lite1"])
    """Feature networks installed by pip: `lite0`, `lite1`, `lite2`."""
    inception: Path | None = None
    """The published TorchScript file of Inception, inception-2015-12-05.pt, for true FID and Inception score. The file
    is a program, which scoring runs, so a file of another SHA-256 is refused."""
    clip: str | None = None
    """A CLIP of `transformers`, a folder or `hf://owner/name`, for the true CLIP score."""
    reference: str | None = None
    """Real pictures: `emoji`, or any other source or folder. By default those that the suite's prompts come from."""
    gallery_size: int = 1000
    """Real pictures that retrieval searches for a concept."""
    force_frechet: bool = False
    """Compute Frechet distances of fewer than 5,000 pictures as well, with their bias."""
    cache: Path | None = None
    """Folder for prepared pictures and features. By default the user's cache folder."""
    device: str = "auto"
    """Device to compute on: `auto` (a GPU if there is one), `cpu`, `cuda`, `mps`, or another of torch's."""

    def __post_init__(self) -> None:
        require(self, "gallery_size", self.gallery_size >= 10, "10 or more")


@dataclass(kw_only=True)
class EvaluationSetup:
    """All that the pictures of a suite are compared with."""

    judge: Judge
    originals: Sequence[Tensor] = ()
    """The real picture of each prompt, if the prompts are captions of pictures; a square, white below a low one."""
    heights: Sequence[int] = ()
    """The height in pixels of each of them."""
    training: CaptionedImages | None = None
    """Captioned training pictures, for the control row of nearest captions."""


def require_packages() -> None:
    """Raise `BadInput` if a package that scores pictures is not installed. What comes before may take hours."""
    with needing("eval"):
        for name in ("efficientnet_lite_pytorch", "jsonschema", "scipy", "torchmetrics"):
            if find_spec(name) is None:
                raise ModuleNotFoundError(name=name)


def open_networks(options: JudgeOptions) -> list[Network]:
    """Load the networks. Raises `BadInput` for missing weights or an unusable device, and for no network at all."""
    device = usable_device(options.device)
    networks: list[Network] = [Lite(int(name.removeprefix("lite")), device) for name in options.networks]
    if options.inception:
        networks.append(Inception(options.inception, device))
    if options.clip:
        networks.append(ClipFeatures(options.clip, device))
    if not networks:
        raise BadInput("there is no feature network to score with: give --networks, --inception or --clip")
    return networks


def require_reference(suite: Suite | None, options: JudgeOptions) -> None:
    """Raise `BadInput` if there are no real pictures to compare with, or they are of another corpus than the suite."""
    source = suite.source if suite else ""
    if suite and source and options.reference is not None and not _same(options.reference, source):
        raise BadInput(
            f"suite {suite.name} is about pictures of {source!r}, "
            f"but the reference is of another corpus: {options.reference!r}"
        )
    if not source and not options.reference:
        raise BadInput(f"these prompts come with no real pictures: give --reference, such as --reference {SOURCE}")


def with_readable_pictures(suite: Suite, size: int, cache: Path | None) -> Suite:
    """The suite without the prompts whose real pictures cannot be read, which a warning names, or were left out.

    Call it before pictures are drawn for the prompts. Raises `BadInput` if no prompt is left.
    """
    if not suite.source:
        return suite
    pictures = open_source(suite.source, size=size, cache=cache)
    there = {pictures.key(i) for i in range(len(pictures))}
    prompts = [prompt for prompt in suite.prompts if prompt.key in there]
    if not prompts:
        raise BadInput(f"{suite.source}: has none of the pictures of suite {suite.name}; `tessera inspect` says why")
    return replace(suite, prompts=prompts)


def open_setup(suite: Suite | None, size: int, options: JudgeOptions) -> EvaluationSetup:
    """Open reference, gallery and training pictures for a suite, at `size` pixels. Raises as `require_reference`."""
    require_reference(suite, options)
    if suite and suite.source:
        return _setup_of_suite(suite, size, options)
    return _setup_of_reference(str(options.reference), size, options)


def score_with_controls(
    setup: EvaluationSetup,
    pictures: Pictures,
    heights: Sequence[int] | None,
    prompts: Sequence[Prompt],
    repeats: int,
    reconstruct: Callable[[Pictures], Iterable[Tensor]] | None,
) -> tuple[Scores, dict[str, Scores], dict[str, list[Tensor]]]:
    """Score pictures, `repeats` in a row for each prompt, and the control rows that there are.

    `heights` are those of the pictures in pixels, if they are squares of white with lower pictures at their top. The
    controls are `real`, `reconstruction` (with `reconstruct`, which makes it of the real pictures) and
    `nearest_caption` (with prompts and training pictures).

    Returns:
        the scores of the pictures; the scores of each control; the pictures of each control.
    """
    originals, of_originals = list(setup.originals), setup.heights or None
    repeated = [prompt for prompt in prompts for _ in range(repeats)]
    scores = setup.judge.score(pictures, repeated, heights=heights, paired=bool(originals), label="the pictures")
    controls: dict[str, list[Tensor]] = {}
    controls["real"] = originals or [setup.judge.reference[i] for i in range(len(setup.judge.reference))]
    its_heights = {"real": of_originals, "reconstruction": of_originals}
    if reconstruct is not None:
        controls["reconstruction"] = list(reconstruct(controls["real"]))
    if setup.training is not None and prompts:
        captions = [setup.training.captions(i)[0] for i in range(len(setup.training))]
        nearest = nearest_captions([prompt.text for prompt in prompts], captions)
        controls["nearest_caption"] = [setup.training[i] for i in nearest]
        its_heights["nearest_caption"] = _heights(setup.training, nearest)
    control_scores = {}
    for name, control in controls.items():
        its_prompts = prompts if originals or name == "nearest_caption" else ()
        paired = name == "reconstruction" or (bool(originals) and name == "nearest_caption")
        control_scores[name] = setup.judge.score(
            control, its_prompts, heights=its_heights[name], real=name == "real", paired=paired,
            label=name.replace("_", " "),
        )  # fmt: skip
    return scores, control_scores, controls


def all_scores(scores: Scores, controls: dict[str, Scores], count: int) -> dict[str, Any]:
    """The fields of a result file that hold the scores of `count` pictures and of the controls."""
    return {
        "count": count, **scores_to_dict(scores),
        "controls": {name: scores_to_dict(control) for name, control in controls.items()},
    }  # fmt: skip


def picture_scores(scores: Scores, i: int) -> dict[str, float]:
    """The scores of picture `i`, for a result file."""
    return {name: round(float(values[i]), 6) for name, values in scores.pictures.items()}


def summary(scores: Scores) -> str:
    """The first four metrics, for a line of output."""
    return ", ".join(f"{name} {metric.value:.4g}" for name, metric in list(scores.metrics.items())[:4])


def require_result_or_nothing(file: Path) -> None:
    """Raise `BadInput` if the file exists and is not a result, which may be replaced."""
    if file.exists() and read_json(file).get("format") != FORMAT:
        raise BadInput(f"{file}: is there already and is not a result of the evaluation; choose another --out")


def _same(reference: str, source: str) -> bool:
    """Whether both name one source. The built-in ones are not folders, so their names are compared as they are."""
    if {"emoji", "scenes"} & {reference.partition(":")[0], source.partition(":")[0]}:
        return reference == source
    return Path(reference).resolve() == Path(source).resolve()


def _heights(pictures: CaptionedImages, indices: Sequence[int]) -> list[int]:
    """Heights in pixels; the squares are white below them."""
    return [round(pictures.height(i) * pictures.size) for i in indices]


def _setup_of_suite(suite: Suite, size: int, options: JudgeOptions) -> EvaluationSetup:
    """The setup for prompts that are captions of real pictures; those pictures are the reference."""
    everything = open_source(suite.source, size=size, cache=options.cache)
    rows = {everything.key(i): i for i in range(len(everything))}
    missing = [prompt.key for prompt in suite.prompts if prompt.key not in rows]
    if missing:
        raise BadInput(
            f"{suite.source}: picture {missing[0]} of suite {suite.name} cannot be read or was left out; "
            "`tessera inspect` says why"
        )
    places = [rows[prompt.key] for prompt in suite.prompts]
    originals = [everything[i] for i in places]
    has_concepts = all(prompt.concept for prompt in suite.prompts) and suite.source == SOURCE
    gallery_size = options.gallery_size
    if has_concepts and gallery_size > (most := len(everything) // (2 * len(ORIGINALS))):
        raise BadInput(f"gallery_size is {gallery_size}: must be at most {most}, as this corpus has no more families")
    judge = _judge(
        originals, f"the pictures of {suite.name}", options,
        emoji_gallery(everything, suite.prompts, gallery_size) if has_concepts else None,
    )  # fmt: skip
    training = open_source(suite.source, size=size, split=TRAIN, cache=options.cache)
    return EvaluationSetup(
        judge=judge, originals=originals, heights=_heights(everything, places), training=training
    )  # fmt: skip


def _setup_of_reference(reference: str, size: int, options: JudgeOptions) -> EvaluationSetup:
    """The setup for other prompts, or none: a folder of pictures, or all pictures of a source, are the reference."""
    folder = Path(reference)
    if folder.is_dir() and not is_captioned(folder):
        pictures = torch.stack(list(Folder(folder, size)))  # in memory, as each is read many times
        return EvaluationSetup(judge=_judge(pictures, f"{folder.name}, {size} px", options, None))
    everything = open_source(reference, size=size, cache=options.cache)
    training = open_source(reference, size=size, split=TRAIN, cache=options.cache)
    return EvaluationSetup(judge=_judge(everything, everything.name, options, None), training=training)


def _judge(reference: Any, name: str, options: JudgeOptions, gallery: Any) -> Judge:
    return Judge(
        networks=open_networks(options), reference=reference, reference_name=name, gallery=gallery,
        gallery_size=options.gallery_size, cache=options.cache or Path(user_cache_dir("tessera")),
        force=options.force_frechet,
    )  # fmt: skip
