"""Assemble trained models into a bundle: `python -m sampling.bundle --text T --tokenizer V ... --out B`."""

import hashlib
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from sampling.card import card, read_report, read_result
from sampling.options import BACKENDS
from sampling.pipeline import Bundle, load, part_files
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.text import TextTokenizer
from training.cli import command
from training.errors import BadInput
from training.files import copy, holds_files, locked, put, remove, write_bytes, write_json, write_text
from training.hub import fetched
from training.record import FILE as RECORD
from training.record import read_record
from training.run import RunFolder
from training.strict_json import read_json


@dataclass(kw_only=True)
class BundleOptions:
    """Copy trained models into one folder with an index and a model card, after checking that they fit together."""

    text: Path
    """Text tokenizer: a folder. Each of the parts may also be on the Hub, `hf://owner/name@commit`."""
    tokenizer: Path
    """Image tokenizer: the `model` folder of a run."""
    backend: list[str] = field(default_factory=list)
    """Model that draws, `autoregressive=RUN/model` or `diffusion=RUN/model`; repeat the flag for more models."""
    upsampler: Path | None = None
    """Upsampler, to draw with `--upscale`: the `model` folder of a run of `tokenizer/train_upsampler.py`."""
    reconstruction: Path | None = None
    """Report of `python -m evaluation.reconstruct` on the image tokenizer, for the model card."""
    result: list[Path] = field(default_factory=list)
    """Results of `python -m evaluation.run` on the models, for the model card: `result.json` files."""
    name: str = "Tessera bundle"
    """Title of the model card."""
    out: Path
    """Folder to write to."""

    def __post_init__(self) -> None:
        for one in self.backend:
            kind, _, folder = one.partition("=")
            if kind not in BACKENDS or not folder:
                raise BadInput(f"--backend {one}: must be KIND=FOLDER, KIND one of {', '.join(BACKENDS.kinds)}")
        if len(self.models) < len(self.backend):
            raise BadInput(f"--backend {' '.join(self.backend)}: a bundle holds one model of each kind")

    @property
    def models(self) -> dict[str, Path]:
        """Folders of the models that draw, by backend."""
        return {kind: Path(folder) for kind, _, folder in (one.partition("=") for one in self.backend)}


def main(options: BundleOptions) -> None:
    """Assemble the bundle and print where it is."""
    assemble(options)
    size = sum((options.out / name).stat().st_size for name in _written_files(options.out))
    print(f"the bundle is in {options.out} ({size / 1e6:.1f} MB)")


def samples_by(kind: str, text: TextTokenizer, tokenizer: ImageTokenizer) -> Callable[[Any, list[str]], list[Tensor]]:
    """The function by which a trainer draws sample pictures: (model, captions) -> uint8 (3, H, W) each."""
    # engine "plain": preparing another one for the current weights takes longer than drawing twelve pictures
    # `draw` and not `generate`, because captions may be longer than prompts
    return lambda model, captions: Bundle(text=text, tokenizer=tokenizer, models={kind: model}, engine="plain").draw(
        [(caption, 0) for caption in captions]
    )


def bundle_run(kind: str, run: RunFolder, text: str, tokenizer: str) -> None:
    """Assemble a bundle from a finished run and the tokenizers that it was trained with, and print how to draw."""
    out, backend = run.path / "bundle", [f"{kind}={run.model}"]
    assemble(BundleOptions(text=Path(text), tokenizer=Path(tokenizer), backend=backend, out=out))
    print(f'ready to draw: python -m sampling.generate --model {out} --backend {kind} --prompt "..."')


def assemble(options: BundleOptions) -> None:
    """Copy the parts, check that they fit together, and write index and model card.

    In an existing bundle only these files are replaced. Raises `BadInput`, and leaves an existing bundle as it is:

    - when the parts do not fit together, or one of their files is a link to outside its folder;
    - when a part lies inside `out` (other than as that part of the bundle), or `out` inside a part;
    - when `out` has files and is not a bundle.
    """
    given = {"text": options.text, "tokenizer": options.tokenizer, **options.models}
    given |= {"upsampler": options.upsampler} if options.upsampler else {}
    if not options.models:
        raise BadInput("the bundle would have no model that draws: give --backend autoregressive=RUN/model, or another")
    out, files = options.out.resolve(), part_files(options.models)
    parts = {name: fetched(path, files[name])[0] for name, path in given.items()}
    _require_apart(parts, out)
    if out.exists() and not _is_bundle(out) and not (out.is_dir() and not holds_files(out)):
        raise BadInput(f"{options.out}: is there already and is not a bundle; choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(out), TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as work:
        new, old = Path(work) / "new", Path(work) / "old"
        for name, folder in parts.items():
            _copy(folder, new / name, files[name])
        write_json(new / "bundle.json", {"version": 1, "parts": list(parts)})
        bundle = _loaded(new, parts)
        report = read_report(options.reconstruction, bundle) if options.reconstruction else {}
        results = [read_result(file, bundle) for file in options.result]
        write_text(new / "README.md", _signed(card(options.name, parts, bundle, report, results)))
        _replace(out, new, old)


def _loaded(copies: Path, parts: Mapping[str, Path]) -> Bundle:
    """Load the copied bundle. Errors (`BadInput`) name the original folder of a part, not its copy."""
    try:
        return load(copies)
    except BadInput as error:
        message = str(error)
        for name, folder in parts.items():
            message = message.replace(str(copies / name), str(folder))
        raise BadInput(message) from None


def _require_apart(parts: Mapping[str, Path], out: Path) -> None:
    """Raise `BadInput` for a part that lies inside `out` or contains it, or whose place is a link."""
    for name, folder in parts.items():
        part = folder.resolve()
        if part != out / name and (part.is_relative_to(out) or out.is_relative_to(part)):
            raise BadInput(f"--{name} {folder}: this folder and --out lie in one another; choose another --out")
    for name in part_files(BACKENDS.kinds):
        if (out / name).is_symlink():
            raise BadInput(f"{out / name}: is a link, through which files elsewhere would be replaced; remove it")


def _copy(part: Path, to: Path, names: Iterable[str]) -> None:
    """Copy those of the files `names` that exist. Raises `BadInput` for one that is not a regular file."""
    to.mkdir(parents=True)
    for name in names:
        file = part / name
        if file.exists() and not file.is_file():
            raise BadInput(f"{file}: must be a regular file")
        if name == RECORD and file.exists():
            write_json(to / name, read_record(part))  # which removes the paths of this machine
        elif file.exists():
            copy(file, to / name)


def _is_bundle(folder: Path) -> bool:
    index = folder / "bundle.json"
    return index.is_file() and isinstance(read_json(index).get("parts"), list)


def _written_files(folder: Path) -> list[str]:
    """The files of a bundle that this command wrote; the model card only if nobody has changed it since."""
    names = [f"{part}/{name}" for part, files in part_files(BACKENDS.kinds).items() for name in files]
    existing = [name for name in [*names, "bundle.json", "README.md"] if (folder / name).is_file()]
    return [name for name in existing if name != "README.md" or _is_signed(folder / name)]


def _replace(out: Path, new: Path, old: Path) -> None:
    """Move the files in `new` into `out`, and the ones that they replace into `old`; undo all if that fails.

    The index lists no parts until all files are in place. So if the process is killed, the half-replaced bundle cannot
    be loaded, and assembling again repairs it.
    """
    if not out.exists() or not holds_files(out):
        put(new, out)
        return
    older, newer, readme = _written_files(out), _written_files(new), out / "README.md"
    older.remove("bundle.json")
    if "README.md" not in older and (readme.exists() or readme.is_symlink()):
        warnings.warn(f"{readme}: was not written by this command, or was changed since, so it is kept", stacklevel=3)
        newer.remove("README.md")
    moved: list[tuple[Path, Path]] = []
    index = (out / "bundle.json").read_bytes()
    try:
        write_json(out / "bundle.json", {"version": 1, "parts": []})
        for names, source, target in ((older, out, old), (newer, new, out)):
            for name in sorted(names, key="bundle.json".__eq__):  # moves the index last
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                put(source / name, target / name)
                moved.append((source / name, target / name))
    except BaseException:
        for source, target in reversed(moved):
            put(target, source)
        write_bytes(out / "bundle.json", index)
        raise
    finally:
        for part in part_files(BACKENDS.kinds):
            if (out / part).is_dir() and not any((out / part).iterdir()):
                remove(out / part)


def _signed(text: str) -> str:
    """The model card with a hash of its text, as an HTML comment after its front matter."""
    front, end, rest = text.partition("\n---\n")
    return f"{front}{end}\n<!-- python -m sampling.bundle {_digest(front + end + rest)} -->\n{rest}"


def _is_signed(file: Path) -> bool:
    """Whether a model card still matches its hash, so that nobody has changed it."""
    text = file.read_text(encoding="utf-8", errors="replace")
    rest, marks = re.subn(r"\n<!-- python -m sampling\.bundle (\w+) -->\n", "", text)
    mark = re.search(r"sampling\.bundle (\w+) -->", text)
    return marks == 1 and mark is not None and mark[1] == _digest(rest)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


if __name__ == "__main__":
    command(main, BundleOptions)
