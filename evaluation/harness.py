"""What `evaluation.run` and `evaluation.score` share: opening the networks and the real side, scoring, writing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_dir
from torch import Tensor

from data.captioned import CaptionedImages
from data.emoji import ORIGINALS, SOURCE
from data.source import is_captioned, open_source
from data.splits import TRAIN
from evaluation.controls import nearest_captions, reconstructed
from evaluation.features import ClipFeatures, Inception, Lite, Network, Pictures
from evaluation.gallery import emoji_gallery
from evaluation.judge import Judge, Scores
from evaluation.pictures import Folder
from evaluation.result import FORMAT, scored
from evaluation.suites import Prompt, Suite
from tokenizer.image_tokenizer import ImageTokenizer
from training.config import require
from training.errors import BadInput
from training.pretrained import require_device
from training.strict_json import read_json


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """How pictures are scored."""

    networks: list[str] = field(default_factory=lambda: ["lite0", "lite1"])
    """Feature networks that need nothing but pip: `lite0`, `lite1`."""
    inception: Path | None = None
    """The published TorchScript file of Inception, inception-2015-12-05.pt, for true FID and Inception score. It is a
    program, which scoring runs: a file of another SHA-256 is refused."""
    clip: str | None = None
    """A CLIP of `transformers`, a folder or `hf://owner/name`, for the true CLIP score."""
    reference: str | None = None
    """Real pictures: `emoji`, or any other source or folder; by default those that the suite's prompts come from."""
    gallery_size: int = 1000
    """Real pictures among which retrieval looks for a concept."""
    force_frechet: bool = False
    """Give Frechet distances of fewer than 5,000 pictures, with their bias."""
    cache: Path | None = None
    """Folder for drawn pictures and features; by default the user's cache folder."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to compute."""

    def __post_init__(self) -> None:
        known = ("lite0", "lite1")
        require(self, "networks", set(self.networks) <= set(known), f"of {', '.join(known)}")
        require(self, "gallery_size", self.gallery_size >= 10, "10 or more")


@dataclass(kw_only=True)
class RealSide:
    """The real pictures that a suite is judged by."""

    judge: Judge
    originals: Sequence[Tensor] = ()
    """The real picture of each prompt, where prompts come from pictures."""
    training: CaptionedImages | None = None
    """Captioned training pictures, which a model could have copied."""


def open_networks(options: JudgeOptions) -> list[Network]:
    """The networks asked for. Raises `BadInput` for weights or a device that are not there."""
    require_device(options.device)
    networks: list[Network] = [Lite(int(name.removeprefix("lite")), options.device) for name in options.networks]
    if options.inception:
        networks.append(Inception(options.inception, options.device))
    if options.clip:
        networks.append(ClipFeatures(options.clip, options.device))
    if not networks:
        raise BadInput("no feature network to judge by: give --networks, --inception or --clip")
    return networks


def require_reference(suite: Suite | None, options: JudgeOptions) -> None:
    """Raises `BadInput` where there is nothing to judge by, or another corpus than the suite's."""
    source = suite.source if suite else ""
    if suite and source and options.reference is not None and not _same(options.reference, source):
        raise BadInput(
            f"suite {suite.name} is about pictures of {source!r}, "
            f"but the reference is of another corpus: {options.reference!r}"
        )
    if not source and not options.reference:
        raise BadInput(f"these prompts come with no real pictures: give --reference, such as --reference {SOURCE}")


def open_real(suite: Suite | None, size: int, options: JudgeOptions) -> RealSide:
    """Reference, gallery and training pictures for a suite, at `size` pixels. Raises as `require_reference` does."""
    require_reference(suite, options)
    if suite and suite.source:
        return _suite_side(suite, size, options)
    return _reference_side(str(options.reference), size, options)


def with_controls(
    side: RealSide, pictures: Pictures, prompts: Sequence[Prompt], repeats: int, tokenizer: ImageTokenizer | None
) -> tuple[Scores, dict[str, Scores], dict[str, list[Tensor]]]:
    """Scores pictures, `repeats` of each prompt in turn, and the control rows; also returns the controls' pictures."""
    asked = [prompt for prompt in prompts for _ in range(repeats)]
    originals = list(side.originals)
    made = side.judge.score(pictures, asked, paired=bool(originals), label="what is judged")
    shown: dict[str, list[Tensor]] = {}
    shown["real"] = originals or [side.judge.reference[i] for i in range(len(side.judge.reference))]
    if tokenizer is not None:
        shown["reconstruction"] = list(reconstructed(tokenizer, shown["real"]))
    if side.training is not None and prompts:
        captions = [side.training.captions(i)[0] for i in range(len(side.training))]
        nearest = nearest_captions([prompt.text for prompt in prompts], captions)
        shown["nearest_caption"] = [side.training[i] for i in nearest]
    rows = {}
    for name, control in shown.items():
        its = prompts if originals or name == "nearest_caption" else ()
        paired = name == "reconstruction" or (bool(originals) and name == "nearest_caption")
        rows[name] = side.judge.score(control, its, real=name == "real", paired=paired, label=name.replace("_", " "))
    return made, rows, shown


def report(made: Scores, controls: dict[str, Scores], count: int) -> dict[str, Any]:
    """The scored part of a result file."""
    return {
        "count": count, **scored(made),
        "controls": {name: scored(scores) for name, scores in controls.items()},
    }  # fmt: skip


def per_picture(scores: Scores, i: int) -> dict[str, float]:
    """What picture `i` alone scored."""
    return {name: round(float(values[i]), 6) for name, values in scores.pictures.items()}


def require_result_or_nothing(file: Path) -> None:
    """Raises `BadInput` where a result would take the place of something else."""
    if file.exists() and read_json(file).get("format") != FORMAT:
        raise BadInput(f"{file}: is there already and is no result of the evaluation; choose another --out")


def _same(reference: str, source: str) -> bool:
    """Whether both name one source; emoji are in no folder."""
    if "emoji" in (reference.partition(":")[0], source.partition(":")[0]):
        return reference == source
    return Path(reference).resolve() == Path(source).resolve()


def _suite_side(suite: Suite, size: int, options: JudgeOptions) -> RealSide:
    everything = open_source(suite.source, size=size, cache=options.cache)
    rows = {everything.key(i): i for i in range(len(everything))}
    missing = [prompt.key for prompt in suite.prompts if prompt.key not in rows]
    if missing:
        raise BadInput(f"{suite.source}: has no picture {missing[0]}, which suite {suite.name} asks for")
    originals = [everything[rows[prompt.key]] for prompt in suite.prompts]
    concepts = all(prompt.concept for prompt in suite.prompts) and suite.source == SOURCE
    size_of_gallery = options.gallery_size
    if concepts and size_of_gallery > (most := len(everything) // (2 * len(ORIGINALS))):
        raise BadInput(f"gallery_size is {size_of_gallery}: this corpus has enough families for {most}")
    judge = _judge(
        originals, f"the pictures of {suite.name}", options,
        emoji_gallery(everything, suite.prompts, size_of_gallery) if concepts else None,
    )  # fmt: skip
    training = open_source(suite.source, size=size, split=TRAIN, cache=options.cache)
    return RealSide(judge=judge, originals=originals, training=training)


def _reference_side(reference: str, size: int, options: JudgeOptions) -> RealSide:
    folder = Path(reference)
    if folder.is_dir() and not is_captioned(folder):
        pictures = torch.stack(list(Folder(folder, size)))  # each is looked at many times
        return RealSide(judge=_judge(pictures, f"{folder.name}, {size} px", options, None))
    everything = open_source(reference, size=size, cache=options.cache)
    training = open_source(reference, size=size, split=TRAIN, cache=options.cache)
    return RealSide(judge=_judge(everything, everything.name, options, None), training=training)


def _judge(reference: Any, name: str, options: JudgeOptions, gallery: Any) -> Judge:
    return Judge(
        networks=open_networks(options), reference=reference, reference_name=name, gallery=gallery,
        gallery_size=options.gallery_size, cache=options.cache or Path(user_cache_dir("tessera")),
        force=options.force_frechet,
    )  # fmt: skip
