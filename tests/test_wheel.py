"""What `pip install .` gives: built as others get it, installed alone, and used from anybody's folder."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
ROOMS = ("commands", "data", "diffusion", "evaluation", "sampling", "seq2seq", "tokenizer", "training")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def build(kind: str, source: Path, out: Path) -> Path:
    """Builds an `sdist` or a `wheel` of a folder, as pip and `build` do."""
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(out)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = out.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, so that this is complete too."""
    folder = tmp_path_factory.mktemp("build")
    others = (".*", "checkpoints", "outputs", "runs", "tests", "*.egg-info", "__pycache__", "build", "dist")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*others))
    with tarfile.open(build("sdist", folder / "source", folder)) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return build("wheel", unpacked, folder)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel in it, and of this one only what it depends on."""
    home = tmp_path_factory.mktemp("clean") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    here = subprocess.run([sys.executable, *asked[1:]], capture_output=True, text=True, check=True).stdout
    (site / "dependencies.pth").write_text(here)  # a line in it is no place whose own .pth files count
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return home / "bin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's, with folders that are called as ours are."""
    folder = tmp_path_factory.mktemp("somebody")
    for name in ("data", "configs/text", "tokenizer"):
        (folder / name).mkdir(parents=True)
    (folder / "configs" / "text" / "debug.yaml").write_text("not: ours\n")
    return folder


def run(installed: Path, folder: Path, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TESSERA_BUNDLE")}
    environment |= {"XDG_CACHE_HOME": str(folder / "cache"), "PATH": f"{installed}{os.pathsep}{os.environ['PATH']}"}
    argv = [str(installed / program), *words]
    return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_a_wheel_holds_presets_types_and_licences(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {*archive.namelist()}
    presets = {str(file.relative_to(ROOT)) for file in (ROOT / "configs").rglob("*.yaml")}
    assert len(presets) > 10
    assert names >= presets | {f"{room}/py.typed" for room in ROOMS}
    assert {name.rpartition("/")[2] for name in names} >= {"LICENSE", "NOTICE", "entry_points.txt"}
    modules = {str(file.relative_to(ROOT)) for room in ROOMS for file in (ROOT / room).rglob("*.py")}
    assert names >= modules


def test_the_first_commands_of_the_chain_run_from_anybody_s_folder(installed: Path, folder: Path) -> None:
    launch = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1", "--mixed_precision"]
    launch += ["no", "--dynamo_backend", "no"]
    trained = ["--config", "debug", "--steps", "2", "--task.perceptual", "0", "--out", "run/tokenizer"]
    for program, *words in (
        ["tessera", "--help"],
        ["tessera", "train-text", "--config", "debug", "--out", "run/text"],
        ["python", *launch, "-m", "tokenizer.train", *trained],
        ["tessera", "encode", "--config", "debug", "--model", "run/tokenizer/model", "--out", "run/codes"],
    ):
        done = run(installed, folder, program, *words)
        assert done.returncode == 0, done.stderr
    assert (folder / "run" / "codes" / "train").is_dir()
    with Image.open(next((folder / "run" / "tokenizer" / "samples").glob("*.png"))) as samples:
        assert samples.width > 32


def test_what_is_not_in_a_wheel_is_said_in_a_line(installed: Path, folder: Path) -> None:
    """It said that `site-packages/checkpoints/emoji` is neither a bundle nor one on the Hub."""
    done = run(installed, folder, "tessera", "generate", "--prompt", "a fox")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "give --model FOLDER or --model hf://owner/name, or set TESSERA_BUNDLE" in done.stderr
    done = run(installed, folder, "python", "-m", "seq2seq.train")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "TokenTrainingConfig.tokenizer is '': must be a folder" in done.stderr
    done = run(installed, folder, "tessera", "env")
    assert done.stdout.startswith("tessera       0.1.0, installed\n")
    assert "[eval]" in done.stdout
