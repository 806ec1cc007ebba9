"""Fixtures that several test files share."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hypothesis
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

hypothesis.settings.register_profile("all")  # what `make test-all` loads: ten times as many damaged files

os.environ.pop("TESSERA_BUNDLE", None)  # the one in the clone
os.environ["NPM_CONFIG_OFFLINE"] = "true"  # no test reaches a network, whatever it calls
os.environ["OMP_WAIT_POLICY"] = "passive"  # commands that tests start do not spin while other tests need the cores


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Enough for tiny models; more wait for each other where something else runs beside the tests. Trainers set it."""
    torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints how many damaged files `test_fuzz.py` tried."""
    tried = getattr(sys.modules.get("test_fuzz"), "tried", {})
    if tried:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(tried.items()))
        terminalreporter.write_line(f"damaged files tried: {sum(tried.values()):,} ({kinds})")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own data: 20 small pictures to train on and 4 to validate with, all with captions."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    lines = []
    for i in range(24):
        blocks = random.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(6, 0).repeat(6, 1)
        Image.fromarray(blocks).save(folder / f"{i}.png")
        split = "validation" if i % 6 == 0 else "train"
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"a quilt, number {i}", "split": split}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def launch() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Returns a function that starts a script by `accelerate launch`. Kills what is still running when the test
    ends."""
    started: list[subprocess.Popen[str]] = []

    def start(script: Path, *arguments: object, options: Sequence[str] = ("--num_processes", "1")) -> subprocess.Popen:
        accelerate = [str(Path(sys.executable).with_name("accelerate")), "launch", *options]
        fixed = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        argv = [*accelerate, *fixed, str(script), *map(str, arguments)]
        started.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for launcher in started:
        with launcher:
            if launcher.poll() is None:
                for process in psutil.Process(launcher.pid).children(recursive=True):
                    process.kill()
                launcher.kill()
