"""Captioned pictures in WebDataset shards: tar files with each picture beside its caption, under one name.

    000001.jpg
    000001.txt     a cat on a sofa
    000002.png
    000002.json    {"text": "a dog"} or {"caption": "a dog"}, perhaps with {"split": "validation"}

The split of a picture is the `split` in its JSON. Without one, the name of the shard decides, as in `train-00000.tar`,
or of the folder that the shard is in, as in `train/00000.tar`.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from data.corpus import Corpus
from data.files import content_hashes, files_of, is_hidden
from data.picture import SUFFIXES, VERSION
from data.splits import assign_splits, split_from_path
from training.errors import BadInput
from training.strict_json import parse_json

_LONGEST_TEXT = 2**20
"""Most bytes of a caption's file."""


@dataclass
class _Sample:
    """The files under one name in a shard."""

    shard: Path
    name: str
    picture: tuple[int, int] | None = None
    """Offset and length of the picture's file in the shard."""
    texts: dict[str, str] = field(default_factory=dict)
    """The caption as `text`, and the `split` if stated."""


class TarCorpus(Corpus):
    """Captioned pictures in one shard, or in all shards below a folder."""

    def __init__(self, path: Path, cache: Path, *, captionless: bool = False) -> None:
        """Reads the list of files in each shard, and the captions. Raises `BadInput`.

        With `captionless`, pictures without a caption are included.
        """
        folder, files = files_of(path, ".tar")
        self.name = path.resolve().stem
        self.recipe = hashlib.blake2b(repr((VERSION, content_hashes(files, cache))).encode()).hexdigest()
        self._samples: list[_Sample] = []
        keys, left_out = list[str](), dict[str, str]()
        for sample in (sample for file in files for sample in _samples(file, captionless)):
            key = f"{sample.shard.relative_to(folder).as_posix()}/{sample.name}"
            if sample.picture is None:
                continue
            if "text" not in sample.texts and not captionless:
                left_out[key] = "has no caption"
                continue
            keys.append(key)
            self._samples.append(sample)
        self.left_out = left_out
        self.keys, self.texts = keys, [sample.texts.get("text", "") for sample in self._samples]
        stated = [
            sample.texts.get("split") or split_from_path(sample.shard.relative_to(folder)) for sample in self._samples
        ]
        self.splits, self.num_validation = assign_splits(keys, stated)

    def file(self, i: int) -> bytes:
        """The bytes of picture `i`."""
        sample = self._samples[i]
        assert sample.picture is not None
        begin, length = sample.picture
        with sample.shard.open("rb") as file:
            file.seek(begin)
            return file.read(length)


def _samples(shard: Path, captionless: bool) -> Iterator[_Sample]:
    """Yields the samples of a shard, in the order of their first files. Links and devices are skipped."""
    found: dict[str, _Sample] = {}
    size = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if not member.isreg() or member.issparse() or any(map(is_hidden, path.parts)):
                    continue
                if member.offset_data + member.size > size:
                    raise BadInput(f"{shard}: a damaged tar file (it ends within {member.name})")
                name, _, suffix = path.name.partition(".")
                sample = found.setdefault(str(path.parent / name), _Sample(shard, str(path.parent / name)))
                if f".{suffix.lower()}" in SUFFIXES:
                    if sample.picture is not None:
                        raise BadInput(f"{shard}: {member.name} is the second picture with the name {sample.name}")
                    sample.picture = member.offset_data, member.size
                elif suffix.lower() in ("txt", "json"):
                    sample.texts |= _texts(shard, member, tar, captionless)
            with shard.open("rb") as file:  # `tarfile` mistakes a damaged header for the end
                file.seek(tar.offset)
                end = file.read(tarfile.BLOCKSIZE)
            if any(end):
                raise BadInput(f"{shard}: a damaged tar file (at byte {tar.offset:,})")
            if not end:
                raise BadInput(f"{shard}: ends without the zeros that end a tar file, so it may be incomplete; copy or "
                               "write it again")  # fmt: skip
    except tarfile.TarError as error:
        raise BadInput(f"{shard}: not a tar file, or a compressed one; decompress it first ({error})") from None
    yield from found.values()


def _texts(shard: Path, member: tarfile.TarInfo, tar: tarfile.TarFile, captionless: bool) -> dict[str, str]:
    where = f"{shard}, {member.name}"
    if member.size > _LONGEST_TEXT:
        raise BadInput(f"{where}: {member.size:,} bytes of text; must be at most {_LONGEST_TEXT:,}")
    file = tar.extractfile(member)
    assert file is not None
    content = file.read()
    said: dict[str, Any] = {}
    if member.name.lower().endswith(".json"):
        record = parse_json(content, where)
        if not isinstance(record, dict):
            raise BadInput(f"{where}: not a JSON object")
        said = {"text": record.get("text", record.get("caption")), "split": record.get("split")}
    else:
        try:
            said = {"text": " ".join(content.decode("utf-8-sig").split())}
        except UnicodeDecodeError:
            raise BadInput(f"{where}: not UTF-8 text") from None
    if captionless and isinstance(said["text"], str) and not said["text"].strip():
        del said["text"]
    for name, value in said.items():
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise BadInput(f"{where}: {name!r} must be a string that is not empty")
    return {name: value.strip() for name, value in said.items() if value is not None}
