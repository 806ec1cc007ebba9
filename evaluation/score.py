"""Scores anyone's pictures: `python -m evaluation.score --images DIR --reference emoji --out R`.

Prompts are taken from `generation.json` or `metadata.jsonl` in the folder; with `--suite` they are the suite's, and the
pictures are theirs in order of their file names.
"""

from dataclasses import dataclass
from pathlib import Path

from evaluation.harness import JudgeOptions, open_real, per_picture, report, require_result_or_nothing, with_controls
from evaluation.pictures import list_pictures, prompted, read_pictures
from evaluation.result import head, write_result
from evaluation.suites import Prompt, Suite, open_suite
from tokenizer.image_tokenizer import ImageTokenizer
from training.cli import command
from training.config import require
from training.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(JudgeOptions):
    """Scores a folder of pictures, whatever made them."""

    images: Path
    """Folder of pictures of one size, square."""
    suite: str | None = None
    """Suite whose prompts the pictures were drawn from, in order of their file names, equally many each."""
    limit: int | None = None
    """Only this many prompts of the suite, as in `evaluation.run`."""
    tokenizer: Path | None = None
    """Image tokenizer for the control row of reconstructions."""
    name: str = ""
    """What to call the pictures in a table; by default their folder's name."""
    out: Path
    """Folder to write `result.json` into."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "limit", self.limit is None or self.suite is not None, "absent without suite")


def main(options: ScoreOptions) -> None:
    """Reads, scores, writes, and says where."""
    require_result_or_nothing(options.out / "result.json")
    files, suite, repeats = _asked(options)
    prompts = suite.prompts if suite else ()
    ours = (options.images / "generation.json").is_file()
    pictures = read_pictures(files, ended_early=ours)
    height, width = pictures.shape[2:]
    if height != width:
        raise BadInput(f"{files[0]}: {width}x{height} pixels; pictures must be square")
    side = open_real(suite, width, options)
    tokenizer = ImageTokenizer.from_pretrained(options.tokenizer, device=options.device) if options.tokenizer else None
    made, controls, _ = with_controls(side, pictures, prompts, repeats, tokenizer)
    protocol = {
        **side.judge.protocol,
        "suite": {"name": suite.name, "hash": suite.hash, "count": len(suite.prompts)} if suite else None,
        "count": len(files),
        "image_size": width,
    }
    result = {
        **head("pictures", options.name or options.images.resolve().name, protocol),
        "subject": {},
        **report(made, controls, len(files)),
        "pictures": [
            {"file": str(file.relative_to(options.images)), "scores": per_picture(made, n),
             **({"prompt": prompts[n // repeats].text} if prompts else {})}
            for n, file in enumerate(files)
        ],
    }  # fmt: skip
    write_result(options.out / "result.json", result)
    brief = ", ".join(f"{name} {metric.value:.4g}" for name, metric in list(made.metrics.items())[:4])
    print(f"{brief} on {len(files)} pictures: {options.out / 'result.json'}")


def _asked(options: ScoreOptions) -> tuple[list[Path], Suite | None, int]:
    """Files, what was asked for, and how many pictures in a row each prompt has."""
    folder = options.images
    if options.suite is None:
        files, texts = prompted(folder)
        if not files:
            raise BadInput(f"{folder}: there is not one picture in it")
        return files, Suite(name="own prompts", prompts=[Prompt(text=text) for text in texts]) if texts else None, 1
    suite = open_suite(options.suite, options.limit, options.cache)
    # beside what `sampling.generate` drew lies a grid of it
    files = prompted(folder)[0] if (folder / "generation.json").is_file() else list_pictures(folder)
    repeats, left = divmod(len(files), len(suite.prompts))
    if left or not repeats:
        raise BadInput(
            f"{folder}: {len(files)} pictures for the {len(suite.prompts)} prompts of {suite.name}: "
            "there must be equally many of each"
        )
    return files, suite, repeats


if __name__ == "__main__":
    command(main, ScoreOptions)
