"""The README and docs/ are right: their commands from pictures to a drawn picture run, and so does their Python."""

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from sampling import BACKENDS, load
from sampling.generate import GenerateOptions

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SHIPPED = ROOT / "checkpoints" / "emoji"


def section(page: str, title: str) -> str:
    """What a page says under a title."""
    (body,) = (part for part in re.split(r"^##? ", (ROOT / page).read_text(), flags=re.M) if part.startswith(title))
    return body


def commands(page: str, title: str) -> list[list[str]]:
    """The shell commands of one section, as lists of words."""
    blocks = re.findall(r"```sh\n(.*?)```", section(page, title), flags=re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command of the README with this interpreter, on debug presets."""
    if words[0] == "tessera":
        words = [sys.executable, "-m", "commands.tessera", *words[1:]]
    else:
        assert words[:2] == ["accelerate", "launch"]
        words = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", *words[2:]]
    words = [str(ROOT / word) if word.endswith("train.py") else word for word in words]
    words = [{"emoji": "debug", "3000": "10"}.get(word, word) for word in words]  # the preset and the steps
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, timeout=200)


@pytest.mark.timeout(400)
def test_four_commands_from_pictures_to_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    photos = tmp_path / "photos"
    photos.mkdir()
    lines = []
    for i, (name, color) in enumerate([("red", (200, 0, 0)), ("green", (0, 160, 0)), ("blue", (0, 0, 200))] * 8):
        Image.new("RGB", (40 + i, 48), color).save(photos / f"{i}.jpg")
        lines.append(json.dumps({"file_name": f"{i}.jpg", "text": f"a {name} picture, number {i}"}))
    (photos / "metadata.jsonl").write_text("\n".join(lines))
    four = commands("README.md", "Train on your own pictures")
    assert four == commands("docs/train.md", "Training")
    three_more = commands("docs/train.md", "Diffusion")
    assert [len(four), len(three_more)] == [4, 3]
    for words in [*four, *three_more]:
        extra = ["--vocab_size", "320"] if "train-text" in words else []
        done = run([*words, *extra], tmp_path)
        assert done.returncode == 0, done.stderr
    with Image.open(next((tmp_path / "outputs").glob("0000-a-red-fox-*.png"))) as png:
        assert png.width == 32


def test_the_python_of_the_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (block,) = re.findall(r"```python\n(.*?)```", section("docs/draw.md", "From Python"), flags=re.S)
    names: dict[str, list[torch.Tensor]] = {}
    exec(block, names)  # type: ignore[arg-type]
    assert [(picture.dtype, picture.shape) for picture in names["pictures"]] == [(torch.uint8, (3, 64, 64))] * 4


def test_the_shipped_bundle_is_complete_and_small() -> None:
    bundle = load(SHIPPED)
    card = (SHIPPED / "README.md").read_text()
    assert all(value in card for value in bundle.ids.values())
    assert "OpenMoji" in card
    files = [file for file in SHIPPED.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 60e6
    assert not [file.name for file in files if file.suffix in {".pt", ".pth", ".bin", ".pkl"}]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    links = [page.parent / name for name in re.findall(r"\]\(([^):#]+)[)#]", text)]
    named = [ROOT / name for name in re.findall(r"`((?:configs|checkpoints)/[\w./-]*)`", text)]
    assert [path for path in (*links, *named) if not path.exists()] == []


@pytest.mark.parametrize(("page", "title"), [("README.md", "Draw"), ("docs/draw.md", "Options")])
def test_every_option_of_drawing_that_a_page_names_exists(page: str, title: str) -> None:
    of_the_launcher = {"multi_gpu", "num_processes"}
    flags = {*re.findall(r"--(\w+)", section(page, title))} - of_the_launcher - {"help"}
    assert len(flags) >= 5
    options = [GenerateOptions, *(BACKENDS[kind] for kind in BACKENDS.kinds)]
    assert flags <= {field.name for one in options for field in dataclasses.fields(one)}
