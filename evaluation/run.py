"""Draws a suite's pictures and scores them: `python -m evaluation.run --model B --suite emoji/validation --out R`.

Run it again to go on where it was stopped; `accelerate launch -m evaluation.run ...` shares the drawing between
processes. The result is `R/result.json`, the pictures are in `R/pictures/`.
"""

import dataclasses
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from tqdm import tqdm

from data.grid import to_pil
from evaluation.harness import JudgeOptions, RealSide, open_real, per_picture, report, save_pictures, with_controls
from evaluation.likelihood import bits_per_image, bound_per_dimension
from evaluation.metrics import mean
from evaluation.pictures import padded, read_pictures
from evaluation.result import differences, figures, head, write_result
from evaluation.suites import Suite, open_suite
from sampling.generate import SHIPPED
from sampling.options import BackendOptions
from sampling.pipeline import Bundle, load
from training.cli import command
from training.config import require, to_dict
from training.errors import BadInput
from training.files import atomic, write_json
from training.pretrained import read_json


@dataclass(frozen=True, kw_only=True)
class RunOptions(JudgeOptions, BackendOptions):
    """Draws the pictures of a prompt suite with a bundle and scores them beside controls."""

    model: str = str(SHIPPED)
    """Bundle: a folder or a Hub id. By default the one that comes with Tessera."""
    suite: str = "emoji/validation"
    """`emoji/train-sample`, `emoji/validation`, `emoji/heldout-style`, `attributes`, `free`, `lab`, a file of prompts,
    or `SOURCE@SPLIT`, the captions of your own pictures."""
    limit: int | None = None
    """Only this many prompts, chosen by a fixed hash."""
    num_images: int = 1
    """Pictures a prompt, with the seeds `seed`, `seed + 1`, ..."""
    seed: int = 0
    """Fixes the pictures."""
    sweep_guidance: list[float] = field(default_factory=list, metadata={"repeat": True})
    """Draw and score once for each of these in place of `guidance`; give it again for more."""
    batch_size: int = 32
    """Most pictures drawn at a time."""
    out: Path
    """Folder to write; a sweep has a folder in it for each guidance."""

    def __post_init__(self) -> None:
        JudgeOptions.__post_init__(self)
        BackendOptions.__post_init__(self)
        for name in ("num_images", "batch_size"):
            require(self, name, getattr(self, name) >= 1, "1 or more")
        require(self, "seed", 0 <= self.seed < 2**62, "from 0 to 2**62")


def main(options: RunOptions) -> None:
    """Opens everything, so that what is missing is said at once, then draws, scores and says where the result is."""
    state = PartialState(cpu=options.device == "cpu")
    suite = open_suite(options.suite, options.limit)
    bundle = load(options.model, device=options.device)
    bundle.require(options.backend)
    side = open_real(suite, bundle.tokenizer.config.image_size, options)
    for guidance in options.sweep_guidance or [options.guidance]:
        one = dataclasses.replace(options, guidance=guidance, sweep_guidance=[])
        out = options.out / f"guidance-{guidance:g}" if options.sweep_guidance else options.out
        draw(suite, bundle, one, out, state)
        if state.is_main_process:
            evaluate(suite, bundle, side, one, out)
        state.wait_for_everyone()


def draw(suite: Suite, bundle: Bundle, options: RunOptions, out: Path, state: PartialState) -> None:
    """Writes the pictures that are not there yet, each process its share. Raises `BadInput` for another's folder."""
    if state.is_main_process:
        _claim(out, _settings(suite, bundle, options))
    state.wait_for_everyone()
    wanted = [(i, prompt.text) for i, prompt in enumerate(suite.prompts)][state.process_index :: state.num_processes]
    missing = [(i, text) for i, text in wanted if not all(path.is_file() for path in _files(out, i, options))]
    step = max(1, options.batch_size // options.num_images)
    done = (len(wanted) - len(missing)) * options.num_images
    with tqdm(total=len(wanted) * options.num_images, initial=done, unit="image", desc="drawing") as bar:
        for start in range(0, len(missing), step):
            batch = missing[start : start + step]
            begin = time.perf_counter()
            pictures = _generate(bundle, [text for _, text in batch], options)
            seconds = time.perf_counter() - begin
            files = [file for i, _ in batch for file in _files(out, i, options)]
            for file, picture in zip(files, pictures, strict=True):
                with atomic(file) as temporary:
                    to_pil(padded(picture)).save(temporary, format="PNG")
            with (out / f"clock-{state.process_index}.jsonl").open("a") as clock:
                clock.write(json.dumps({"images": len(files), "seconds": seconds}) + "\n")
            bar.update(len(files))
    state.wait_for_everyone()


def evaluate(suite: Suite, bundle: Bundle, side: RealSide, options: RunOptions, out: Path) -> None:
    """Scores the pictures of a folder that `draw` filled, and writes the result and the controls."""
    files = [file for i in range(len(suite.prompts)) for file in _files(out, i, options)]
    made, controls, shown = with_controls(
        side, read_pictures(files), suite.prompts, options.num_images, bundle.tokenizer
    )
    if side.originals:
        captions, originals = [prompt.text for prompt in suite.prompts], torch.stack(list(side.originals))
        if options.backend == "diffusion":
            name, bits = "bits_per_dimension", bound_per_dimension(bundle, captions, originals)
        else:
            name, bits = "bits_per_image", bits_per_image(bundle, captions, originals, options.batch_size)
        made.metrics[name] = mean(bits, higher_is_better=False)
    protocol = {
        **side.judge.protocol,
        "suite": {"name": suite.name, "hash": suite.hash, "count": len(suite.prompts)},
        "seeds": [options.seed + n for n in range(options.num_images)],
        "count": len(files),
        "image_size": bundle.tokenizer.config.image_size,
    }
    seeds = [protocol["seeds"][n % options.num_images] for n in range(len(files))]
    result = {
        **head("generation", f"{options.backend}, guidance {options.guidance:g}", protocol),
        "subject": _subject(bundle, options, out),
        **report(made, controls, len(files)),
        "pictures": [
            {"file": str(file.relative_to(out)), "prompt": suite.prompts[n // options.num_images].text, "seed": seed,
             "scores": per_picture(made, n)}
            for n, (file, seed) in enumerate(zip(files, seeds, strict=True))
        ],
    }  # fmt: skip
    for name, pictures in shown.items():
        if side.originals or name == "nearest_caption":
            save_pictures(out / "controls" / name, pictures)
    write_result(out / "result.json", result)
    shown_figures = figures(made.metrics)
    brief = ", ".join(f"{name} {figure['value']:.4g}" for name, figure in list(shown_figures.items())[:4])
    print(f"{brief} on {len(files)} pictures: {out / 'result.json'}")


def _generate(bundle: Bundle, prompts: list[str], options: RunOptions) -> list[Tensor]:
    return bundle.generate(
        prompts, num_images=options.num_images, seed=options.seed, options=options.sampling,
        batch_size=options.batch_size,
    )  # fmt: skip


def _files(out: Path, i: int, options: RunOptions) -> list[Path]:
    """The pictures of prompt `i`."""
    return [out / "pictures" / f"{i:05d}-{options.seed + n}.png" for n in range(options.num_images)]


def _settings(suite: Suite, bundle: Bundle, options: RunOptions) -> dict[str, Any]:
    return {
        "suite": suite.hash, "backend": options.backend, "seed": options.seed, "num_images": options.num_images,
        "options": to_dict(options.sampling), **bundle.ids,
        "model_id": bundle.model_id(options.backend), "parameters": _parameters(bundle),
    }  # fmt: skip


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Writes what a folder's pictures are drawn with. Raises `BadInput` where it holds others."""
    file = out / "settings.json"
    if file.is_file():
        changed = differences(read_json(file), json.loads(json.dumps(settings)))
        if changed:
            raise BadInput(f"{out}: holds pictures of another run ({'; '.join(changed)}); choose another --out")
    write_json(file, settings)


def _subject(bundle: Bundle, options: RunOptions, out: Path) -> dict[str, Any]:
    lines = [json.loads(line) for file in out.glob("clock-*.jsonl") for line in file.read_text().splitlines()]
    seconds, images = sum(line["seconds"] for line in lines), sum(line["images"] for line in lines)
    return {
        "model": options.model, "backend": options.backend,
        "options": to_dict(options.sampling), **bundle.ids,
        "model_id": bundle.model_id(options.backend), "parameters": _parameters(bundle),
        "training": bundle.training.get(options.backend, {}),
        "seconds": round(seconds, 3), "images_per_second": round(images / seconds, 4) if seconds else 0.0,
        "batch_size": options.batch_size, "device": options.device, "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def _parameters(bundle: Bundle) -> dict[str, int]:
    parts = {f.name: getattr(bundle, f.name) for f in dataclasses.fields(bundle)}
    return {
        name: sum(p.numel() for p in part.parameters())
        for name, part in parts.items() if isinstance(part, torch.nn.Module)
    }  # fmt: skip


if __name__ == "__main__":
    command(main, RunOptions)
