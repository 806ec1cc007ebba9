"""From a bundle to a report: `evaluation.run`, `.score`, `.compare`, and the page on which people judge."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from fake_network import FakeNetwork
from PIL import Image
from tiny_models import IMAGES, add_diffusion, save_bundle

from data.grid import to_pil
from evaluation import compare, harness, run, score
from evaluation.report import Column
from evaluation.result import SCHEMA, VERSION, read_result
from training.cli import command
from training.errors import BadInput

Command = Callable[..., str]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> dict[str, Path]:
    """An untrained bundle at two guidances on the captions of 4 photos, scored by a network of no cost."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "open_networks", lambda options: [FakeNetwork("lite0")])
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(IMAGES, "image_size", 16)  # the smallest that a source is drawn at
        bundle = save_bundle(folder / "bundle")
        patch.setattr(sys, "argv", [
            "run", "--model", str(bundle), "--suite", f"{photos}@validation", "--cache", str(folder / "cache"),
            "--sweep_guidance", "1", "--sweep_guidance", "3", "--device", "cpu", "--out", str(folder / "run"),
        ])  # fmt: skip
        command(run.main, run.RunOptions)
    return {
        "bundle": bundle, "a": folder / "run" / "guidance-1", "b": folder / "run" / "guidance-3", "root": folder
    }  # fmt: skip


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs a command of a module in this process; returns the one line that it refuses with, or what it printed."""

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run_it(module: object, options: type, *arguments: str | Path) -> str:
        argv = ["command", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", compare.spelled(argv) if module is compare else argv)
        monkeypatch.setattr(harness, "open_networks", lambda options: [FakeNetwork("lite0")])
        try:
            command(module.main, options)  # type: ignore[attr-defined]
        except SystemExit as left:
            assert left.code == 2
            return capsys.readouterr().err.strip().splitlines()[-1].removeprefix("error: ")
        return capsys.readouterr().out

    return run_it


def test_a_result_describes_itself(results: dict[str, Path]) -> None:
    result = read_result(results["a"])
    jsonschema.Draft202012Validator.check_schema(json.loads(SCHEMA.read_text()))
    assert result["version"] == VERSION
    assert result["subject"]["options"]["guidance"] == 1
    assert result["protocol"]["suite"]["count"] == 4
    assert result["protocol"]["seeds"] == [0]
    assert {"codes_id", "pixels_id", "parameters", "seconds", "device"} <= result["subject"].keys()
    assert result["controls"].keys() == {"real", "reconstruction", "nearest_caption"}
    assert result["metrics"]["bits_per_image"]["higher_is_better"] is False
    assert result["metrics"].keys() >= {"class_score_lite0", "kid", "bits_per_image"}
    assert [(results["a"] / picture["file"]).is_file() for picture in result["pictures"]] == [True] * 4
    assert any("no 5 nearest neighbours" in note for note in result["notes"])


def test_a_run_goes_on_where_it_was_stopped(
    results: dict[str, Path], tmp_path: Path, call: Command, photos: Path
) -> None:
    shutil.copytree(results["a"], tmp_path / "run")
    files = sorted((tmp_path / "run" / "pictures").glob("*.png"))
    kept = files[0].stat().st_mtime_ns
    drawn = files[1].read_bytes()
    files[1].unlink()
    words = ["--model", results["bundle"], "--suite", f"{photos}@validation", "--cache", results["root"] / "cache",
             "--device", "cpu", "--out", tmp_path / "run"]  # fmt: skip
    assert "result.json" in call(run, run.RunOptions, *words, "--guidance", "1")
    assert files[1].read_bytes() == drawn
    assert files[0].stat().st_mtime_ns == kept
    assert read_result(tmp_path / "run")["metrics"] == read_result(results["a"])["metrics"]
    said = call(run, run.RunOptions, *words, "--guidance", "2")
    assert "holds pictures of another run (options.guidance: 1.0 and 2.0); choose another --out" in said


def test_both_backends_are_judged_alike(
    results: dict[str, Path], tmp_path: Path, call: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IMAGES, "image_size", 16)
    words = ["--suite", f"{photos}@validation", "--cache", results["root"] / "cache", "--device", "cpu"]
    diffusion = [*words, "--backend", "diffusion", "--steps", "3", "--guidance", "1", "--out", tmp_path / "run"]
    assert "has no diffusion part" in call(run, run.RunOptions, "--model", results["bundle"], *diffusion)
    shutil.copytree(results["bundle"], tmp_path / "bundle")
    bundle = add_diffusion(tmp_path / "bundle")
    assert "result.json" in call(run, run.RunOptions, "--model", bundle, *diffusion)
    found, other = read_result(tmp_path / "run"), read_result(results["a"])
    assert found["subject"]["backend"] == "diffusion"
    assert found["subject"]["options"]["steps"] == 3
    assert found["subject"]["model_id"] != other["subject"]["model_id"]
    assert found["protocol"] == other["protocol"]
    assert found["metrics"]["bits_per_dimension"]["higher_is_better"] is False
    assert "bits_per_image" not in found["metrics"]
    said = call(run, run.RunOptions, "--model", bundle, *diffusion, "--temperature", "0.9")
    assert said == "temperature is 0.9: backend diffusion does not read it"


def test_anyone_s_pictures_are_scored(results: dict[str, Path], tmp_path: Path, call: Command, photos: Path) -> None:
    shutil.copytree(results["a"] / "pictures", tmp_path / "pictures")
    words = ["--images", tmp_path / "pictures", "--cache", results["root"] / "cache", "--out", tmp_path / "out"]
    call(score, score.ScoreOptions, *words, "--suite", f"{photos}@validation")
    mine, theirs = read_result(tmp_path / "out")["metrics"], read_result(results["a"])["metrics"]
    assert mine["kid"] == theirs["kid"]
    call(compare, compare.CompareOptions, results["a"], tmp_path / "out", "--out", tmp_path / "compared")
    assert "| pictures |" in (tmp_path / "compared" / "report.md").read_text()
    call(score, score.ScoreOptions, *words, "--reference", photos)
    assert "no real pictures" in call(score, score.ScoreOptions, *words)
    said = call(score, score.ScoreOptions, *words, "--suite", f"{photos}@validation", "--reference", "emoji")
    assert "the reference is of another corpus: 'emoji'" in said
    for file in list((tmp_path / "pictures").glob("*.png")):
        shutil.copy(file, file.with_stem(f"{file.stem}-again"))
    call(score, score.ScoreOptions, *words, "--suite", f"{photos}@validation")
    said = call(compare, compare.CompareOptions, results["a"], tmp_path / "out", "--out", tmp_path / "compared")
    assert said.startswith("these results cannot be compared: count: 4 and 8;")
    for file in sorted((tmp_path / "pictures").glob("*.png"))[3:]:
        file.unlink()
    assert "3 pictures for the 4 prompts" in call(
        score, score.ScoreOptions, *words, "--suite", f"{photos}@validation"
    )  # fmt: skip
    (tmp_path / "empty").mkdir()
    words[1] = tmp_path / "empty"
    assert call(score, score.ScoreOptions, *words, "--reference", photos).endswith("there is not one picture in it")


def test_the_report_is_whole(results: dict[str, Path], tmp_path: Path, call: Command) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- comparison -->\nold\n<!-- /comparison -->\nafter\n")
    call(
        compare,
        compare.CompareOptions,
        results["a"],
        results["b"] / "result.json",
        "--out",
        tmp_path,
        "--readme",
        readme,
    )
    page, table = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/png;base64,") == 4 * (2 + 3)
    assert "<polyline" in page
    for text in (page, table):
        assert all(
            word in text for word in ("kid", "guidance 1", "guidance 3", "nearest-caption copy", "real pictures")
        )
    assert readme.read_text() == f"before\n<!-- comparison -->\n{table}<!-- /comparison -->\nafter\n"


def test_results_of_different_protocols_are_refused(results: dict[str, Path], tmp_path: Path, call: Command) -> None:
    other = read_result(results["b"])
    other["protocol"]["seeds"] = [5]
    other["protocol"]["reference"]["fingerprint"] = "another"
    (tmp_path / "other.json").write_text(json.dumps(other))
    words = [results["a"], tmp_path / "other.json", "--out", tmp_path / "out"]
    said = call(compare, compare.CompareOptions, *words)
    assert said.startswith("these results cannot be compared: reference.fingerprint: ")
    assert "seeds: [0] and [5]" in said
    assert not (tmp_path / "out").exists()
    call(compare, compare.CompareOptions, *words, "--force")
    assert (tmp_path / "out" / "report.md").read_text().startswith("**Not the same protocol:** reference.fingerprint")
    body = (tmp_path / "out" / "report.html").read_text().split("<body>")[1]
    assert body.strip().startswith('<p class="mismatch"><b>Not the same protocol')


def test_files_that_are_no_results(results: dict[str, Path], tmp_path: Path, call: Command) -> None:
    good = read_result(results["a"])
    (tmp_path / "a.json").write_text(json.dumps({**good, "version": 99}))
    with pytest.raises(BadInput, match="a result of version 99, this is 1; measure it again"):
        read_result(tmp_path / "a.json")
    (tmp_path / "b.json").write_text(json.dumps({**good, "metrics": {"kid": {"value": "low"}}}))
    with pytest.raises(BadInput, match=r"b.json: not a valid result: \$.metrics.kid"):
        read_result(tmp_path / "b.json")
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(BadInput, match="not a result of the evaluation"):
        read_result(tmp_path / "c.json")


@pytest.fixture
def page(results: dict[str, Path], tmp_path: Path, call: Command) -> Path:
    call(compare, compare.CompareOptions, results["a"], results["b"], "--out", tmp_path)
    return tmp_path / "blind.html"


def test_answers_become_a_win_rate(results: dict[str, Path], page: Path, call: Command) -> None:
    key = json.loads((page.parent / "blind-key.json").read_text())
    assert "guidance" not in page.read_text()  # nothing on the page says whose picture is whose
    assert {side["left"] for side in key["sides"].values()} == {0, 1}  # shuffled
    first = [
        {"page": key["page"], "id": int(i), "choice": "left" if side["left"] == 0 else "right"}
        for i, side in key["sides"].items()
    ]
    answers = page.parent / "answers.jsonl"
    answers.write_text("".join(json.dumps(answer) + "\n" for answer in first))
    rates = compare.win_rate(answers, page.parent / "blind-key.json")
    assert [rate.value for rate in rates.values()] == [1, 0]
    answers.write_text("".join(json.dumps({**answer, "choice": "tie"}) + "\n" for answer in first))
    words = [results["a"], results["b"], "--out", page.parent, "--answers", answers]
    call(compare, compare.CompareOptions, *words)
    assert "Preferred by people: autoregressive, guidance 1 0.5" in (page.parent / "report.md").read_text()
    # a second person says the opposite of all pairs but one
    turned = [{**answer, "choice": {"left": "right", "right": "left"}[answer["choice"]]} for answer in first[1:]]
    answers.write_text("".join(json.dumps(answer) + "\n" for answer in [*first, *turned]))
    rate = next(iter(compare.win_rate(answers, page.parent / "blind-key.json").values()))
    assert rate.value == pytest.approx((1 + 3 * 0.5) / 4)
    for unusable in ({"id": 77}, {"page": "another"}):
        answers.write_text(json.dumps({**first[0], **unusable}))
        assert "line 1: not an answer to a pair" in call(compare, compare.CompareOptions, *words)


def test_equal_prompts_are_told_apart(tmp_path: Path) -> None:
    """Of the pictures with one prompt and one seed, the last stood for all."""
    columns = []
    for red in (0, 200):
        pictures = [{"file": f"{red + n}.png", "prompt": "a fox", "seed": 0} for n in range(3)]
        for n, picture in enumerate(pictures):
            Image.new("RGB", (2, 2), (red + n, 0, 0)).save(tmp_path / picture["file"])
        columns.append(Column(name=str(red), folder=tmp_path, result={}, pictures=pictures))
    page, key = compare.blind(*columns, 0)
    assert len(key["sides"]) == 3
    assert all(compare.embedded(file) in page for file in tmp_path.glob("*.png"))


BROWSER = shutil.which("chromium")


@pytest.mark.skipif(BROWSER is None, reason="chromium is not installed, so the blind page was not opened in a browser")
def test_the_blind_page_in_a_browser(page: Path, tmp_path: Path) -> None:
    """Keys and clicks, an answer taken back, and what is saved, in the page as a browser runs it.

    The last pair once stayed on the page after its answer, and a key held down answered all that was left.
    """
    script = """<script>
      const key = (name, repeat) => document.dispatchEvent(new KeyboardEvent("keydown", { key: name, repeat: repeat }));
      const seen = () => getComputedStyle(document.getElementById("pair")).display;
      localStorage.clear(); answers = []; show();
      const before = seen();
      key("ArrowLeft"); key("ArrowLeft", true); key("ArrowRight"); key("Backspace"); key("ArrowDown");
      document.getElementById("choose-right").click(); document.getElementById("choose-left").click();
      key("ArrowLeft");  // all are answered: one more changes nothing
      document.body.textContent = "SAID" + lines() + "SEEN" + before + " " + seen() + "END";
    </script></body>"""
    (tmp_path / "driven.html").write_text(page.read_text().replace("</body>", script))
    words = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom",
             f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "driven.html").as_uri()]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    said, _, seen = done.stdout.partition("SAID")[2].partition("SEEN")
    answers = [json.loads(line) for line in said.strip().splitlines()]
    assert seen.partition("END")[0] == "flex none"
    assert [answer["choice"] for answer in answers] == ["left", "tie", "right", "left"], done.stderr
    assert sorted(answer["id"] for answer in answers) == [0, 1, 2, 3]


def test_equal_pictures_of_any_mode_are_read_alike(tmp_path: Path, results: dict[str, Path]) -> None:
    from evaluation.pictures import read_pictures

    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "grey.png")
    clear, grey = read_pictures([tmp_path / "clear.png", tmp_path / "grey.png"])
    assert (clear == grey).all()
    assert to_pil(clear).getpixel((0, 0)) == (255, 255, 255)
