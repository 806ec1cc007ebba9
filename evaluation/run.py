"""Draw a suite's pictures and score them: `python -m evaluation.run --model B --suite emoji/validation --out R`.

The same command again resumes an interrupted run. `accelerate launch -m evaluation.run ...` shares the drawing between
processes. The result is `R/result.json`; the pictures are in `R/pictures/`.
"""

import dataclasses
import functools
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from data.grid import to_pil
from evaluation.controls import reconstructed
from evaluation.features import Pictures
from evaluation.harness import (
    EvaluationSetup,
    JudgeOptions,
    all_scores,
    open_setup,
    picture_scores,
    require_packages,
    require_reference,
    score_with_controls,
    summary,
    with_readable_pictures,
)
from evaluation.metrics import mean
from evaluation.pictures import read_heights, read_pictures
from evaluation.result import VERSION, differences, header, read_result, write_result
from evaluation.suites import Suite, open_suite
from sampling.drawing import DrawingOptions, Request, draw, missing
from sampling.pipeline import Bundle, check_prompt
from tokenizer.upsampler_batches import reduced
from training.cli import command
from training.config import replaced, require
from training.device import with_device
from training.errors import BadInput
from training.files import appending, atomic, locked, write_json
from training.processes import require_joined, set_up_cpu
from training.redact import redacted_path
from training.strict_json import read_json, read_json_lines
from training.strict_yaml import parse_yaml

if TYPE_CHECKING:
    from accelerate import PartialState


@dataclass(frozen=True, kw_only=True)
class RunOptions(JudgeOptions, DrawingOptions):
    """Draw the pictures of a prompt suite with a bundle, and score them and the control rows."""

    suite: str = "emoji/validation"
    """`emoji/train-sample`, `emoji/train-tuning`, `emoji/validation`, `emoji/validation-style`, `emoji/heldout-style`,
    `attributes`, `scenes/train-sample`, `scenes/validation`, `scenes/heldout-combination`, `scenes/low`, `free`, `lab`,
    a file of prompts, or `SOURCE@SPLIT`, the captions of your own pictures."""
    limit: int | None = None
    """Use only this many prompts, chosen by a fixed hash."""
    sweep: list[str] = field(default_factory=list)
    """A value of a backend option, such as `guidance=2`. Repeat the flag; each value is drawn and scored once."""
    out: Path
    """Folder to write to. A sweep writes a folder for each value in it, such as `guidance-2`."""

    def __post_init__(self) -> None:
        JudgeOptions.__post_init__(self)
        DrawingOptions.__post_init__(self)
        for one in self.sweep:
            require(self, "sweep", "=" in one, "OPTION=VALUE, such as guidance=2")

    @property
    def runs(self) -> list["RunOptions"]:
        """The options of each run of the sweep; one run without a sweep.

        Raises `BadInput` for an option that is also given outside the sweep, for a value that it does not allow, and
        for two values with one folder.
        """
        swept: dict[str, list[str]] = {}
        for name, _, value in (one.partition("=") for one in self.sweep):
            swept.setdefault(name, []).append(value)
        for name in swept:
            default = getattr(type(self.backend)(), name, None)
            if (given := getattr(self.backend, name, None)) != default:
                raise BadInput(f"{name} is {given}: must be absent where it is swept")
        runs: list[RunOptions] = []
        for values in product(*swept.values()):
            one = dict(zip(swept, values, strict=True))
            backend = replaced(self.backend, {name: parse_yaml(value, name) for name, value in one.items()})
            words = "-".join(f"{name}-{value}" for name, value in one.items())
            out = self.out / re.sub(r'[/\\:*?"<>|]', "-", words)  # what no file name may have on any system
            if any(one.out == out for one in runs):
                raise BadInput(f"--sweep: {out.name} is given twice; give each value once")
            runs.append(dataclasses.replace(self, backend=backend, sweep=[], out=out))
        return runs


def main(options: RunOptions) -> None:
    """Check all inputs first, then draw all pictures, score them, and print where the results are."""
    from accelerate import PartialState

    require_packages()
    options = with_device(options)
    state = PartialState(cpu=options.device == "cpu")
    require_joined(state.num_processes)
    set_up_cpu()
    runs = options.runs
    suite = open_suite(options.suite, options.limit, options.cache)
    for prompt in suite.prompts:
        check_prompt(prompt.text)
    require_reference(suite, options)
    bundle = options.load()
    suite = with_readable_pictures(suite, bundle.tokenizer.config.image_size * options.upscale, options.cache)
    with ExitStack() as locks:
        if state.is_main_process:
            for one in runs:
                locks.enter_context(locked(one.out))
        turns = [1 + max(_turns(one.out), default=0) for one in runs]
        if state.is_main_process:
            for one in runs:
                _claim(suite, bundle, one)
        state.wait_for_everyone()  # all processes have read the folders before any of them writes
        to_draw = [missing(_requests(suite, bundle, one)) for one in runs]
        state.wait_for_everyone()
        for one, requests, turn in zip(runs, to_draw, turns, strict=True):
            log = functools.partial(_log_drawn, one, state, turn)
            draw(requests, bundle, one.backend, one.batch_size, on_drawn=log, upscale=one.upscale)
        state.wait_for_everyone()
        if state.is_main_process:  # the others end here: scoring may take longer than a process group waits
            setup = open_setup(suite, bundle.tokenizer.config.image_size * options.upscale, options)
            for one in runs:
                evaluate(suite, bundle, setup, one)


def _requests(suite: Suite, bundle: Bundle, options: RunOptions) -> list[Request]:
    """Every picture of a run, prompt by prompt, `num_images` of each, and each with a seed of its own.

    With one seed for all prompts, the pictures would share their noise and would not be independent samples.
    """
    origin = {**options.origin(bundle), "parameters": bundle.parameters}
    prompts = [(i, prompt.text) for i, prompt in enumerate(suite.prompts) for _ in range(options.num_images)]
    return [
        Request(
            file=options.out / "pictures" / f"{i:05d}-{seed}.png", prompt=text, seed=seed,
            metadata={"prompt": text, "seed": seed, **origin},
        )
        for seed, (i, text) in enumerate(prompts, start=options.seed)
    ]  # fmt: skip


def _log_drawn(options: RunOptions, state: "PartialState", turn: int, count: int, seconds: float) -> None:
    """Log pictures that this process has drawn. A turn is one invocation of the command."""
    line = {
        "images": count, "seconds": seconds, "device": options.device, "threads": torch.get_num_threads(),
        "batch_size": options.batch_size, "processes": state.num_processes,
    }  # fmt: skip
    with appending(options.out / f"clock-{turn}-{state.process_index}.jsonl") as clock:
        clock.write((json.dumps(line) + "\n").encode())


def evaluate(suite: Suite, bundle: Bundle, setup: EvaluationSetup, options: RunOptions) -> None:
    """Score the pictures of a run and write the result and the control pictures, unless there is a result already."""
    out, size = options.out, bundle.tokenizer.config.image_size
    requests = _requests(suite, bundle, options)
    files = [one.file for one in requests]

    def small(pictures: Pictures) -> Tensor:
        """Pictures at the size at which the models draw."""
        return reduced(torch.stack([pictures[i] for i in range(len(pictures))]), size)

    def reconstruct(pictures: Pictures) -> Sequence[Tensor]:
        return bundle.upscaled(list(reconstructed(bundle.tokenizer, small(pictures))), options.upscale)

    protocol = {
        **setup.judge.protocol,
        "suite": {"name": suite.name, "hash": suite.hash, "count": len(suite.prompts)},
        "seed": options.seed,
        "num_images": options.num_images,
        "count": len(files),
        "image_size": size * options.upscale,
    }
    if not options.force_frechet and _finished(out / "result.json", protocol):
        print(f"scored before: {out / 'result.json'}")
        return
    scores, controls, control_pictures = score_with_controls(
        setup, read_pictures(files, ended_early=True), read_heights(files), suite.prompts, options.num_images,
        reconstruct,
    )  # fmt: skip
    whole = all(height == size * options.upscale for height in setup.heights)
    if setup.originals and whole:  # the likelihood is of whole pictures
        backend, captions = bundle.backend(options.backend.kind), [prompt.text for prompt in suite.prompts]
        bits = backend.likelihood(captions, small(setup.originals))
        scores.metrics[backend.likelihood_name] = mean(bits, higher_is_better=False)
    result = {
        **header("generation", bundle.backend(options.backend.kind).describe(options.backend), protocol),
        "subject": _subject(bundle, options),
        **all_scores(scores, controls, len(files)),
        "pictures": [
            {"file": one.file.relative_to(out).as_posix(), "prompt": one.prompt, "seed": one.seed,
             "scores": picture_scores(scores, n)}
            for n, one in enumerate(requests)
        ],
    }  # fmt: skip
    for name, pictures in control_pictures.items():
        if setup.originals or name == "nearest_caption":
            _save(out / "controls" / name, pictures)
    write_result(out / "result.json", result)
    print(f"{summary(scores)} on {len(files)} pictures: {out / 'result.json'}")


def _save(folder: Path, pictures: Sequence[Tensor]) -> None:
    """Write `00000.png`, `00001.png`, ... into a folder, atomically."""
    with atomic(folder) as temporary:
        temporary.mkdir()
        for i, picture in enumerate(pictures):
            to_pil(picture).save(temporary / f"{i:05d}.png")


def _finished(file: Path, protocol: dict[str, Any]) -> bool:
    """Whether the file is a result of this protocol."""
    try:
        return file.is_file() and read_result(file)["protocol"] == protocol
    except BadInput:  # of another version
        return False


def _claim(suite: Suite, bundle: Bundle, options: RunOptions) -> None:
    """Write the settings of a run into its folder.

    Raises `BadInput` if the folder has pictures of other settings, or files that this command did not write.
    """
    out, file = options.out, options.out / "settings.json"
    asked = {"version": VERSION, "suite": suite.hash, "seed": options.seed, "num_images": options.num_images}
    settings = {**asked, **options.origin(bundle), "parameters": bundle.parameters}
    for name in ("pictures", "controls", "result.json"):
        if not file.exists() and (out / name).exists():
            raise BadInput(f"{out / name}: is there already, and no settings.json says what drew it; "
                           "choose another --out")  # fmt: skip
    if file.is_file():
        changed = differences(read_json(file), json.loads(json.dumps(settings)))
        if changed:
            raise BadInput(f"{out}: holds pictures of another run ({'; '.join(changed)}); choose another --out")
    write_json(file, settings)


def _subject(bundle: Bundle, options: RunOptions) -> dict[str, Any]:
    turns = list(_turns(options.out).values())
    largest = max(turns, key=lambda turn: turn["images"], default={})  # its speed and machine are reported for all
    reported = ("images_per_second", "device", "threads", "batch_size", "processes")
    return {
        "model": redacted_path(bundle.source), **options.origin(bundle), "parameters": bundle.parameters,
        "training": bundle.training.get(options.backend.kind, {}), "torch": torch.__version__,
        "seconds": round(sum(turn["seconds"] for turn in turns), 3),
        **{name: largest[name] for name in reported if name in largest}, "turns": turns,
    }  # fmt: skip


def _turns(out: Path) -> dict[int, dict[str, Any]]:
    """How much each turn drew, how fast and on what, from the logs of its processes; its time is the slowest one's."""
    logs: dict[int, list[list[dict[str, Any]]]] = defaultdict(list)
    for file in sorted(out.glob("clock-*-*.jsonl")):
        logs[int(file.stem.split("-")[1])].append(_batches(file))
    found = {}
    for turn, processes in sorted(logs.items()):
        batches = [batch for process in processes for batch in process]
        images = sum(batch["images"] for batch in batches)
        seconds = max(sum(batch["seconds"] for batch in process) for process in processes)
        speed = round(images / seconds, 4) if seconds else 0.0
        found[turn] = {
            **(batches or [{}])[0], "images": images, "seconds": round(seconds, 3), "images_per_second": speed,
        }  # fmt: skip
    return found


def _batches(file: Path) -> list[dict[str, Any]]:
    """The batches in the log of one process, up to the first damaged line."""
    found = []
    try:
        for _, line in read_json_lines(file):
            images, seconds = line["images"], line["seconds"]
            if type(images) is not int or type(seconds) not in (int, float) or min(images, seconds) < 0:
                break
            found.append(line)
    except (BadInput, KeyError, TypeError):  # the last line, if the process was killed while it wrote
        pass
    return found


if __name__ == "__main__":
    command(main, RunOptions)
