"""Gives models, stores and runs that were made before ids ignored defaults their new ids, once:

    python -m sampling.rerecord FOLDER [FOLDER ...]

An id was a hash of every field of a config, so that any new field would have made all models strangers to one another.
This file goes with the next release, after which nobody has old ids any more.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.store import HEAD, checksum
from tokenizer.image_tokenizer import ImageTokenizer
from training.cli import command
from training.config import require, to_dict
from training.errors import BadInput
from training.files import write_json
from training.pretrained import fingerprint
from training.strict_json import read_json

_RECORDS = ("config.json", "data.json", HEAD)
"""Names of files that say which image tokenizer they go with."""


@dataclass(kw_only=True)
class RerecordOptions:
    """Writes the new ids into the files below some folders."""

    folder: list[Path] = field(default_factory=list, metadata={"repeat": True})
    """Folder with image tokenizers, and with what was made with them; the flag may be left out."""

    def __post_init__(self) -> None:
        require(self, "folder", len(self.folder) >= 1, "one folder or more")


def main(options: RerecordOptions) -> None:
    """Finds the image tokenizers, then everything that names one by its old id."""
    renamed = {}
    for file in _files(options.folder, ("config.json",)):
        if read_json(file, most=2**31).get("model") == ImageTokenizer.__name__:
            model = ImageTokenizer.from_pretrained(file.parent)
            renamed[_old_codes_id(model)] = model.codes_id
    if not renamed:
        raise BadInput(f"{options.folder[0]}: holds no image tokenizer, by which the others are known")
    changed = 0
    for file in _files(options.folder, _RECORDS):
        values = read_json(file, most=2**31, finite=False)
        told = _told(values, renamed)
        if told == values:
            continue
        if file.name == HEAD:
            told["checksum"] = checksum(told)
        write_json(file, told)
        changed += 1
        print(file)
    print(f"{changed} files have new ids ({', '.join(f'{old} is {new}' for old, new in renamed.items())})")


def _files(folders: list[Path], names: tuple[str, ...]) -> Iterator[Path]:
    for folder in folders:
        if not folder.is_dir():
            raise BadInput(f"{folder}: no such folder")
        yield from sorted(file for name in names for file in folder.rglob(name) if file.is_file())


def _told(value: Any, renamed: dict[str, str]) -> Any:
    """A value in which every `codes_id` is the new one."""
    if isinstance(value, dict):
        return {
            name: renamed.get(one, one) if name == "codes_id" and isinstance(one, str) else _told(one, renamed)
            for name, one in value.items()
        }
    return [_told(one, renamed) for one in value] if isinstance(value, list) else value


def _old_codes_id(model: ImageTokenizer) -> str:
    config = {
        name: value for name, value in to_dict(model.config).items() if name not in ("decoder_depth", "pixel_width")
    }
    parts = ("encoder.", "quantizer.project_in.", "quantizer._codebook.embed.")
    return fingerprint(config, {name: t for name, t in model.state_dict().items() if f"{name}.".startswith(parts)})


def spelled(argv: list[str]) -> list[str]:
    """`A B` as `--folder A --folder B`."""
    return [argv[0], *(word for one in argv[1:] for word in (("--folder", one) if not one.startswith("-") else (one,)))]


if __name__ == "__main__":
    sys.argv = spelled(sys.argv)
    command(main, RerecordOptions)
