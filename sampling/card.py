"""The model card of a bundle, in Markdown: its parts, how they were trained, what was measured, data and licences."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.emoji import credits
from sampling.backend import backend_class
from sampling.pipeline import Bundle
from training.errors import BadInput
from training.markdown import fenced, plain, tabulated
from training.record import read_record
from training.strict_json import read_json

_ART = """
The pictures are emoji: {art}. The weights were trained on this art; what they draw can resemble it, and CC BY-SA asks
that adaptations be shared alike and attributed.
"""
HEADLINES = (
    "fid", "clip_score", "kid_lite1", "retrieval_top1_lite1", "retrieval_top5_lite1", "style_accuracy_lite1",
    "concept_and_style_lite1", "attribute_accuracy", "bits_per_image", "bits_per_dimension",
)  # fmt: skip
"""Metrics for a short table. Of the Lite networks it has Lite1, which no training loss uses."""


def card(
    title: str,
    parts: Mapping[str, Path],
    bundle: Bundle,
    report: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
) -> str:
    """The model card in Markdown, with the front matter that the Hub reads.

    Args:
        parts: the folders of the models, with their training records.
        report: of `evaluation.reconstruct`, or empty.
        results: of `evaluation.run`.
    """
    names = {"tokenizer": "image tokenizer", **{kind: backend_class(kind).title for kind in bundle.models}}
    runs = {names.get(part, part).capitalize(): read_record(folder) for part, folder in parts.items() if part != "text"}
    emoji = emoji_sources([str(run.get("data")) for run in runs.values()])
    licence = "cc-by-sa-4.0" if emoji else "other"
    sections = [
        f"---\nlibrary_name: tessera\npipeline_tag: text-to-image\nlicense: {licence}\n---",
        f"# {plain(title)}",
        f"Text to image: {_contents(bundle)}, which fit together.\nAssembled {datetime.now(UTC):%Y-%m-%d}.",
        "```python\nfrom sampling import load\n\npictures = load(PATH).generate([PROMPT])\n```",
        "## Parts\n\n" + _parts(bundle),
        "## Training\n\n" + "\n\n".join(_training(name, run) for name, run in runs.items()),
    ]
    if report:
        sections.append("## Reconstruction by the image tokenizer\n\n" + _metrics(report))
    if results:
        sections.append("## What it draws\n\n" + "\n\n".join(map(_drawn, results)))
    if emoji:
        sections.append("## Data and licences\n" + _ART.rstrip().format(art=credits(emoji)))
    return "\n\n".join(sections) + "\n"


def emoji_sources(data: Sequence[str]) -> list[str]:
    """Those of the sources in `data`, which may be joined by `+`, whose pictures are emoji. Scenes have all styles."""
    sources = [one for joined in data for one in joined.split("+")]
    return ["emoji" if one.startswith("scenes") else one for one in sources if re.match(r"(emoji|scenes)(:|$)", one)]


def _contents(bundle: Bundle) -> str:
    titles = [f"a {backend_class(kind).title}" for kind in bundle.models]
    titles += ["an upsampler"] if bundle.upsampler else []
    *names, last = ["a text tokenizer", "an image tokenizer", *titles]
    return f"{', '.join(names)} and {last}"


def _parts(bundle: Bundle) -> str:
    def millions(model: Any) -> str:
        return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"

    tokenizer = bundle.tokenizer
    image = tokenizer.config
    what = f"tokens of {tokenizer.codebook_size} codes" if tokenizer.has_codes else f"latents of {image.quantizer.dim}"
    columns = tokenizer.columns if tokenizer.has_codes else image.grid
    rows = [
        ("text", f"SentencePiece, {bundle.text.vocab_size} pieces", f"text_id {bundle.text.text_id}"),
        (
            "tokenizer",
            f"{image.backbone.kind} with {image.quantizer.kind}, {image.image_size} px, "
            f"{image.grid}x{columns} {what}, {millions(tokenizer)}",
            ", ".join(f"{name} {value}" for name, value in tokenizer.ids.items()),
        ),
    ]
    for kind, model in bundle.models.items():
        name = bundle.backend(kind).image_id
        rows.append((kind, millions(model), f"{name} {getattr(model.config, name)}"))
    if bundle.upsampler:
        what = f"{bundle.upsampler.config.scale} times as wide and high, {millions(bundle.upsampler)}"
        rows.append(("upsampler", what, f"upsampler_id {bundle.upsampler_id}"))
    return tabulated(("part", "what", "ids"), rows)


def _training(name: str, run: Mapping[str, Any]) -> str:
    """How a part was trained. If its run started from another one, that comes first."""
    runs = [run]
    while "init" in runs[0]:
        runs.insert(0, runs[0]["init"])
    names = [f"{name}, run {i} of {len(runs)}" if len(runs) > 1 else name for i in range(1, len(runs) + 1)]
    return "\n\n".join(map(_run, names, runs))


def _run(name: str, run: Mapping[str, Any]) -> str:
    if not run:
        return f"**{name}**: unknown, because no `training.json` lies beside the weights."
    figures = ", ".join(f"{plain(key)} {value:.3f}" for key, value in sorted(run["figures"].items()))
    cost = [f"{run['flops'] / 1e15:.3g} PFLOP"] if run.get("flops") else []
    if run.get("seconds"):
        precision = plain(run["precision"].replace("no", "float32"))
        cost.append(f"{run['seconds'] / 60:.0f} minutes on {plain(run['device'])} in {precision}")
    steps = ", ".join(map(str, run.get("averaged", [])))
    averaged = f" The weights are the mean of those after steps {steps}." if steps else ""
    return (
        f"**{name}**: {run['steps']} steps of {run['batch_size']} pictures of {plain(run['data'])}, seed {run['seed']}"
        f"{''.join(f'; {part}' for part in cost)}. At the end: {figures}.{averaged}\n\n{fenced(run['command'])}"
    )


def _metrics(report: Mapping[str, Any]) -> str:
    rows = [(name, _figure(metric)) for name, metric in report["metrics"].items()]
    head = f"On {report['count']} pictures of {plain(report['source'])}, 95 % intervals by bootstrap.\n\n"
    return head + tabulated(("metric", "value"), rows)


def _drawn(result: Mapping[str, Any]) -> str:
    """The figures of one result, beside those of its control pictures."""
    subject, controls = result["subject"], result["controls"]
    columns = [result["metrics"], *(control["metrics"] for control in controls.values())]
    head = ("metric", "drawn", *(name.replace("_", " ") for name in controls))
    rows = [(name, *(_figure(column.get(name)) for column in columns)) for name in result["metrics"]]
    headlines = [row for row in rows if row[0] in HEADLINES]
    options = ", ".join(f"{name} {value}" for name, value in subject["options"].items() if value not in (None, ""))
    return (
        f"**{plain(result['protocol']['suite']['name'])}, {plain(subject['backend'])}**: {result['count']} pictures; "
        f"{plain(options)}. 95 % intervals by bootstrap; the controls are scored in the same run.\n\n"
        f"{tabulated(head, headlines)}\n\n"
        f"<details><summary>All {len(rows)} metrics</summary>\n\n{tabulated(head, rows)}\n\n</details>"
    )


def _figure(metric: Mapping[str, Any] | None) -> str:
    if metric is None:
        return ""
    interval = f" ({metric['low']:.3g} to {metric['high']:.3g})" if metric.get("low") is not None else ""
    return f"{metric['value']:.4g}{interval}"


def read_report(file: Path, bundle: Bundle) -> dict[str, Any]:
    """A report of `evaluation.reconstruct`. Raises `BadInput` if it is damaged or of another image tokenizer."""
    report = read_json(file)
    missing = {"metrics", "count", "source", "pixels_id"} - report.keys()
    if missing:
        raise BadInput(f"{file}: not a report of `python -m evaluation.reconstruct`: lacks {min(missing)}")
    if report["pixels_id"] != bundle.tokenizer.pixels_id:
        raise BadInput(
            f"{file}: is of the image tokenizer {report['pixels_id']}, but this one is {bundle.tokenizer.pixels_id}"
        )
    with _whole(file):
        _metrics(report)
    return report


def read_result(file: Path, bundle: Bundle) -> dict[str, Any]:
    """A result of `evaluation.run`. Raises `BadInput` if it is damaged or of other models."""
    result = read_json(file)
    missing = {"metrics", "count", "controls", "protocol", "subject"} - result.keys()
    with _whole(file):
        if missing or not result["protocol"].get("suite"):
            raise BadInput(f"{file}: not a result of `python -m evaluation.run`: lacks {min(missing or {'a suite'})}")
        subject = result["subject"]
        model = bundle.models.get(subject["backend"])
        for name, here in (("model_id", model and model.model_id), ("pixels_id", bundle.tokenizer.pixels_id)):
            if subject[name] != here:
                raise BadInput(f"{file}: is of a model with {name} {subject[name]}, but here it is {here}")
        _drawn(result)
    return result


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    """A context in which a value that `file` lacks, or that is of another type, is a `BadInput`."""
    try:
        yield
    except BadInput:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{file}: is damaged ({type(error).__name__}: {error})") from None
