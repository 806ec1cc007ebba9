"""Assembles trained parts into a bundle: `python -m sampling.bundle --text T --tokenizer V ... --out B`."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sampling.pipeline import Bundle, load
from training.cli import command
from training.errors import BadInput
from training.files import atomic, write_json, write_text
from training.record import read_record
from training.strict_json import read_json

_ART = """
The pictures are emoji in three hands: Twemoji (c) Twitter, Inc and other contributors, CC-BY 4.0; OpenMoji, CC BY-SA
4.0; Noto Emoji (c) Google, OFL 1.1. The weights were trained on this art; what they draw can resemble it, and
CC BY-SA asks that adaptations be shared alike and attributed.
"""


@dataclass(kw_only=True)
class BundleOptions:
    """Copies trained parts into one folder with an index and a model card, after checking that they fit together."""

    text: Path
    """Text tokenizer folder."""
    tokenizer: Path
    """Image tokenizer: the `model` folder of a run."""
    autoregressive: Path | None = None
    """Token model: the `model` folder of a run. It, a diffusion model or both."""
    diffusion: Path | None = None
    """Diffusion model: the `model` folder of a run."""
    reconstruction: Path | None = None
    """Report of `python -m evaluation.reconstruct` on the image tokenizer, for the card."""
    name: str = "Tessera bundle"
    """Title of the model card."""
    out: Path
    """Folder to write."""


def main(options: BundleOptions) -> None:
    """Assembles, and says where."""
    assemble(options)
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    print(f"the bundle is in {options.out} ({size / 1e6:.1f} MB)")


def assemble(options: BundleOptions) -> None:
    """Copies the parts, checks that they fit, and writes index and card. Raises `BadInput` when they do not."""
    backends = {"autoregressive": options.autoregressive, "diffusion": options.diffusion}
    parts = {"text": options.text, "tokenizer": options.tokenizer}
    parts |= {name: folder for name, folder in backends.items() if folder is not None}
    if len(parts) == 2:
        raise BadInput("nothing in it could draw: give --autoregressive, --diffusion or both")
    for name, folder in parts.items():
        if not folder.is_dir():
            raise BadInput(f"--{name} {folder}: no such folder")
    out = options.out
    if out.exists() and not (out / "bundle.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise BadInput(f"{out}: is there already and is no bundle; choose another --out")
    report = _report(options.reconstruction) if options.reconstruction else {}
    with atomic(options.out) as temporary:
        for name, folder in parts.items():
            shutil.copytree(folder, temporary / name, ignore=shutil.ignore_patterns("README.md"))
        write_json(temporary / "bundle.json", {"version": 1, "parts": list(parts)})
        bundle = load(temporary)  # which refuses parts that do not belong together
        if report and report["pixels_id"] != bundle.tokenizer.pixels_id:
            raise BadInput(
                f"{options.reconstruction}: is of the image tokenizer {report['pixels_id']}, "
                f"but this one is {bundle.tokenizer.pixels_id}"
            )
        for file in out.glob("*.png") if out.is_dir() else ():  # pictures that a card or a README shows
            shutil.copy2(file, temporary)
        write_text(temporary / "README.md", card(options, bundle, report))


def _report(file: Path) -> dict[str, Any]:
    report = read_json(file)
    missing = {"metrics", "count", "source", "pixels_id"} - report.keys()
    if missing:
        raise BadInput(f"{file}: not a report of `python -m evaluation.reconstruct`: lacks {min(missing)}")
    return report


def card(options: BundleOptions, bundle: Bundle, report: dict[str, Any]) -> str:
    """The model card, in Markdown with the front matter of the Hub."""
    models = {
        "Image tokenizer": options.tokenizer,
        "Token model": options.autoregressive,
        "Diffusion model": options.diffusion,
    }
    runs = {name: read_record(folder) for name, folder in models.items() if folder is not None}
    emoji = any(run.get("data") == "emoji" for run in runs.values())
    licence = "cc-by-sa-4.0" if emoji else "other"
    sections = [
        f"---\nlibrary_name: tessera\npipeline_tag: text-to-image\nlicense: {licence}\n---",
        f"# {options.name}",
        f"Text to image: {_contents(bundle)}, belonging together.\n"
        "Assembled "
        + datetime.now(UTC).strftime("%Y-%m-%d")
        + ".\n\n```python\nfrom sampling import load\n\npictures = load(PATH).generate([PROMPT])\n```",
        "## Parts\n\n" + _parts(bundle),
        "## Training\n\n" + "\n\n".join(_training(name, run) for name, run in runs.items()),
    ]
    if report:
        sections.append("## Reconstruction by the image tokenizer\n\n" + _metrics(report))
    if emoji:
        sections.append("## Data and licences\n" + _ART.rstrip())
    return "\n\n".join(sections) + "\n"


def _contents(bundle: Bundle) -> str:
    backends = {"a token model": bundle.autoregressive, "a diffusion model": bundle.diffusion}
    *names, last = [
        "a text tokenizer",
        "a ViT-VQGAN image tokenizer",
        *(name for name, model in backends.items() if model is not None),
    ]
    return f"{', '.join(names)} and {last}"


def _parts(bundle: Bundle) -> str:
    def millions(model: Any) -> str:
        return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"

    image = bundle.tokenizer.config
    rows = [
        ("text", f"SentencePiece, {bundle.text.vocab_size} pieces", f"`text_id` {bundle.text.text_id}"),
        (
            "tokenizer",
            f"{image.image_size} px, {image.grid}x{image.grid} tokens of {image.codebook_size} codes, "
            + millions(bundle.tokenizer),
            f"`codes_id` {bundle.tokenizer.codes_id}, `pixels_id` {bundle.tokenizer.pixels_id}",
        ),
    ]
    for name, model in (("autoregressive", bundle.autoregressive), ("diffusion", bundle.diffusion)):
        if model is not None:
            rows.append((name, millions(model), f"`codes_id` {model.config.codes_id}"))
    return _table(("part", "what", "ids"), rows)


def _training(name: str, run: dict[str, Any]) -> str:
    if not run:
        return f"**{name}**: no `training.json` lies beside the weights, so nothing is known of its training."
    figures = ", ".join(f"{key} {value:.3f}" for key, value in sorted(run["figures"].items()))
    cost = [f"{run['flops'] / 1e15:.3g} PFLOP"] if run.get("flops") else []
    cost += (
        [f"{run['seconds'] / 60:.0f} minutes on {run['device']} in {run['precision'].replace('no', 'float32')}"]
        if run.get("seconds")
        else []
    )
    return (
        f"**{name}**: {run['steps']} steps of {run['batch_size']} pictures of `{run['data']}`, seed {run['seed']}"
        f"{''.join(f'; {part}' for part in cost)}. At the end: {figures}.\n\n```\n{run['command']}\n```"
        + ("\n\n" + _training(f"{name}, which that started from", run["init"]) if "init" in run else "")
    )


def _metrics(report: dict[str, Any]) -> str:
    rows = [
        (name, f"{m['value']:.4g}", f"{m['low']:.4g} to {m['high']:.4g}" if m.get("low") is not None else "")
        for name, m in report["metrics"].items()
    ]
    head = f"On {report['count']} pictures of `{report['source']}`, 95 % intervals by bootstrap.\n\n"
    return head + _table(("metric", "value", "interval"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    command(main, BundleOptions)
