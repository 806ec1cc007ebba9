"""What several test files share."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

torch.set_num_threads(1)  # enough for tiny models; more wait for each other where something else runs beside the tests


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own pictures: 20 small ones to train on, 4 to validate with, all with captions."""
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
