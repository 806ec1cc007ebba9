"""Gives models, stores and runs that were made before ids ignored defaults, or before image tokenizers had parts, the
config and the ids of today, once:

    python -m sampling.rerecord FOLDER [FOLDER ...]

An id was a hash of every field of a config, so that any new field would have made all models strangers to one another;
then it was one of fields that now have other names. This file goes with the next release, after which nobody has old
ids any more.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.store import HEAD, checksum
from tokenizer.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from training.cli import command
from training.config import require
from training.errors import BadInput
from training.files import write_json
from training.pretrained import fingerprint
from training.strict_json import read_json

_RECORDS = ("config.json", "data.json", HEAD)
"""Names of files that say which image tokenizer they go with."""
_NOW = {
    **dict.fromkeys(("patch_size", "width", "encoder_depth", "decoder_depth", "heads", "pixel_width"), "backbone"),
    **dict.fromkeys(("codebook_size", "codebook_dim"), "quantizer"),
}
"""The part that has a field of the old config of an image tokenizer."""


@dataclass(kw_only=True)
class RerecordOptions:
    """Writes the new ids into the files below some folders."""

    folder: list[Path] = field(default_factory=list, metadata={"repeat": True})
    """Folder with image tokenizers, and with what was made with them; the flag may be left out."""

    def __post_init__(self) -> None:
        require(self, "folder", len(self.folder) >= 1, "one folder or more")


def main(options: RerecordOptions) -> None:
    """Finds the image tokenizers and their runs, then everything that names one by its old id."""
    renamed: dict[str, str] = {}
    changed = 0
    for file in _files(options.folder, ("config.json",)):
        values = read_json(file, most=2**31)
        if (told := _with_parts(values)) != values:
            write_json(file, told)
            changed += 1
            print(file)
        if values.get("model") == ImageTokenizer.__name__:
            model = ImageTokenizer.from_pretrained(file.parent)
            renamed |= dict.fromkeys(_old_codes_ids(model), model.codes_id)
    if not renamed:
        raise BadInput(f"{options.folder[0]}: holds no image tokenizer, by which the others are known")
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
    new = ", ".join(f"{old} is {now}" for old, now in renamed.items() if old != now)
    print(f"{changed} files are as of today ({new or 'no id has changed'})")


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


def _with_parts(values: dict[str, Any]) -> dict[str, Any]:
    """The config of an image tokenizer, or of a run that trains one, whose options are those of its parts."""
    if isinstance(values.get("model"), dict) and "patch_size" in values["model"]:
        model, loss = _with_parts(values["model"]), dict(values["loss"])
        model["quantizer"]["commitment"] = loss.pop("commitment")
        return {**values, "model": model, "loss": loss}
    if "patch_size" not in values:
        return values
    told: dict[str, Any] = {name: value for name, value in values.items() if name not in _NOW}
    told |= {"backbone": {"kind": "vit"}, "quantizer": {"kind": "cosine-vq"}}
    for name, part in _NOW.items():
        if name in values:
            told[part][name.removeprefix("codebook_")] = values[name]
    return told


def _old_codes_ids(model: ImageTokenizer) -> list[str]:
    """Of every field, and of those that were not at their defaults; none of a model that there could not be."""
    if (model.config.backbone.kind, model.config.quantizer.kind) != ("vit", "cosine-vq"):
        return []

    def fields(config: ImageTokenizerConfig) -> dict[str, Any]:
        old = {name: getattr(getattr(config, part), name.removeprefix("codebook_")) for name, part in _NOW.items()}
        return {"image_size": config.image_size, **old}

    config, usual = fields(model.config), fields(ImageTokenizerConfig())
    for name in ("decoder_depth", "pixel_width"):
        del config[name]
    parts = ("encoder.", "quantizer.project_in.", "quantizer._codebook.embed.")
    tensors = {name: t for name, t in model.state_dict().items() if f"{name}.".startswith(parts)}
    return [fingerprint(its, tensors) for its in (config, {k: v for k, v in config.items() if v != usual[k]})]


def spelled(argv: list[str]) -> list[str]:
    """`A B` as `--folder A --folder B`."""
    return [argv[0], *(word for one in argv[1:] for word in (("--folder", one) if not one.startswith("-") else (one,)))]


if __name__ == "__main__":
    sys.argv = spelled(sys.argv)
    command(main, RerecordOptions)
