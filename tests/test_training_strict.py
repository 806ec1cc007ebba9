"""Reading untrusted files: limited size, plain values, no imports, no other files."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data.latents import LatentsInfo
from diffusion.model import DiffusionModelConfig
from diffusion.options import DiffusionTrainingConfig
from training.command_line import parse
from training.config import from_dict
from training.errors import BadInput
from training.options import TrainingConfig
from training.strict_json import MAX_NESTING, first_repeated, read_json, read_json_lines
from training.strict_yaml import read_yaml


def refused(read: Any, file: Path, content: str | bytes) -> str:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput) as error:
        read(file)
    message = str(error.value)
    assert message.startswith(str(file))
    assert len(message) <= 500
    assert message.isprintable()
    return message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": 1, "a": 2}', "'a' appears twice"),
        ('{"a": {"b": 1, "b": 1}}', "'b' appears twice"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "-Infinity"),
        ('{"a": 1e999}', "is too large"),
        ('{"a": ' + "9" * 5000 + "}", "an integer of 5,000 digits"),
        ('{"a": -' + "9" * 21 + "}", "an integer of"),
        ("[" * 100_000, "nested"),
        ('{"a":' * 100 + "1" + "}" * 100, f"nested more than {MAX_NESTING} deep"),
        (r'{"a": "\ud800"}', "surrogates"),
        (r'{"\udc00": 1}', "surrogates"),
        (b'{"a": "\xff"}', "not UTF-8"),
        ('{"a": 1', "not valid JSON"),
        ("[1]", "holds a list"),
        ('{"\\u001b[31m": 1, "\\u001b[31m": 2}', "x1b"),
        ('{"' + "x" * 10_000 + '": 1, "' + "x" * 10_000 + '": 2}', "xxx ... xxx"),
        ("", "not valid JSON"),
    ],
)
def test_damaged_json_is_one_line(content: str | bytes, said: str, tmp_path: Path) -> None:
    assert said in refused(read_json, tmp_path / "a.json", content)


def test_a_repeated_key_is_found_in_one_pass(tmp_path: Path) -> None:
    """20,000 keys once took 14 seconds, and five times as many 25 times as long."""
    compared: list[str] = []

    class Key(str):
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            compared.append(self)
            return super().__eq__(other)

    many = [Key(i) for i in range(1000)]
    assert first_repeated(many) is None
    assert first_repeated([*many, Key("7"), Key("3")]) == "7"
    assert len(compared) < 100
    assert "'7' appears twice" in refused(read_json, tmp_path / "a.json", '{"7": 1, "3": 1, "7": 2}')


def test_json_that_is_fine(tmp_path: Path) -> None:
    values = {"a": [1, -2.5, True, None, "ü\x1b"], "seed": 2**63 - 1, "deep": {"er": {}}}
    (tmp_path / "a.json").write_text(json.dumps(values))
    assert read_json(tmp_path / "a.json") == values
    (tmp_path / "b.json").write_text('{"loss": NaN}')
    assert str(read_json(tmp_path / "b.json", finite=False)) == "{'loss': nan}"


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(2**40)  # of nothing: takes no room on the disk, and all memory if it were read
    with pytest.raises(BadInput, match="must be at most 16,777,216"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "broken link"])
def test_only_regular_files_are_opened(kind: str, tmp_path: Path) -> None:
    """Opening a pipe waits for its writer, and a device may never end."""
    file = tmp_path / "a.json"
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    for read in (read_json, read_yaml, lambda file: list(read_json_lines(file))):
        with pytest.raises(BadInput, match="no such file" if kind == "broken link" else "not a regular file"):
            read(file)


def test_errors_name_the_line(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n\n[2]\n')
    assert list(read_json_lines(file)) == [(f"{file}, line 1", {"a": 1}), (f"{file}, line 3", [2])]
    file.write_text('{"a": 1}\n{"a": 1, "a": 1}\n')
    with pytest.raises(BadInput, match=r"a\.jsonl, line 2: not valid JSON"):
        list(read_json_lines(file))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: !!python/object/apply:os.system [true]", "tag"),
        ("a: !!str 1", "tag"),
        ("a: &x [1]\nb: *x", "alias"),
        ("a: 1\na: 2", "'a' appears twice"),
        ("b:\n  a: 1\n  a: 2", "'a' appears twice"),
        ("[" * 100_000, "nested"),
        ("? [a]\n: 1", "YAML"),
        ('a: "\\ud800"', "surrogates"),
        ("a: 1\n---\nb: 2", "YAML"),
        ("- a", "option: value"),
        ("x" * 2_000_000, "bytes"),
        (b"\xff", "UTF-8"),
    ],
)
def test_damaged_yaml_is_one_line(content: str | bytes, said: str, tmp_path: Path) -> None:
    assert said in refused(read_yaml, tmp_path / "a.yaml", content)


def test_yaml_that_is_fine(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "a: 1e-3\nb: -4\nc: no\nd: true\ne: null\nf: 0.5\ng: [1, 2]\nh: ü 🦊\ni: 2001-01-01\nj: 010\nk: .inf\nl: 1_000"
    )
    assert read_yaml(tmp_path / "a.yaml") == {
        "a": 1e-3, "b": -4, "c": "no", "d": True, "e": None, "f": 0.5, "g": [1, 2], "h": "ü 🦊", "i": "2001-01-01",
        "j": "010", "k": ".inf", "l": 1000,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"width": True}, "width: expected a value of type int, got True"),
        ({"width": 256.0}, "width: expected a value of type int, got 256.0"),
        ({"width": "256"}, "width: expected a value of type int, got '256'"),
        ({"latent_bound": "3"}, "latent_bound: expected a value of type float, got '3'"),
        ({"latent_bound": True}, "latent_bound: expected a value of type float, got True"),
        ({"latent_bound": float("inf")}, "must be a finite number"),
        ({"latent_bound": 10**400}, "must be a finite number"),
        ({"denoiser": "DiT"}, "denoiser: must be one of 'dit', 'unet', got 'DiT'"),
        ({"denoiser": ["dit"]}, "denoiser: must be one of"),
        ({"text": {"length": 2**17}}, "length is 131072: must be from 1 to 65536"),
        ({"latents_id": 7}, "latents_id: expected a value of type str, got 7"),
        ({"unet": {"channels": 32}}, "unet.channels: expected a value of type tuple, got 32"),
        ({"unet": {"channels": [32, "x"]}}, "unet.channels[1]: expected a value of type int, got 'x'"),
        ({"dit": {"dephts": 1}}, "there is no option 'dit.dephts'; did you mean 'dit.depth'?"),
        ({"dit": [1]}, "dit: takes options such as dit.mlp_width, got [1]"),
        ({"process": {"class_path": "os.system"}}, "there is no option 'process.class_path'"),
        ({"process": "diffusion.process.ProcessConfig"}, "process: takes options such as"),
        (
            {"latents_id": "x" * 10_000, "text_id": [["y" * 10_000]]},
            "text_id: expected a value of type str, got [['yyy",
        ),
    ],
)
def test_types_are_exact(values: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as error:
        from_dict(DiffusionModelConfig, values, "a/config.json")
    assert str(error.value).startswith("a/config.json: ")
    assert said in str(error.value)


def test_an_int_is_a_float_and_a_list_a_tuple() -> None:
    config = from_dict(DiffusionModelConfig, {"latent_bound": 3, "unet": {"channels": [64]}})
    assert (repr(config.latent_bound), config.unet.channels) == ("3.0", (64,))
    with pytest.raises(BadInput, match="channels: must be given, it has no default"):
        from_dict(LatentsInfo, {"latents_id": "a", "fingerprint": "b"})


NEEDED = ["--data", "d", "--out", "o", "--steps", "1", "--tokenizer", "t", "--text", "t"]


@pytest.mark.parametrize(
    "argv",
    [
        ["--optimizer", "diffusion.notes.X"],
        ["--model.process=notes.X"],
        ["--model", '{"class_path": "notes.X"}'],
        ["--model.dit.class_path", "notes.X"],
    ],
)
def test_a_flag_cannot_name_a_class(argv: list[str]) -> None:
    with pytest.raises(BadInput):
        parse(DiffusionTrainingConfig, [*NEEDED, *argv])


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ('cache: "a\\0b"', "cache: expected a value of type Path"),
        ("seed: " + "9" * 5000, "seed: "),
        ("optimizer: {clip: .inf}", "optimizer.clip: expected a value of type float"),
        ("optimizer: {clip: 1e999}", "OptimizerConfig.clip is inf: must be a finite number"),
        ("optimizer: {warmup: true}", "optimizer.warmup: expected a value of type int"),
        ("trackers: {a: 1}", "trackers"),
        ("precision: [no]", "precision: must be one of"),
        ("1: 2", "there is no option '1'"),
        ("seed: !!int 1", "a tag"),
    ],
)
def test_a_value_of_another_kind_in_yaml(option: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(option)
    with pytest.raises(BadInput) as error:
        parse(TrainingConfig, ["--data", "d", "--out", "o", "--steps", "1", "--config", str(tmp_path / "a.yaml")])
    assert said in str(error.value)
    assert len(str(error.value)) <= 500


def test_a_long_yaml_file_with_unusual_text(tmp_path: Path) -> None:
    text = '🦊 ü \\ud83e\\udd8a\\"' + "y" * 6000
    (tmp_path / "a.yaml").write_text(f"data: {json.dumps(text, ensure_ascii=False)}\noptimizer:\n  warmup: 7\n")
    config = parse(TrainingConfig, ["--config", str(tmp_path / "a.yaml"), "--out", "o", "--steps", "1"])
    assert (config.data, config.optimizer.warmup) == (text, 7)


WATCH = """
import json, sys
from diffusion.model import DiffusionModel
from diffusion.options import DiffusionTrainingConfig
from training.command_line import parse
from training.errors import BadInput

def attempt(kind, given):
    try:
        if kind == "json":
            DiffusionModel.from_pretrained(given)
        else:
            parse(DiffusionTrainingConfig, [%s, "--config", given + "/config.yaml"])
    except BadInput as error:
        return str(error)

kind, *folders = sys.argv[1:]
attempt(kind, folders[0])  # once, so that what is imported when it is first needed is there
seen = []
sys.addaudithook(lambda event, args: seen.append(str(args[0])) if event in ("open", "import") else None)
said = [attempt(kind, folder) for folder in folders]
print(json.dumps([said, seen]))
"""
NESTED: dict[str, list[dict[str, Any]]] = {
    "json": [
        {"process": {"class_path": "stranger_notes.X"}},
        {"process": {"class_path": "stranger_notes.X", "init_args": {}}},
        {"dit": "stranger_notes.X"},
        {"text": "stranger_other.yaml"},
        {"codes_id": ["stranger_other.yaml"]},
    ],
    "yaml": [
        {"optimizer": {"class_path": "stranger_notes.X"}},
        {"optimizer": "stranger_notes.X"},
        {"optimizer": "stranger_other.yaml"},
        {"trackers": "stranger_other.yaml"},
        {"model": {"process": {"class_path": "stranger_notes.X"}}},
        {"model": {"text": "stranger_other.yaml"}},
        {"config": "stranger_other.yaml"},
    ],
}


@pytest.mark.parametrize("kind", NESTED)
def test_nothing_is_imported_and_no_other_file_opened(kind: str, tmp_path: Path) -> None:
    """A bundle's config named a class in a file beside it, and drawing with the bundle ran that file."""
    (tmp_path / "stranger_notes.py").write_text("print('I run'); X = int")
    (tmp_path / "stranger_other.yaml").write_text("warmup: 1\n")
    folders = [tmp_path / f"given-{i}" for i in range(len(NESTED[kind]))]
    for folder, nested in zip(folders, NESTED[kind], strict=True):
        folder.mkdir()
        (folder / "config.yaml").write_text(json.dumps(nested))
        (folder / "config.json").write_text(json.dumps({"model": "DiffusionModel", **nested}))
        (folder / "model.safetensors").touch()
    done = subprocess.run(
        [sys.executable, "-c", WATCH % ", ".join(map(repr, NEEDED)), kind, *map(str, folders)],
        capture_output=True, text=True, check=True, timeout=120, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(tmp_path)])},
    )  # fmt: skip
    said, seen = json.loads(done.stdout)
    assert all(said)
    assert [name for name in seen if "stranger" in name] == []
    assert {name for name in seen if str(tmp_path) in name} == {str(f / f"config.{kind}") for f in folders}
