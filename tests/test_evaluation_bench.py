"""The benchmark of the evaluation runs and writes its results; their values are not tested."""

import json
from pathlib import Path

import pytest

from evaluation.bench import HarnessBenchOptions, main


def test_it_times_features_and_scoring(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = HarnessBenchOptions(
        pictures=4, size=24, batch=1, repeats=1, suite=f"{photos}@validation", cache=tmp_path, json=tmp_path / "b.json"
    )
    main(options)
    found = json.loads(options.json.read_text())
    assert [row["network"] for row in found["features"]] == ["lite0", "lite1"]
    assert all(row["share"] == row["images_per_second"] / row["bare_images_per_second"] for row in found["features"])
    assert (found["pictures"], found["scoring_seconds"] > 0) == (4, True)
    assert "4 pictures scored by lite0 and lite1" in capsys.readouterr().out
