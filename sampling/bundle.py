"""Assembles trained parts into a bundle: `python -m sampling.bundle --text T --tokenizer V ... --out B`."""

import hashlib
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from data.emoji import credits
from sampling.backend import backend_class
from sampling.options import BACKENDS
from sampling.pipeline import Bundle, files_of, load
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.text import TextTokenizer
from training.cli import command
from training.errors import BadInput
from training.files import copy, holds_files, locked, put, remove, write_bytes, write_json, write_text
from training.markdown import fenced, plain, tabulated
from training.record import FILE as RECORD
from training.record import read_record
from training.run import RunFolder
from training.strict_json import read_json

_ART = """
The pictures are emoji: {art}. The weights were trained on this art; what they draw can resemble it, and CC BY-SA asks
that adaptations be shared alike and attributed.
"""


@dataclass(kw_only=True)
class BundleOptions:
    """Copies trained parts into one folder with an index and a model card, after checking that they fit together."""

    text: Path
    """Text tokenizer folder."""
    tokenizer: Path
    """Image tokenizer: the `model` folder of a run."""
    backend: list[str] = field(default_factory=list, metadata={"repeat": True})
    """What draws, `autoregressive=RUN/model` or `diffusion=RUN/model`; give it again for more."""
    reconstruction: Path | None = None
    """Report of `python -m evaluation.reconstruct` on the image tokenizer, for the card."""
    name: str = "Tessera bundle"
    """Title of the model card."""
    out: Path
    """Folder to write."""

    def __post_init__(self) -> None:
        for one in self.backend:
            kind, _, folder = one.partition("=")
            if kind not in BACKENDS or not folder:
                raise BadInput(f"--backend {one}: must be KIND=FOLDER, KIND one of {', '.join(BACKENDS.kinds)}")

    @property
    def models(self) -> dict[str, Path]:
        """Folders of the models that draw, by backend."""
        return {kind: Path(folder) for kind, _, folder in (one.partition("=") for one in self.backend)}


def main(options: BundleOptions) -> None:
    """Assembles, and says where."""
    assemble(options)
    size = sum((options.out / name).stat().st_size for name in _ours(options.out))
    print(f"the bundle is in {options.out} ({size / 1e6:.1f} MB)")


def samples_by(kind: str, text: TextTokenizer, tokenizer: ImageTokenizer) -> Callable[[Any, list[str]], list[Tensor]]:
    """What a trainer draws its samples by: (model, captions) -> pictures."""
    # plain: to lay out the weights of the moment would take longer than to draw twelve pictures
    return lambda model, captions: Bundle(
        text=text, tokenizer=tokenizer, models={kind: model}, engine="plain"
    ).generate(captions)


def bundle_run(kind: str, run: RunFolder, text: str, tokenizer: str) -> None:
    """Puts the model of a finished run into a bundle with the parts that it was trained with, and says so."""
    out, backend = run.path / "bundle", [f"{kind}={run.model}"]
    assemble(BundleOptions(text=Path(text), tokenizer=Path(tokenizer), backend=backend, out=out))
    print(f'ready to draw: python -m sampling.generate --model {out} --backend {kind} --prompt "..."')


def assemble(options: BundleOptions) -> None:
    """Copies the parts, checks that they fit, and writes index and card; of an older bundle it replaces these alone.

    Raises `BadInput` when the parts do not fit, when one has a link among its files, when one lies in `out`, unless in
    its own place there, or `out` in one, or when `out` is there and is no bundle. The older one then stays as it is.
    """
    parts = {"text": options.text, "tokenizer": options.tokenizer, **options.models}
    if len(parts) == 2:
        raise BadInput("nothing in it could draw: give --backend autoregressive=RUN/model, or another")
    out = options.out.resolve()
    _require_apart(parts, out)
    if out.exists() and not _is_bundle(out) and not (out.is_dir() and not holds_files(out)):
        raise BadInput(f"{options.out}: is there already and is no bundle; choose another --out")
    report = _report(options.reconstruction) if options.reconstruction else {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(out), TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as work:
        new, old = Path(work) / "new", Path(work) / "old"
        for name, folder in parts.items():
            _copy(folder, new / name, files_of(options.models)[name])
        write_json(new / "bundle.json", {"version": 1, "parts": list(parts)})
        bundle = _loaded(new, parts)
        if report and report["pixels_id"] != bundle.tokenizer.pixels_id:
            raise BadInput(
                f"{options.reconstruction}: is of the image tokenizer {report['pixels_id']}, "
                f"but this one is {bundle.tokenizer.pixels_id}"
            )
        write_text(new / "README.md", _signed(card(options, bundle, report)))
        _replace(out, new, old)


def _loaded(copies: Path, parts: Mapping[str, Path]) -> Bundle:
    """Raises `BadInput`, naming the part and not its copy, for one that is damaged or belongs to another."""
    try:
        return load(copies)
    except BadInput as error:
        message = str(error)
        for name, folder in parts.items():
            message = message.replace(str(copies / name), str(folder))
        raise BadInput(message) from None


def _require_apart(parts: Mapping[str, Path], out: Path) -> None:
    """Raises `BadInput` for a part that is not there, is amiss in `out`, has it inside, or has a link in its place."""
    for name, folder in parts.items():
        if not folder.is_dir():
            raise BadInput(f"--{name} {folder}: no such folder")
        part = folder.resolve()
        if part != out / name and (part.is_relative_to(out) or out.is_relative_to(part)):
            raise BadInput(f"--{name} {folder}: one of it and --out lies in the other; choose another --out")
    for name in files_of(BACKENDS.kinds):
        if (out / name).is_symlink():
            raise BadInput(f"{out / name}: is a link, through which files elsewhere would be replaced; remove it")


def _copy(part: Path, to: Path, names: Iterable[str]) -> None:
    """Copies the files called `names`, where they are there. Raises `BadInput` where one is no regular file."""
    to.mkdir(parents=True)
    for name in names:
        file = part / name
        if file.is_symlink() or (file.exists() and not file.is_file()):
            raise BadInput(f"{file}: must be a regular file, not a link or a folder; put a copy in its place")
        if name == RECORD and file.exists():
            write_json(to / name, read_record(part))  # without the paths of this machine
        elif file.exists():
            copy(file, to / name)


def _is_bundle(folder: Path) -> bool:
    index = folder / "bundle.json"
    return index.is_file() and isinstance(read_json(index).get("parts"), list)


def _ours(folder: Path) -> list[str]:
    """The files of a bundle that assembling has written; a card only as it was written."""
    names = [f"{part}/{name}" for part, its in files_of(BACKENDS.kinds).items() for name in its]
    there = [name for name in [*names, "bundle.json", "README.md"] if (folder / name).is_file()]
    return [name for name in there if name != "README.md" or _is_signed(folder / name)]


def _replace(out: Path, new: Path, old: Path) -> None:
    """Moves what is `new` into `out` and what is there of ours into `old`, or nothing where that fails.

    Until all is in place the index lists no parts, so that a bundle half replaced by a process that was killed is not
    taken for one, and assembling again mends it.
    """
    if not out.exists() or not holds_files(out):
        put(new, out)
        return
    older, newer, readme = _ours(out), _ours(new), out / "README.md"
    older.remove("bundle.json")
    if "README.md" not in older and (readme.exists() or readme.is_symlink()):
        warnings.warn(f"{readme}: was not written by this command, or changed since, and stays", stacklevel=3)
        newer.remove("README.md")
    moved: list[tuple[Path, Path]] = []
    index = (out / "bundle.json").read_bytes()
    try:
        write_json(out / "bundle.json", {"version": 1, "parts": []})
        for names, source, target in ((older, out, old), (newer, new, out)):
            for name in sorted(names, key="bundle.json".__eq__):  # the index last
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                put(source / name, target / name)
                moved.append((source / name, target / name))
    except BaseException:
        for source, target in reversed(moved):
            put(target, source)
        write_bytes(out / "bundle.json", index)
        raise
    finally:
        for part in files_of(BACKENDS.kinds):
            if (out / part).is_dir() and not any((out / part).iterdir()):
                remove(out / part)


def _signed(text: str) -> str:
    """A card with a mark, which readers do not see, after its front matter: a hash of the rest."""
    front, end, rest = text.partition("\n---\n")
    return f"{front}{end}\n<!-- python -m sampling.bundle {_digest(front + end + rest)} -->\n{rest}"


def _is_signed(file: Path) -> bool:
    """Whether a card is as it was written: nobody's words are in it."""
    text = file.read_text(encoding="utf-8", errors="replace")
    rest, marks = re.subn(r"\n<!-- python -m sampling\.bundle (\w+) -->\n", "", text)
    mark = re.search(r"sampling\.bundle (\w+) -->", text)
    return marks == 1 and mark is not None and mark[1] == _digest(rest)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _report(file: Path) -> dict[str, Any]:
    report = read_json(file)
    missing = {"metrics", "count", "source", "pixels_id"} - report.keys()
    if missing:
        raise BadInput(f"{file}: not a report of `python -m evaluation.reconstruct`: lacks {min(missing)}")
    return report


def card(options: BundleOptions, bundle: Bundle, report: dict[str, Any]) -> str:
    """The model card, in Markdown with the front matter of the Hub."""
    runs = {"Image tokenizer": read_record(options.tokenizer)}
    runs |= {backend_class(kind).title.capitalize(): read_record(folder) for kind, folder in options.models.items()}
    data = [str(run.get("data")) for run in runs.values()]
    emoji = [source for source in data if source.partition(":")[0] == "emoji"]
    licence = "cc-by-sa-4.0" if emoji else "other"
    sections = [
        f"---\nlibrary_name: tessera\npipeline_tag: text-to-image\nlicense: {licence}\n---",
        f"# {plain(options.name)}",
        f"Text to image: {_contents(bundle)}, belonging together.\nAssembled {datetime.now(UTC):%Y-%m-%d}.",
        "```python\nfrom sampling import load\n\npictures = load(PATH).generate([PROMPT])\n```",
        "## Parts\n\n" + _parts(bundle),
        "## Training\n\n" + "\n\n".join(_training(name, run) for name, run in runs.items()),
    ]
    if report:
        sections.append("## Reconstruction by the image tokenizer\n\n" + _metrics(report))
    if emoji:
        sections.append("## Data and licences\n" + _ART.rstrip().format(art=credits(emoji)))
    return "\n\n".join(sections) + "\n"


def _contents(bundle: Bundle) -> str:
    titles = [f"a {backend_class(kind).title}" for kind in bundle.models]
    *names, last = ["a text tokenizer", "an image tokenizer", *titles]
    return f"{', '.join(names)} and {last}"


def _parts(bundle: Bundle) -> str:
    def millions(model: Any) -> str:
        return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"

    image = bundle.tokenizer.config
    rows = [
        ("text", f"SentencePiece, {bundle.text.vocab_size} pieces", f"text_id {bundle.text.text_id}"),
        (
            "tokenizer",
            f"{image.backbone.kind} with {image.quantizer.kind}, {image.image_size} px, "
            f"{image.grid}x{image.grid} tokens of {image.quantizer.size} codes, {millions(bundle.tokenizer)}",
            f"codes_id {bundle.tokenizer.codes_id}, pixels_id {bundle.tokenizer.pixels_id}",
        ),
    ]
    rows += [(kind, millions(model), f"codes_id {model.config.codes_id}") for kind, model in bundle.models.items()]
    return tabulated(("part", "what", "ids"), rows)


def _training(name: str, run: dict[str, Any]) -> str:
    if not run:
        return f"**{name}**: no `training.json` lies beside the weights, so nothing is known of its training."
    figures = ", ".join(f"{plain(key)} {value:.3f}" for key, value in sorted(run["figures"].items()))
    cost = [f"{run['flops'] / 1e15:.3g} PFLOP"] if run.get("flops") else []
    if run.get("seconds"):
        precision = plain(run["precision"].replace("no", "float32"))
        cost.append(f"{run['seconds'] / 60:.0f} minutes on {plain(run['device'])} in {precision}")
    return (
        f"**{name}**: {run['steps']} steps of {run['batch_size']} pictures of {plain(run['data'])}, seed {run['seed']}"
        f"{''.join(f'; {part}' for part in cost)}. At the end: {figures}.\n\n{fenced(run['command'])}"
        + ("\n\n" + _training(f"{name}, which that started from", run["init"]) if "init" in run else "")
    )


def _metrics(report: dict[str, Any]) -> str:
    rows = [
        (name, f"{m['value']:.4g}", f"{m['low']:.4g} to {m['high']:.4g}" if m.get("low") is not None else "")
        for name, m in report["metrics"].items()
    ]
    head = f"On {report['count']} pictures of {plain(report['source'])}, 95 % intervals by bootstrap.\n\n"
    return head + tabulated(("metric", "value", "interval"), rows)


if __name__ == "__main__":
    command(main, BundleOptions)
