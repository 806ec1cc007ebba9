"""Score pictures from any source: `python -m evaluation.score --images DIR --reference emoji --out R`.

Prompts are read from `generation.json` or `metadata.jsonl` in the folder. With `--suite` they are the suite's, and the
pictures belong to them in order of their file names.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

from evaluation.controls import reconstructed
from evaluation.harness import (
    JudgeOptions,
    all_scores,
    open_setup,
    picture_scores,
    require_packages,
    require_result_or_nothing,
    score_with_controls,
    summary,
)
from evaluation.pictures import list_pictures, list_prompted, read_heights, read_pictures
from evaluation.result import header, write_result
from evaluation.suites import Prompt, Suite, open_suite
from sampling.pipeline import LONGEST_PROMPT
from tokenizer.image_tokenizer import ImageTokenizer
from training.cli import command
from training.config import require
from training.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(JudgeOptions):
    """Score a folder of pictures from any source."""

    images: Path
    """Folder of square pictures of one size."""
    suite: str | None = None
    """Suite of the prompts that the pictures show, in order of their file names, the same number for each prompt."""
    limit: int | None = None
    """Use only this many prompts of the suite, as in `evaluation.run`."""
    tokenizer: Path | None = None
    """Image tokenizer for the control row of reconstructions."""
    name: str = ""
    """Name of the pictures in tables. By default the name of their folder."""
    out: Path
    """Folder to write `result.json` to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "limit", self.limit is None or self.suite is not None, "absent without suite")


def main(options: ScoreOptions) -> None:
    """Read and score the pictures, write the result, and print where it is."""
    require_packages()
    require_result_or_nothing(options.out / "result.json")
    files, suite, repeats = _files_and_suite(options)
    prompts = suite.prompts if suite else ()
    for prompt in prompts:
        if len(prompt.text) > LONGEST_PROMPT:
            shown = repr(f"{prompt.text[:40]}...")
            raise BadInput(f"the prompt {shown} has {len(prompt.text)} characters: at most {LONGEST_PROMPT} are read")
    ours = (options.images / "generation.json").is_file()
    pictures = read_pictures(files, ended_early=ours)
    height, width = pictures.shape[2:]
    if height != width:
        raise BadInput(f"{files[0]}: {width}x{height} pixels; pictures must be square")
    setup = open_setup(suite, width, options)
    tokenizer = ImageTokenizer.from_pretrained(options.tokenizer, device=options.device) if options.tokenizer else None
    reconstruct = functools.partial(reconstructed, tokenizer) if tokenizer else None
    heights = read_heights(files) if ours else None
    scores, controls, _ = score_with_controls(setup, pictures, heights, prompts, repeats, reconstruct)
    protocol = {
        **setup.judge.protocol,
        "suite": {"name": suite.name, "hash": suite.hash, "count": len(suite.prompts)} if suite else None,
        "count": len(files),
        "image_size": width,
    }
    result = {
        **header("pictures", options.name or options.images.resolve().name, protocol),
        "subject": {},
        **all_scores(scores, controls, len(files)),
        "pictures": [
            {"file": file.relative_to(options.images).as_posix(), "scores": picture_scores(scores, n),
             **({"prompt": prompts[n // repeats].text} if prompts else {})}
            for n, file in enumerate(files)
        ],
    }  # fmt: skip
    write_result(options.out / "result.json", result)
    print(f"{summary(scores)} on {len(files)} pictures: {options.out / 'result.json'}")


def _files_and_suite(options: ScoreOptions) -> tuple[list[Path], Suite | None, int]:
    """The picture files, the suite of their prompts if they have any, and how many pictures in a row a prompt has."""
    folder = options.images
    if options.suite is None:
        files, texts = list_prompted(folder)
        if not files:
            raise BadInput(f"{folder}: there is no picture in it")
        return files, Suite(name="own prompts", prompts=[Prompt(text=text) for text in texts]) if texts else None, 1
    suite = open_suite(options.suite, options.limit, options.cache)
    # `sampling.generate` writes a grid beside its pictures, so the pictures are listed from its record
    files = list_prompted(folder)[0] if (folder / "generation.json").is_file() else list_pictures(folder)
    repeats, left = divmod(len(files), len(suite.prompts))
    if left or not repeats:
        raise BadInput(
            f"{folder}: {len(files)} pictures for the {len(suite.prompts)} prompts of {suite.name}: "
            "each prompt must have the same number of pictures"
        )
    return files, suite, repeats


if __name__ == "__main__":
    command(main, ScoreOptions)
