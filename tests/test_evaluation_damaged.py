"""Results, suites, records and folders of pictures that are damaged or malicious give a one-line error."""

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evaluation.curves import CurvesOptions
from evaluation.curves import main as plot_curves
from evaluation.pictures import list_prompted, read_pictures
from evaluation.result import read_result
from evaluation.suites.files import read_suite
from sampling.pipeline import load
from training.errors import BadInput
from training.record import read_record

FIGURE = {"value": 0.5, "low": 0.25, "high": 0.75, "higher_is_better": True}
RESULT: dict[str, Any] = {
    "format": "tessera-evaluation", "version": 2, "kind": "generation", "name": "a",
    "protocol": {
        "metrics_version": 1, "reference": {"name": "r", "fingerprint": "f", "count": 4}, "networks": {"lite0": "x"},
        "resizer": "y", "gallery": None, "count": 2, "suite": {"name": "s", "hash": "h", "count": 2},
        "seed": 0, "num_images": 1, "image_size": 16,
    },
    "subject": {
        "backend": "diffusion", "options": {"guidance": 1.5, "steps": 25, "scheduler": "dpm"}, "codes_id": "c",
        "pixels_id": "p", "model_id": "m", "parameters": {"diffusion": 7}, "images_per_second": 2.5,
        "training": {"flops": 1e15, "init": {"flops": None}},
    },
    "count": 2, "metrics": {"kid": FIGURE}, "categories": {"animals": {"kid": FIGURE}}, "notes": ["n"],
    "controls": {"real": {"metrics": {"kid": FIGURE}}},
    "pictures": [{"file": "pictures/0.png", "prompt": "a", "seed": 0, "scores": {"kid": 1.0}}],
}  # fmt: skip


def one_line(call: Callable[[], object]) -> str:
    with pytest.raises(BadInput) as error:
        call()
    message = str(error.value)
    assert len(message) <= 500
    assert message.isprintable()
    return message


def test_a_valid_result(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    assert read_result(tmp_path) == RESULT


DEEP = json.loads('{"init":' * 70 + "1" + "}" * 70)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("protocol.num_images", 0),
        ("protocol.seed", "0"),
        ("protocol.seed", -1),
        ("protocol.reference", "r"),
        ("protocol.reference.count", "4"),
        ("protocol.suite", None),
        ("protocol.suite.name", 5),
        ("protocol.networks", ["lite0"]),
        ("protocol.image_size", 0),
        ("name", ["a"]),
        ("name", "x" * 10**6),
        ("count", 0),
        ("count", "2"),
        ("count", 10**19),
        ("metrics.kid.value", "0.5"),
        ("metrics.kid.value", True),
        ("metrics.kid.value", 1e300),
        ("metrics.kid.low", None),
        ("metrics.kid.high", "0.75"),
        ("metrics.kid", 0.5),
        ("metrics.bits_per_image", "109"),
        ("categories.animals.kid.value", "x"),
        ("controls.real.metrics.kid.value", []),
        ("controls.real", None),
        ("notes", "n"),
        ("notes", [1]),
        ("subject.options", []),
        ("subject.options.guidance", "1.5"),
        ("subject.options.steps", [25]),
        ("subject.options.scheduler", {"a": {"b": 1}}),
        ("subject.images_per_second", "2.5"),
        ("subject.images_per_second", -1),
        ("subject.parameters", {"diffusion": "7"}),
        ("subject.codes_id", None),
        ("subject.training", []),
        ("subject.training.flops", "1e15"),
        ("subject.training.init", {"flops": []}),
        ("subject.training", DEEP),
        ("subject", {}),
        ("pictures", {"file": "x"}),
        ("pictures", [{"file": ["x"]}]),
        ("pictures", [{"file": ""}]),
        ("pictures", [{"file": "x", "scores": {"kid": "1"}}]),
        ("pictures", [{"file": "x", "scores": [1]}]),
        ("pictures", [{"file": "x", "seed": "0"}]),
        ("pictures", [{"file": "x", "prompt": 1}]),
    ],
)
def test_a_damaged_result(place: str, value: Any, tmp_path: Path) -> None:
    """Once, no picture a prompt was a division by zero in the report, and a metric as text a traceback in the table."""
    result = copy.deepcopy(RESULT)
    *way, last = place.split(".")
    at = result
    for name in way:
        at = at[name]
    at[last] = value
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert str(tmp_path / "result.json") in one_line(lambda: read_result(tmp_path))


def test_bits_need_the_id_of_their_codes(tmp_path: Path) -> None:
    result = {**copy.deepcopy(RESULT), "kind": "pictures", "subject": {}, "metrics": {"bits_per_image": FIGURE}}
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert "codes_id" in one_line(lambda: read_result(tmp_path))


@pytest.mark.parametrize("content", ["[" * 100_000, '{"count": ' + "9" * 5000 + "}", '{"a": 1, "a": 2}', "null", ""])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("result.json", lambda folder: read_result(folder)),
        ("generation.json", lambda folder: list_prompted(folder)),
        ("metadata.jsonl", lambda folder: list_prompted(folder)),
        ("training.json", lambda folder: read_record(folder)),
        ("suite.json", lambda folder: read_suite(folder / "suite.json")),
        ("suite.jsonl", lambda folder: read_suite(folder / "suite.jsonl")),
        ("bundle.json", lambda folder: load(folder)),
        ("bundle.json", lambda folder: plot_curves(CurvesOptions(model=folder))),
    ],
)
def test_damaged_json_anywhere(name: str, read: Callable[[Path], object], content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert str(tmp_path) in one_line(lambda: read(tmp_path))


@pytest.mark.parametrize(
    "parts", [7, {"text": 1}, [["text"]], ["text", "tokenizer", "../autoregressive"], ["text", "tokenizer", 5], "text"]
)
def test_a_damaged_bundle_index(parts: Any, tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text(json.dumps({"parts": parts}))
    said = one_line(lambda: load(tmp_path))
    assert "must list the bundle's parts" in said or "lists a part '../autoregressive', which is not a backend" in said


NAMES = [
    "../secret.png",
    "/etc/passwd",
    "",
    "a\0b",
    "a.png/../../secret.png",
    "link.png",
    "no.png",
    "sub",
    ["a.png"],
    7,
]


@pytest.mark.parametrize(
    ("kind", "name"),
    # links are allowed in local metadata, because they lead to shared disks
    [(kind, name) for kind in ("generation.json", "metadata.jsonl") for name in NAMES
     if (kind, name) != ("metadata.jsonl", "link.png")], ids=repr,
)  # fmt: skip
def test_pictures_outside_of_their_folder(kind: str, name: Any, tmp_path: Path) -> None:
    """Once, the record of a folder could name any file, and its pixels were scored and shown."""
    folder = tmp_path / "made"
    (folder / "sub").mkdir(parents=True)
    for file in (tmp_path / "secret.png", folder / "a.png"):
        Image.new("RGB", (4, 4)).save(file)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    row = {"file": name, "file_name": name, "prompt": "a", "text": "a"}
    (folder / kind).write_text(json.dumps({"images": [row]} if kind == "generation.json" else row))
    assert str(folder) in one_line(lambda: list_prompted(folder))


def test_pictures_in_their_folder(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "generation.json").write_text('{"images": [{"file": "a.png", "prompt": "x"}]}')
    assert list_prompted(tmp_path) == ([tmp_path / "a.png"], ["x"])
    for images in ('"a.png"', '{"file": "a.png"}', "7", "[null]"):
        (tmp_path / "generation.json").write_text(f'{{"images": {images}}}')
        assert "must give the file and the prompt" in one_line(lambda: list_prompted(tmp_path))


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"not a picture", b"%!PS-Adobe"])
def test_a_file_that_is_not_a_png(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert "a.png: cannot be read" in one_line(lambda: read_pictures([tmp_path / "a.png"]))


RECORD: dict[str, Any] = {
    "steps": 5, "batch_size": 2, "data": "emoji", "figures": {"loss": 0.5}, "flops": None, "seconds": 1.0,
    "curves": {"loss": [[1, 0.5]]}, "init": {"steps": 5, "batch_size": 2, "data": "emoji", "figures": {}},
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"steps": "5"}, {"batch_size": 2.5}, {"data": 7}, {"figures": []}, {"figures": {"loss": "0.5"}}, {"flops": "1"},
        {"flops": -1}, {"seconds": []}, {"curves": []}, {"curves": {"loss": 1}}, {"curves": {"loss": [[1]]}},
        {"curves": {"loss": [["1", 2]]}}, {"init": 7}, {"init": {"steps": 1}}, {"command": ["x"]}, {"device": None},
        {"init": {**RECORD, "flops": "x"}},
    ],
    ids=repr,
)  # fmt: skip
def test_a_damaged_record(change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text(json.dumps(RECORD))
    assert read_record(tmp_path) == RECORD
    (tmp_path / "training.json").write_text(json.dumps({**RECORD, **change}))
    assert "training.json" in one_line(lambda: read_record(tmp_path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '{"annotations": 7}'),
        ("a.json", '{"annotations": [7]}'),
        ("a.json", '{"annotations": ["caption"]}'),
        ("a.json", '{"annotations": [{"image_id": 1}]}'),
        ("a.jsonl", '{"prompt": ["a"]}'),
        ("a.jsonl", '"a"'),
        ("a.jsonl", '{"prompt": NaN}'),
        ("a.csv", "prompt\n" + "x" * 200_000),
        ("a.tsv", "prompt\tprompt\n"),
        ("a.csv", "other\na"),
        ("a.csv", b"prompt\n\xff"),
        ("a.txt", b"\xff"),
        ("a.txt", ""),
    ],
)
def test_a_damaged_suite(name: str, content: str | bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert str(tmp_path / name) in one_line(lambda: read_suite(tmp_path / name))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.tsv", "a.txt"])
def test_a_suite_that_is_no_file(name: str, tmp_path: Path) -> None:
    assert "no such file" in one_line(lambda: read_suite(tmp_path / name))
    os.mkfifo(tmp_path / name)
    assert "not a regular file" in one_line(lambda: read_suite(tmp_path / name))
