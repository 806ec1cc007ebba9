"""Parts chosen by name in configs, also from outside files and packages."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from training.cli import command
from training.command_line import parse
from training.config import flatten, from_dict, non_defaults, replaced, to_dict
from training.errors import BadInput
from training.parts import Registry, Tagged, import_parts

BRUSHES: Registry[type["Brush"]] = Registry("brush")


@dataclass(kw_only=True)
class Brush(Tagged):
    """What to paint with."""

    registry: ClassVar = BRUSHES


@BRUSHES.register("round")
@dataclass(kw_only=True)
class Round(Brush):
    """A round one."""

    width: int = 3
    """Across."""


@BRUSHES.register("flat")
@dataclass(kw_only=True)
class Flat(Brush):
    """A flat one."""

    sides: tuple[int, ...] = (1, 2)
    """Of its edge."""


@dataclass(kw_only=True)
class Studio:
    """Where one paints."""

    name: str = "attic"
    """What it is called."""
    brush: Brush = field(default_factory=Round)
    """The brush."""


@dataclass(kw_only=True)
class House:
    """A config with a choice inside a part."""

    studio: Studio = field(default_factory=Studio)
    """The studio."""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Forgets what a test registers or imports."""
    monkeypatch.setattr(BRUSHES, "_parts", dict(BRUSHES._parts))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for file in tmp_path.glob("*.py"):
        if file.stem not in NAMES_OF_OTHERS:
            sys.modules.pop(file.stem, None)


def refusal(*argv: str) -> str:
    with pytest.raises(BadInput) as error:
        parse(House, argv)
    return str(error.value)


NAMES_OF_OTHERS = {"data", "torch", "colorsys", "sys", "__main__", "json"}
"""What files of tests are called, in vain."""
FLAT = House(studio=Studio(brush=Flat(sides=(8, 5, 5))))


def test_yaml_json_and_flags_choose_the_same_part(tmp_path: Path) -> None:
    assert parse(House, ["--studio.brush.kind", "flat", "--studio.brush.sides", "[8,5,5]"]) == FLAT
    assert parse(House, ["--studio.brush.sides=[8, 5, 5]", "--studio.brush.kind=flat"]) == FLAT
    assert parse(House, ["--studio.brush", "flat", "--studio.brush.sides=[8, 5, 5]"]) == FLAT
    (tmp_path / "a.yaml").write_text("studio:\n  brush: {kind: flat, sides: [8, 5, 5]}\n")
    assert parse(House, ["--config", str(tmp_path / "a.yaml")]) == FLAT
    assert from_dict(House, json.loads(json.dumps(to_dict(FLAT)))) == FLAT
    assert parse(House, []) == from_dict(House, {}) == House()


def test_plain_values_of_a_config_with_parts() -> None:
    assert to_dict(FLAT) == {"studio": {"name": "attic", "brush": {"kind": "flat", "sides": (8, 5, 5)}}}
    assert flatten(to_dict(FLAT)).keys() == {"studio.name", "studio.brush.kind", "studio.brush.sides"}
    assert non_defaults(House()) == {}
    assert non_defaults(FLAT) == {"studio.brush.kind": "flat", "studio.brush.sides": "(8, 5, 5)"}
    assert non_defaults(House(studio=Studio(brush=Flat()))) == {"studio.brush.kind": "flat"}
    assert non_defaults(House(studio=Studio(brush=Round(width=4)))) == {"studio.brush.width": 4}


def test_a_flag_changes_an_option_of_a_part_or_its_kind(tmp_path: Path) -> None:
    """If a flag chooses another kind of part, the preset's options of the old kind do not apply."""
    (tmp_path / "a.yaml").write_text("studio: {name: shed, brush: {width: 9}}")
    given = ["--config", str(tmp_path / "a.yaml")]
    assert parse(House, [*given, "--studio.name", "barn"]).studio == Studio(name="barn", brush=Round(width=9))
    assert parse(House, [*given, "--studio.brush.kind", "round"]).studio.brush == Round(width=9)
    assert parse(House, [*given, "--studio.brush.kind", "flat"]).studio == Studio(name="shed", brush=Flat())
    (tmp_path / "a.yaml").write_text("studio: {brush: {kind: flat}}")
    assert parse(House, [*given, "--studio.brush.sides", "[8,5,5]"]) == FLAT
    with pytest.raises(BadInput, match=r"no option 'studio.brush.width'; brush 'flat' has kind, sides"):
        parse(House, [*given, "--studio.brush.width", "3"])


def test_help_shows_the_options_of_the_chosen_kind(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, its, other in (([], "width", "sides"), (["--studio.brush.kind", "flat"], "sides", "width")):
        with pytest.raises(SystemExit) as left:
            parse(House, [*argv, "--help"])
        assert left.value.code == 0
        said = capsys.readouterr().out
        assert f"--studio.brush.{its}" in said
        assert f"--studio.brush.{other}" not in said
        assert "One of flat, round." in said
        assert "--import MODULE" in said


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--studio.brush.kind", "oval"], "there is no brush 'oval'; there are flat, round"),
        (["--studio.brush.sides", "[1]"], "there is no option 'studio.brush.sides'; brush 'round' has kind, width"),
        (["--studio.brush.kind", "flat", "--studio.brush.width", "1"], "brush 'flat' has kind, sides"),
        (["--studio.brush", "flat", "--studio.brush.sides", "[1,x]"], "studio.brush.sides[1]: expected a value of"),
        (["--studio.brush", "oval"], "there is no brush 'oval'; there are flat, round"),
        (["--studio.brush.kind"], "expected one argument"),
        (["--studio", "x", "--studio.name", "y"], "studio: takes options such as studio.name, got 'x'"),
    ],
)
def test_a_wrong_choice_is_one_line(argv: list[str], said: str) -> None:
    assert said in refusal(*argv)


@pytest.mark.parametrize("kind", [None, 3, ["flat"], {"a": 1}, "os.path", "tests.test_training_parts", "\x1b[2J" * 999])
def test_a_kind_must_be_a_registered_name(kind: object) -> None:
    before = {*sys.modules}
    with pytest.raises(BadInput, match="there is no brush"):
        from_dict(House, {"studio": {"brush": {"kind": kind}}}, "config.json")
    assert {*sys.modules} == before


def test_a_part_is_not_replaced_by_values_of_another_kind() -> None:
    assert replaced(Flat(), {"sides": [3]}) == Flat(sides=(3,))
    with pytest.raises(BadInput, match="kind is 'round': must be 'flat' here"):
        replaced(Flat(), {"kind": "round"})


PART = """
from dataclasses import dataclass
from test_training_parts import BRUSHES, Brush

@BRUSHES.register("mine")
@dataclass(kw_only=True)
class Mine(Brush):
    hairs: int = 7
"""


@pytest.mark.parametrize("form", [["--import", "FILE"], ["--import=FILE"], ["--import", "own_brushes"]])
def test_a_part_from_a_file(form: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module is named after the file. Its folder comes last on the path, so files in it hide no other module."""
    (tmp_path / "own_brushes.py").write_text(PART)
    (tmp_path / "json.py").write_text("raise ImportError")
    if form[-1] == "own_brushes":
        monkeypatch.syspath_prepend(tmp_path)
    argv = [word.replace("FILE", str(tmp_path / "own_brushes.py")) for word in form]
    assert import_parts([*argv, "--studio.brush.kind", "mine", "--x=1"]) == ["--studio.brush.kind", "mine", "--x=1"]
    made = parse(House, ["--studio.brush.kind", "mine"])
    assert to_dict(made.studio.brush) == {"kind": "mine", "hairs": 7}
    assert type(made.studio.brush).__module__ == "own_brushes"
    if form[-1] != "own_brushes":
        assert sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("nowhere.py", None, "nowhere.py: no such file"),
        ("nowhere.at.all", None, "--import nowhere.at.all: cannot be imported (No module named 'nowhere')"),
        ("", None, "is not a module name"),
        ("my-part.py", "", "'my-part' is not a module name"),
        ("data.py", "", "'data' is the name of"),
        ("torch.py", "", "'torch' is the name of"),
        ("colorsys.py", "", "'colorsys' is the name of"),
        ("sys.py", "", "'sys' is the name of another module"),
        ("__main__.py", "", "'__main__' is the name of"),
        ("lacks.py", "import nothing_like_it", "cannot be imported (No module named 'nothing_like_it')"),
        ("twice.py", PART.replace("mine", "flat"), "brush 'flat' exists already; give the one in twice another name"),
    ],
)
def test_a_failed_import_is_one_line(
    name: str, content: str | None, said: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if content is not None:
        (tmp_path / name).write_text(content)
    given = str(tmp_path / name) if name.endswith(".py") else name
    monkeypatch.setattr(sys, "argv", ["prog", "--import", given])
    with pytest.raises(SystemExit) as left:
        command(print, House)
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_an_import_of_nothing() -> None:
    with pytest.raises(BadInput, match="--import: expected a module"):
        import_parts(["--import"])


def install(folder: Path, line: str) -> None:
    """An installed package with one entry point."""
    info = folder / "painters-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: painters\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tessera.parts]\n{line}\n")


def test_a_part_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is imported when it is first used, not before."""
    install(tmp_path, "brush.mine = painters_brushes")
    (tmp_path / "painters_brushes.py").write_text(PART)
    monkeypatch.syspath_prepend(tmp_path)
    assert "there are flat, mine, round" in refusal("--studio.brush.kind", "oval")
    assert "painters_brushes" not in sys.modules
    assert parse(House, ["--studio.brush.kind", "mine", "--studio.brush.hairs", "8"]).studio.brush.hairs == 8


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("brush.mine = painters_lost", "brush 'mine': painters_lost cannot be imported"),
        ("brush.mine = colorsys", "brush 'mine': colorsys registers no part of that name"),
        ("other.mine = painters_lost", "there is no brush 'mine'"),
    ],
)
def test_a_package_without_its_part(line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, line)
    monkeypatch.syspath_prepend(tmp_path)
    assert said in refusal("--studio.brush.kind", "mine")
