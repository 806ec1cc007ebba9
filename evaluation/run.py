"""Draws a suite's pictures and scores them: `python -m evaluation.run --model B --suite emoji/validation --out R`.

Run it again to go on where it was stopped; `accelerate launch -m evaluation.run ...` shares the drawing between
processes. The result is `R/result.json`, the pictures are in `R/pictures/`.
"""

import dataclasses
import functools
import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from data.grid import to_pil
from evaluation.harness import JudgeOptions, RealSide, open_real, per_picture, report, require_reference, with_controls
from evaluation.metrics import mean
from evaluation.pictures import read_pictures
from evaluation.result import differences, head, read_result, write_result
from evaluation.suites import Suite, open_suite
from sampling.drawing import DrawingOptions, Request, draw, missing
from sampling.pipeline import Bundle, check_prompt
from training.cli import command
from training.config import replaced, require
from training.errors import BadInput
from training.files import appending, atomic, locked, write_json
from training.processes import require_joined, share_cores
from training.shared import shared, shared_path
from training.strict_json import read_json, read_json_lines
from training.strict_yaml import parse_yaml


@dataclass(frozen=True, kw_only=True)
class RunOptions(JudgeOptions, DrawingOptions):
    """Draws the pictures of a prompt suite with a bundle and scores them beside controls."""

    suite: str = "emoji/validation"
    """`emoji/train-sample`, `emoji/train-tuning`, `emoji/validation`, `emoji/validation-style`, `emoji/heldout-style`,
    `attributes`, `free`, `lab`, a file of prompts, or `SOURCE@SPLIT`, the captions of your own pictures."""
    limit: int | None = None
    """Only this many prompts, chosen by a fixed hash."""
    sweep: list[str] = field(default_factory=list, metadata={"repeat": True})
    """`guidance=2`, or another option of the backend: draw and score once for each value that is given."""
    out: Path
    """Folder to write; a sweep has a folder in it for each value, `guidance-2` say."""

    def __post_init__(self) -> None:
        JudgeOptions.__post_init__(self)
        DrawingOptions.__post_init__(self)
        for one in self.sweep:
            require(self, "sweep", "=" in one, "OPTION=VALUE, `guidance=2` say")

    @property
    def runs(self) -> list["RunOptions"]:
        """These options for each of what is swept, one after another. Raises `BadInput` for one that cannot be."""
        swept: dict[str, list[str]] = {}
        for name, _, value in (one.partition("=") for one in self.sweep):
            swept.setdefault(name, []).append(value)
        for name in swept:
            usual = getattr(type(self.backend)(), name, None)
            if (said := getattr(self.backend, name, None)) != usual:
                raise BadInput(f"{name} is {said}: must be absent where it is swept")
        found = []
        for values in product(*swept.values()):
            one = dict(zip(swept, values, strict=True))
            backend = replaced(self.backend, {name: parse_yaml(value, name) for name, value in one.items()})
            out = self.out / "-".join(f"{name}-{value}" for name, value in one.items()).replace("/", "-")
            found.append(dataclasses.replace(self, backend=backend, sweep=[], out=out))
        return found


def main(options: RunOptions) -> None:
    """Says at once what is missing, draws everything, then scores and says where the results are."""
    state = PartialState(cpu=options.device == "cpu")
    require_joined(state.num_processes)
    share_cores()
    runs = options.runs
    suite = open_suite(options.suite, options.limit, options.cache)
    for prompt in suite.prompts:
        check_prompt(prompt.text)
    require_reference(suite, options)
    bundle = options.load()
    with ExitStack() as locks:
        if state.is_main_process:
            for one in runs:
                locks.enter_context(locked(one.out))
        turns = [1 + max(_turns(one.out), default=0) for one in runs]
        if state.is_main_process:
            for one in runs:
                _claim(suite, bundle, one)
        state.wait_for_everyone()  # all have looked before any writes
        wanted = [missing(_wanted(suite, bundle, one)) for one in runs]
        state.wait_for_everyone()
        for one, lacking, turn in zip(runs, wanted, turns, strict=True):
            clock = functools.partial(_clock, one, state, turn)
            draw(lacking, bundle, one.backend, one.batch_size, on_batch=clock)
        state.wait_for_everyone()
        if state.is_main_process:  # the others are done: they would not wait for as long as scoring may take
            side = open_real(suite, bundle.tokenizer.config.image_size, options)
            for one in runs:
                evaluate(suite, bundle, side, one)


def _wanted(suite: Suite, bundle: Bundle, options: RunOptions) -> list[Request]:
    """Every picture of a run, `num_images` of a prompt after one another."""
    drawn_by = _drawn_by(bundle, options)
    return [
        Request(
            file=options.out / "pictures" / f"{i:05d}-{seed}.png", prompt=prompt.text, seed=seed,
            metadata={"prompt": prompt.text, "seed": seed, **drawn_by},
        )
        for i, prompt in enumerate(suite.prompts)
        for seed in range(options.seed, options.seed + options.num_images)
    ]  # fmt: skip


def _clock(options: RunOptions, state: PartialState, turn: int, count: int, seconds: float) -> None:
    """Notes that this process has drawn a batch in this turn."""
    line = {
        "images": count, "seconds": seconds, "device": options.device, "threads": torch.get_num_threads(),
        "batch_size": options.batch_size, "processes": state.num_processes,
    }  # fmt: skip
    with appending(options.out / f"clock-{turn}-{state.process_index}.jsonl") as clock:
        clock.write((json.dumps(line) + "\n").encode())


def evaluate(suite: Suite, bundle: Bundle, side: RealSide, options: RunOptions) -> None:
    """Scores the pictures that `draw` drew and writes the result and the controls, unless that has been done before."""
    out = options.out
    wanted = _wanted(suite, bundle, options)
    files = [one.file for one in wanted]
    protocol = {
        **side.judge.protocol,
        "suite": {"name": suite.name, "hash": suite.hash, "count": len(suite.prompts)},
        "seeds": [options.seed + n for n in range(options.num_images)],
        "count": len(files),
        "image_size": bundle.tokenizer.config.image_size,
    }
    if not options.force_frechet and _finished(out / "result.json", protocol):
        print(f"scored before: {out / 'result.json'}")
        return
    made, controls, shown = with_controls(
        side, read_pictures(files, ended_early=True), suite.prompts, options.num_images, bundle.tokenizer
    )
    if side.originals:
        captions, originals = [prompt.text for prompt in suite.prompts], torch.stack(list(side.originals))
        backend = bundle.backend(options.backend.kind)
        bits = backend.likelihood(captions, originals)
        made.metrics[backend.likelihood_name] = mean(bits, higher_is_better=False)
    result = {
        **head("generation", bundle.backend(options.backend.kind).describe(options.backend), protocol),
        "subject": _subject(bundle, options),
        **report(made, controls, len(files)),
        "pictures": [
            {"file": str(one.file.relative_to(out)), "prompt": one.prompt, "seed": one.seed,
             "scores": per_picture(made, n)}
            for n, one in enumerate(wanted)
        ],
    }  # fmt: skip
    for name, pictures in shown.items():
        if side.originals or name == "nearest_caption":
            _save(out / "controls" / name, pictures)
    write_result(out / "result.json", result)
    brief = ", ".join(f"{name} {metric.value:.4g}" for name, metric in list(made.metrics.items())[:4])
    print(f"{brief} on {len(files)} pictures: {out / 'result.json'}")


def _save(folder: Path, pictures: Sequence[Tensor]) -> None:
    """Writes `00000.png`, `00001.png`, ... into a folder, whole or not at all."""
    with atomic(folder) as temporary:
        temporary.mkdir()
        for i, picture in enumerate(pictures):
            to_pil(picture).save(temporary / f"{i:05d}.png")


def _finished(file: Path, protocol: dict[str, Any]) -> bool:
    """Whether a result of this protocol is there."""
    try:
        return file.is_file() and read_result(file)["protocol"] == protocol
    except BadInput:  # of another version
        return False


def _drawn_by(bundle: Bundle, options: RunOptions) -> dict[str, Any]:
    """The model and what its pictures are computed with."""
    backend = bundle.backend(options.backend.kind)
    return {
        "backend": backend.kind, "options": shared(options.backend.settings), **bundle.ids,
        **backend.compute_settings(), "model_id": backend.model_id, "parameters": bundle.parameters,
    }  # fmt: skip


def _claim(suite: Suite, bundle: Bundle, options: RunOptions) -> None:
    """Writes what a folder's pictures are drawn with. Raises `BadInput` where it holds others, or anyone's."""
    out, file = options.out, options.out / "settings.json"
    asked = {"suite": suite.hash, "seed": options.seed, "num_images": options.num_images}
    settings = {**asked, **_drawn_by(bundle, options)}
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
    most = max(turns, key=lambda turn: turn["images"], default={})  # whose speed and machine stand for all
    told = ("images_per_second", "device", "threads", "batch_size", "processes")
    return {
        "model": shared_path(bundle.source), **_drawn_by(bundle, options),
        "training": bundle.training.get(options.backend.kind, {}), "torch": torch.__version__,
        "seconds": round(sum(turn["seconds"] for turn in turns), 3),
        **{name: most[name] for name in told if name in most}, "turns": turns,
    }  # fmt: skip


def _turns(out: Path) -> dict[int, dict[str, Any]]:
    """What each invocation drew, how fast and on what; its time is that of its slowest process."""
    clocks: dict[int, list[list[dict[str, Any]]]] = defaultdict(list)
    for file in sorted(out.glob("clock-*-*.jsonl")):
        clocks[int(file.stem.split("-")[1])].append(_lines(file))
    found = {}
    for turn, its in sorted(clocks.items()):
        lines = [line for clock in its for line in clock]
        images, seconds = sum(line["images"] for line in lines), max(sum(x["seconds"] for x in clock) for clock in its)
        rate = round(images / seconds, 4) if seconds else 0.0
        found[turn] = {**(lines or [{}])[0], "images": images, "seconds": round(seconds, 3), "images_per_second": rate}
    return found


def _lines(file: Path) -> list[dict[str, Any]]:
    found = []
    try:
        for _, line in read_json_lines(file):
            images, seconds = line["images"], line["seconds"]
            if type(images) is not int or type(seconds) not in (int, float) or min(images, seconds) < 0:
                break
            found.append(line)
    except (BadInput, KeyError, TypeError):  # the last one, of a process killed while it wrote
        pass
    return found


if __name__ == "__main__":
    command(main, RunOptions)
