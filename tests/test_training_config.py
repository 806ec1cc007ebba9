"""Configs are checked strictly, with one-line errors, and alike from flags, YAML and JSON."""

import dataclasses
import importlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin

import pytest

from diffusion.options import DiffusionTrainingConfig
from evaluation.ablation import AblationOptions
from evaluation.reconstruct import ReconstructOptions
from sampling.bundle import BundleOptions
from sampling.generate import GenerateOptions
from seq2seq.options import TokenTrainingConfig
from tokenizer.encode import EncodeOptions
from tokenizer.options import TokenizerTrainingConfig
from tokenizer.train_text import TextTrainingOptions
from tokenizer.upsampler_options import UpsamplerTrainingConfig
from training import command_line
from training.command_line import parse
from training.config import from_dict, options_of, require, to_dict
from training.errors import BadInput

CONFIGS = Path(__file__).parents[1] / "configs"
ROOMS = ("commands", "data", "diffusion", "evaluation", "sampling", "seq2seq", "tokenizer", "training")
STAGES = {
    "text": TextTrainingOptions,
    "tokenizer": TokenizerTrainingConfig,
    "upsampler": UpsamplerTrainingConfig,
    "encode": EncodeOptions,
    "reconstruct": ReconstructOptions,
    "ablation": AblationOptions,
    "seq2seq": TokenTrainingConfig,
    "diffusion": DiffusionTrainingConfig,
}
NEEDED = {
    "data": "x", "out": "x", "steps": 7, "model": "x", "tokenizer": "x", "text": "x", "autoregressive": "x",
    "train": "x", "flops": 2.0, "rows": {"a": "b"}, "judge": {"c": "d"},
}  # fmt: skip


@dataclass(kw_only=True)
class Inner:
    """A nested config."""

    rate: float = 0.5
    """From 0 to 1."""

    def __post_init__(self) -> None:
        require(self, "rate", 0 <= self.rate <= 1, "from 0 to 1")


@dataclass(kw_only=True)
class Outer:
    """A config with a field of every kind."""

    name: str
    """Has no default."""
    count: int = 3
    """A number."""
    size: tuple[int, int] = (1, 2)
    """A pair."""
    limit: int | None = None
    """May be left out."""
    mode: Literal["fast", "slow"] = "fast"
    """One of two."""
    quiet: bool = False
    """A switch."""
    folder: Path | None = None
    """A path."""
    word: list[str] = field(default_factory=list)
    """Any words."""
    inner: Inner = field(default_factory=Inner)
    """Nested."""


@dataclass(kw_only=True)
class Here(Outer):
    """Its name has no flag."""

    positional: ClassVar = ("name",)


@dataclass(kw_only=True)
class Words:
    """Has two lists."""

    positional: ClassVar = ("name",)

    name: list[str]
    """Words without a flag."""
    count: int = 3
    """A number."""
    word: list[str] = field(default_factory=list)
    """Words after a flag."""


def refusal(*argv: str, config: type = Outer) -> str:
    with pytest.raises(BadInput) as error:
        parse(config, argv)
    assert "\n" not in str(error.value)
    return str(error.value)


def needed(config: type) -> dict[str, Any]:
    """Values for the fields without a default."""
    missing = dataclasses.MISSING
    fields = [f for f in dataclasses.fields(config) if f.default is missing and f.default_factory is missing]
    return {f.name: NEEDED[f.name] for f in fields}


def flags(values: dict[str, Any]) -> list[str]:
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def test_round_trip_through_json() -> None:
    config = Outer(
        name="", count=-1, size=(5, 6), limit=9, mode="slow", quiet=True, folder=Path("a b/ü"), word=["x", ""],
        inner=Inner(rate=1e-30),
    )  # fmt: skip
    stored = json.loads(json.dumps(to_dict(config)))
    again = from_dict(Outer, stored, "file")
    assert again == config
    assert isinstance(again.size, tuple)
    assert isinstance(again.folder, Path)
    assert isinstance(again.inner, Inner)


def test_flags_yaml_and_json_make_the_same_config(tmp_path: Path) -> None:
    expected = Outer(name="a", count=4, folder=Path("x"), inner=Inner(rate=0.25))
    file = tmp_path / "preset.yaml"
    file.write_text("name: a\ncount: 4\nfolder: x\ninner:\n  rate: 0.25\n")
    assert parse(Outer, ["--config", str(file)]) == expected
    assert parse(Outer, ["--name", "a", "--count", "4", "--folder", "x", "--inner.rate", "0.25"]) == expected
    assert from_dict(Outer, to_dict(expected)) == expected


def test_flags_override_yaml(tmp_path: Path) -> None:
    file = tmp_path / "preset.yaml"
    file.write_text("name: a\ninner:\n  rate: 1\n")
    config = parse(Outer, ["--config", str(file), "--name", "b", "--inner.rate", "0"])
    assert (config.name, config.inner.rate) == ("b", 0)


def test_a_list_takes_words_and_its_flag_can_be_repeated() -> None:
    config = parse(Outer, ["--name", "a", "--word", "x, y", "--word=z=1", "--word", ""])
    assert config.word == ["x, y", "z=1", ""]
    assert parse(Outer, ["--name", "a", "--word", "x", "y", "--quiet", "--word", "z"]).word == ["x", "y", "z"]
    assert parse(Outer, ["--name", "a"]).word == []
    assert "word: expected one argument or more" in refusal("--name", "a", "--word")


def every_options() -> list[type]:
    """What the commands of all rooms take."""
    found, root = [], CONFIGS.parent
    for file in sorted(file for room in ROOMS for file in (root / room).rglob("*.py")):
        for name in re.findall(r"^    command\(main, (\w+)\)$", file.read_text(), re.M):
            module = ".".join(file.relative_to(root).with_suffix("").parts)
            found.append(getattr(importlib.import_module(module), name))
    return found


EVERY = every_options()
LISTS = [
    (options, name, kind) for options in EVERY for name, kind in options_of(options).items() if get_origin(kind) is list
]


@pytest.mark.parametrize(("options", "name", "kind"), LISTS, ids=lambda part: getattr(part, "__name__", part))
def test_a_list_of_one_is_one_word_in_every_command(
    options: type, name: str, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--networks lite1` was refused: a list had to be written as YAML. A prompt may hold a comma; a number cannot."""
    monkeypatch.setattr(command_line, "from_dict", lambda config, values: values)
    (item,) = get_args(kind)
    one, two = ("3", "4") if item is int else ("a, b", "c") if item in (str, Path) else get_args(item)[:2]
    flag, typed = f"--{name}", int if item is int else str

    def given(*words: str) -> list[Any]:
        return parse(options, [flag, *words])[name]

    assert given(one) == [typed(one)]
    assert given(one, two) == given(one, flag, two) == [typed(one), typed(two)]
    if item in (str, Path):
        assert given(f"{one},{two}") == [f"{one},{two}"]
    else:
        assert given(f"{one},{two}") == given(f"[{one}, {two}]") == given(one, two)
        assert given("[]") == []


@pytest.mark.parametrize(
    ("argv", "expected"),
    [(["--quiet"], True), (["--quiet", "--count", "1"], True), (["--quiet", "false"], False), (["--quiet=true"], True)],
)
def test_a_switch_needs_no_value(argv: list[str], expected: bool) -> None:
    """`--dry_run` alone, as the README writes it, was 'expected one argument'."""
    assert parse(Outer, ["--name", "a", *argv]).quiet is expected


def test_positional_fields_come_without_a_flag() -> None:
    assert parse(Here, ["here", "--count", "1"]) == Here(name="here", count=1)
    with pytest.raises(BadInput, match="name"):
        parse(Here, [])


def test_a_list_without_a_flag_takes_all_words() -> None:
    assert parse(Words, ["x", "--count", "1", "y", "--word", "z"]) == Words(name=["x", "y"], count=1, word=["z"])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--name", "a", "--count", "x"], ["count", "int", "'x'"]),
        (["--name", "a", "--count", "1.5"], ["count", "int", "1.5"]),
        (["--name", "a", "--limit", "x"], ["limit", "int", "'x'"]),
        (["--name", "a", "--mode", "medium"], ["mode", "'fast'", "'slow'", "'medium'"]),
        (["--name", "a", "--inner.rate", "2"], ["Inner.rate", "2.0", "from 0 to 1"]),
        (["--name", "a", "--quiet", "maybe"], ["maybe"]),
        (["--name", "a", "--name"], ["name", "expected one argument"]),
        (["--count", "1"], ["name", "must be given"]),
        (["--name", "a", "--cuont", "1"], ["cuont", "did you mean 'count'?"]),
        (["--name", "a", "--iner.rate=1"], ["iner.rate", "did you mean 'inner.rate'?"]),
        (["--name", "a", "--rate=1"], ["'rate'", "did you mean 'inner.rate'?"]),
        (["--name", "a", "--inner.rat=1"], ["inner.rat", "did you mean 'inner.rate'?"]),
        (["--name", "a", "--zzzz", "1"], ["zzzz", "Outer has name, count"]),
        (["--name", "a", "stray"], ["stray"]),
    ],
)
def test_a_wrong_flag_is_one_line(argv: list[str], said: list[str]) -> None:
    message = refusal(*argv)
    assert all(words in message for words in said), message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("cuont: 1", ["cuont", "did you mean 'count'?"]),
        ("inner:\n  raet: 1", ["raet", "did you mean 'inner.rate'?"]),
        ("inner:\n  rate: 2", ["Inner.rate", "from 0 to 1"]),
        ("count: null", ["Outer.count", "null"]),
        ("count: [1", ["config"]),
        ("- count", ["config", "option: value"]),
        ("", ["config", "option: value"]),
        (b"\xff\xfe\x00", ["config", "UTF-8"]),
    ],
)
def test_a_wrong_yaml_file_is_one_line(content: str | bytes, said: list[str], tmp_path: Path) -> None:
    file = tmp_path / "preset.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refusal("--name", "a", "--config", str(file))
    assert all(words in message for words in said), message


@pytest.mark.parametrize("options", EVERY, ids=lambda options: options.__name__)
def test_a_misspelt_flag_has_the_nearest_one_named_in_every_command(options: type) -> None:
    for name, kind in options_of(options).items():
        if dataclasses.is_dataclass(kind):
            inner = next(iter(options_of(kind)))
            assert f"did you mean '{name}.{inner}'?" in refusal(f"--{name}.{inner}x", "1", config=options)
        else:
            assert f"did you mean '{name}'" in refusal(f"--{name}x", "1", config=options)


def test_a_misspelt_option_of_a_backend_that_was_not_chosen_is_named() -> None:
    said = refusal("--step", "10", config=GenerateOptions)
    assert "did you mean 'steps' of backend 'diffusion', with --backend diffusion?" in said


def test_a_preset_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any folder; a file of that name wins, a folder does not."""
    monkeypatch.chdir(tmp_path)
    by_path = parse(TokenTrainingConfig, ["--config", str(CONFIGS / "seq2seq" / "emoji.yaml")])
    (tmp_path / "emoji").mkdir()
    assert parse(TokenTrainingConfig, ["--config", "emoji"]) == by_path
    (tmp_path / "debug").write_text("data: mine\nsteps: 7\n")
    assert parse(TokenTrainingConfig, ["--config", "debug"]).data == "mine"
    assert "--config emjoi: no such file; did you mean 'emoji'?" in refusal("--config", "emjoi", config=EncodeOptions)
    assert "presets are debug, emoji" in refusal("--config", "nothing", config=EncodeOptions)
    assert parse(GenerateOptions, ["--config", "demo"]).columns == 6


def test_help_names_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(EncodeOptions, ["--config", "emoji", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "the name of a preset: debug, emoji" in said
    assert "(here: emoji+scenes:20000)" in said


def test_a_missing_yaml_file_is_one_line(tmp_path: Path) -> None:
    assert "missing.yaml" in refusal("--name", "a", "--config", str(tmp_path / "missing.yaml"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "a", "count": "x"}, "count"),
        ({"name": "a", "count": None}, "count"),
        ({"name": "a", "count": 1.5}, "count"),
        ({"name": "a", "nmae": "b"}, "did you mean 'name'?"),
        ({"name": "a", "inner": {"rate": "high"}}, "inner.rate"),
        ({"name": "a", "inner": {"rate": -1}}, "Inner.rate"),
        ({"count": 3}, "name"),
    ],
)
def test_a_wrong_json_value_names_the_file_and_the_field(values: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as error:
        from_dict(Outer, values, "some/config.json")
    message = str(error.value)
    assert message.startswith("some/config.json: ")
    assert said in message
    assert "\n" not in message


def test_bad_input_is_one_line_whatever_reason_it_quotes() -> None:
    assert str(BadInput("first\n  second\r\nthird")) == "first second third"


@pytest.mark.parametrize("options", [*STAGES.values(), GenerateOptions, BundleOptions], ids=lambda c: c.__name__)
def test_no_flags_is_no_arguments(options: type) -> None:
    """Each default is written once: the parser has no defaults."""
    values = needed(options)
    assert parse(options, flags(values)) == from_dict(options, values) == options(**_typed(options, values))


def _typed(options: type, values: dict[str, Any]) -> dict[str, Any]:
    paths = {f.name for f in dataclasses.fields(options) if f.type in (Path, "Path")}
    return {name: Path(value) if name in paths else value for name, value in values.items()}


@pytest.mark.parametrize("options", [*STAGES.values(), GenerateOptions, BundleOptions], ids=lambda c: c.__name__)
def test_every_field_is_explained(options: type, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse(options, ["--help"])
    assert left.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert (options.__doc__ or "?").split(".")[0].split(":")[0] in text
    for field_ in dataclasses.fields(options):
        assert f"--{field_.name}" in text
    steps = any(words in text for words in ("Optimizer steps in all", "Steps from noise to picture"))
    assert steps or "steps" not in {f.name for f in dataclasses.fields(options)}


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_every_preset_parses(file: Path) -> None:
    options = STAGES[file.parent.name]
    config = parse(options, [*flags({**needed(options), "out": "x"}), "--config", str(file)])
    assert from_dict(options, to_dict(config)) == config


def test_every_stage_has_its_presets() -> None:
    for stage in STAGES.keys() - {"ablation"}:
        assert {"debug.yaml", "emoji.yaml"} <= {file.name for file in (CONFIGS / stage).iterdir()}
