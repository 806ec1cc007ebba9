"""From a bundle to a report: `evaluation.run`, `.score`, `.compare`, and the blind page on which people choose."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from fake_network import FakeNetwork
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tiny_models import IMAGES, add_diffusion, add_upsampler, save_bundle

from data.folder import FolderCorpus
from data.grid import to_pil
from data.source import open_source
from evaluation import compare, copies, harness, reconstruct, report, run, score
from evaluation.controls import reconstructed
from evaluation.pictures import read_pictures
from evaluation.report import Column
from evaluation.result import SCHEMA, VERSION, read_result, write_result
from sampling import DiffusionOptions, SamplingOptions, generate
from sampling.pipeline import LONGEST_PROMPT, load
from tokenizer.upsampler_batches import reduced
from training.cli import command
from training.errors import BadInput
from training.strict_json import read_json

Command = Callable[..., str]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> dict[str, Path]:
    """An untrained bundle at two guidances on the captions of 4 photos, scored by a fake network."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "open_networks", lambda options: [FakeNetwork("lite0")])
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(run, "set_up_cpu", lambda: None)
        patch.setattr(IMAGES, "image_size", 16)  # the smallest that a source is drawn at
        bundle = save_bundle(folder / "bundle", seed=1)
        patch.setattr(sys, "argv", [
            "run", "--model", str(bundle), "--suite", f"{photos}@validation", "--cache", str(folder / "cache"),
            "--sweep", "guidance=1", "--sweep", "guidance=3", "--device", "cpu", "--out", str(folder / "run"),
        ])  # fmt: skip
        command(run.main, run.RunOptions)
    return {
        "bundle": bundle, "a": folder / "run" / "guidance-1", "b": folder / "run" / "guidance-3", "root": folder
    }  # fmt: skip


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs a command of a module in this process; returns its one-line error, or what it printed."""

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run_it(module: object, options: type, *arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        monkeypatch.setattr(harness, "open_networks", lambda options: [FakeNetwork("lite0")])
        monkeypatch.setattr(run, "set_up_cpu", lambda: None)
        try:
            command(module.main, options)  # type: ignore[attr-defined]
        except SystemExit as left:
            assert left.code == 2
            return capsys.readouterr().err.strip().splitlines()[-1].removeprefix("error: ")
        return capsys.readouterr().out

    return run_it


def test_a_result_states_what_it_depends_on(results: dict[str, Path]) -> None:
    result = read_result(results["a"])
    jsonschema.Draft202012Validator.check_schema(json.loads(SCHEMA.read_text()))
    assert result["version"] == VERSION
    assert result["subject"]["options"]["guidance"] == 1
    assert result["protocol"]["suite"]["count"] == 4
    assert (result["protocol"]["seed"], result["protocol"]["num_images"]) == (0, 1)
    assert [picture["seed"] for picture in result["pictures"]] == [0, 1, 2, 3]  # pictures share no noise
    assert {"codes_id", "pixels_id", "parameters", "seconds", "device", "engine", "dtype"} <= result["subject"].keys()
    assert result["controls"].keys() == {"real", "reconstruction", "nearest_caption"}
    assert result["metrics"]["bits_per_image"]["higher_is_better"] is False
    assert result["metrics"].keys() >= {"class_score_lite0", "kid", "bits_per_image"}
    assert [(results["a"] / picture["file"]).is_file() for picture in result["pictures"]] == [True] * 4
    assert any("no 5 nearest neighbours" in note for note in result["notes"])


def test_an_interrupted_run_resumes(results: dict[str, Path], tmp_path: Path, call: Command, photos: Path) -> None:
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
    settings = read_json(tmp_path / "run" / "settings.json")
    (tmp_path / "run" / "settings.json").write_text(json.dumps({**settings, "version": 1}))  # which had other seeds
    assert "another run (version: 1 and 2)" in call(run, run.RunOptions, *words, "--guidance", "1")


def test_a_scored_run_is_not_scored_again(
    results: dict[str, Path], tmp_path: Path, call: Command, photos: Path
) -> None:
    shutil.copytree(results["a"], tmp_path / "run")
    words = ["--model", results["bundle"], "--suite", f"{photos}@validation", "--cache", results["root"] / "cache",
             "--device", "cpu", "--guidance", "1", "--out", tmp_path / "run"]  # fmt: skip
    before = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    assert "scored before" in call(run, run.RunOptions, *words)
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == before
    other = {**read_result(tmp_path / "run"), "version": 0}  # of another protocol, or none that can be read
    (tmp_path / "run" / "result.json").write_text(json.dumps(other))
    assert "scored before" not in call(run, run.RunOptions, *words)


def test_a_prompt_without_a_readable_picture_is_not_drawn(
    results: dict[str, Path], tmp_path: Path, call: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged picture, or one that the corpus leaves out, ended the evaluation when all pictures had been drawn."""
    own = shutil.copytree(photos, tmp_path / "own")
    (own / "6.png").write_text("damaged")
    words = ["--suite", f"{own}@validation", "--cache", tmp_path / "cache", "--device", "cpu"]
    call(run, run.RunOptions, "--model", results["bundle"], *words, "--out", tmp_path / "run")
    prompts = [picture["prompt"] for picture in read_result(tmp_path / "run")["pictures"]]
    assert prompts == [f"a quilt, number {i}" for i in (0, 12, 18)]
    shutil.copytree(results["a"] / "pictures", tmp_path / "pictures")
    said = call(score, score.ScoreOptions, "--images", tmp_path / "pictures", *words, "--out", tmp_path / "score")
    assert said.startswith(f"{own}: picture 6.png of suite own@validation cannot be read or was left out")
    with monkeypatch.context() as left_out:
        left_out.setattr(FolderCorpus, "check", lambda corpus, store: {"12.png": "of no use"})
        call(run, run.RunOptions, "--model", results["bundle"], *words, "--out", tmp_path / "two")
    assert len(read_result(tmp_path / "two")["pictures"]) == 2
    for i in (0, 12, 18):
        (own / f"{i}.png").write_text("damaged")
    said = call(run, run.RunOptions, "--model", results["bundle"], *words, "--out", tmp_path / "none")
    assert said == f"{own}: has none of the pictures of suite own@validation; `tessera inspect` says why"
    assert not (tmp_path / "none").exists()


def test_processes_share_the_drawing_and_one_scores(results: dict[str, Path], tmp_path: Path, photos: Path) -> None:
    """Once, each process scored a guidance while the others waited, until the process group timed out."""
    argv = [  # `accelerate launch --cpu` starts one process, whatever it is told
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "evaluation.run",
        "--model", str(results["bundle"]), "--suite", f"{photos}@validation", "--cache", str(results["root"] / "cache"),
        "--networks", "lite0", "--sweep", "guidance=1", "--sweep", "guidance=3", "--batch_size", "1",
        "--device", "cpu", "--out", str(tmp_path),
    ]  # fmt: skip
    together = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=170)
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("on 4 pictures") == 2
    for name, alone in (("guidance-1", results["a"]), ("guidance-3", results["b"])):
        for file in (alone / "pictures").glob("*.png"):
            assert file.read_bytes() == (tmp_path / name / "pictures" / file.name).read_bytes()
        subject = read_result(tmp_path / name)["subject"]
        assert (subject["processes"], len(subject["turns"]), subject["turns"][0]["images"]) == (2, 1, 4)


def test_the_time_of_a_turn_is_that_of_its_slowest_process(tmp_path: Path) -> None:
    """Once, seconds of parallel processes were added up, and an incomplete line in a log was a traceback."""
    line = {"images": 10, "device": "cpu", "threads": 1, "batch_size": 5, "processes": 2}
    for name, seconds in (("clock-1-0", [1.0, 1.0]), ("clock-1-1", [2.0, 2.0]), ("clock-2-0", [20.0])):
        lines = [json.dumps({**line, "seconds": time}) + "\n" for time in seconds]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines) + '{"images": 1')
    (tmp_path / "clock-3-0.jsonl").write_text('{"ima')
    turns = run._turns(tmp_path)
    assert turns[1] == {**line, "images": 40, "seconds": 4.0, "images_per_second": 10.0}
    assert [turn["images_per_second"] for turn in turns.values()] == [10.0, 0.5, 0.0]


def options_of(**values: Any) -> run.RunOptions:
    return run.RunOptions(**{"out": Path("out"), "device": "cpu", **values})


def test_run_and_generate_have_the_same_default_options() -> None:
    drawn, judged = generate.GenerateOptions(), run.RunOptions(out=Path("x"))
    for name in ("dtype", "engine", "batch_size", "seed", "model"):
        assert getattr(judged, name) == getattr(drawn, name)


def test_options_without_effect_are_refused(
    results: dict[str, Path], tmp_path: Path, call: Command, photos: Path
) -> None:
    words = ["--model", results["bundle"], "--device", "cpu", "--out", tmp_path / "out"]
    said = call(run, run.RunOptions, *words, "--sweep", "guidance=1", "--guidance", "3")
    assert said == "guidance is 3.0: must be absent where it is swept"
    said = call(run, run.RunOptions, *words, "--sweep", "guidance=1", "--sweep", "guidance=1")
    assert said == "--sweep: guidance-1 is given twice; give each value once"  # "another command is at work"
    assert "autoregressive" in call(run, run.RunOptions, *words, "--sweep", "steps=5")
    said = call(run, run.RunOptions, *words, "--sweep", "guidance=1", "--sweep", "guidance=-1")
    assert said == "SamplingOptions.guidance is -1.0: must be from 0 to 100"
    (tmp_path / "prompts.txt").write_text("a fox\n" + "long " * 2500)
    said = call(run, run.RunOptions, *words, "--suite", tmp_path / "prompts.txt", "--reference", photos)
    assert "has 12499 characters" in said
    assert "no real pictures" in call(run, run.RunOptions, *words, "--suite", "lab")
    said = call(score, score.ScoreOptions, "--images", tmp_path, "--limit", "3", "--out", tmp_path / "out")
    assert said == "ScoreOptions.limit is 3: must be absent without suite"
    assert not (tmp_path / "out").exists()


def test_each_value_of_a_sweep_has_its_folder() -> None:
    both = options_of(backend=DiffusionOptions(), sweep=["guidance=1", "guidance=2.5", "steps=5", "steps=10"])
    assert [(one.backend.guidance, one.backend.steps, str(one.out)) for one in both.runs] == [
        (1.0, 5, "out/guidance-1-steps-5"), (1.0, 10, "out/guidance-1-steps-10"),
        (2.5, 5, "out/guidance-2.5-steps-5"), (2.5, 10, "out/guidance-2.5-steps-10"),
    ]  # fmt: skip
    assert options_of(backend=SamplingOptions(guidance=4.0)).runs == [options_of(backend=SamplingOptions(guidance=4.0))]


def test_both_backends_are_scored_in_the_same_way(
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
    assert said.startswith("backend 'diffusion' has no option 'temperature'; 'autoregressive' has it")


def test_enlarged_pictures_are_scored_at_their_size(
    results: dict[str, Path], tmp_path: Path, call: Command, photos: Path
) -> None:
    """Against the real pictures at that size; the control is what tokenizer and upsampler make of those, reduced."""
    bundle = add_upsampler(Path(shutil.copytree(results["bundle"], tmp_path / "bundle")))
    suite, cache = f"{photos}@validation", results["root"] / "cache"
    call(run, run.RunOptions, "--model", bundle, "--suite", suite, "--cache", cache, "--guidance", "1",
         "--upscale", "4", "--device", "cpu", "--out", tmp_path / "large")  # fmt: skip
    large, small = read_result(tmp_path / "large"), read_result(results["a"])
    assert (large["protocol"]["image_size"], small["protocol"]["image_size"]) == (64, 16)
    loaded = load(bundle)
    assert large["subject"]["upsampler_id"] == loaded.upsampler_id
    real = read_pictures(sorted((tmp_path / "large" / "controls" / "real").glob("*.png")))
    assert torch.equal(real, torch.stack([open_source(str(photos), size=64, split="validation")[i] for i in range(4)]))
    expected = loaded.upscaled(list(reconstructed(loaded.tokenizer, reduced(real, 16))), 4)
    for name, pictures in (("large/controls/reconstruction", expected), ("large/pictures", None)):
        made = read_pictures(sorted((tmp_path / name).glob("*.png")))
        assert made.shape == (4, 3, 64, 64)
        assert pictures is None or torch.equal(made, torch.stack(pictures))
    bits = loaded.backend("autoregressive").likelihood([one["prompt"] for one in large["pictures"]], reduced(real, 16))
    assert large["metrics"]["bits_per_image"]["value"] == pytest.approx(bits.mean().item())
    said = call(compare, compare.CompareOptions, results["a"], tmp_path / "large", "--out", tmp_path / "report")
    assert "image_size" in said


def test_pictures_from_any_source_are_scored(
    results: dict[str, Path], tmp_path: Path, call: Command, photos: Path
) -> None:
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
    assert call(score, score.ScoreOptions, *words, "--reference", photos).endswith("there is no picture in it")


def test_prompts_of_a_folder_are_part_of_the_protocol(
    results: dict[str, Path], tmp_path: Path, call: Command, photos: Path
) -> None:
    """Once, results of two folders with different prompts could be compared."""
    for name in ("fox", "owl"):
        shutil.copytree(results["a"] / "pictures", tmp_path / name)
        lines = [{"file_name": file.name, "text": f"a {name}"} for file in (tmp_path / name).glob("*.png")]
        (tmp_path / name / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
        call(score, score.ScoreOptions, "--images", tmp_path / name, "--cache", results["root"] / "cache",
             "--reference", photos, "--out", tmp_path / f"{name}-scored")  # fmt: skip
    said = call(compare, compare.CompareOptions, tmp_path / "fox-scored", tmp_path / "owl-scored", "--out", tmp_path)
    assert said.startswith("these results cannot be compared: suite.hash: ")


def test_a_caption_that_no_result_can_hold_is_refused_before_scoring(tmp_path: Path, call: Command) -> None:
    """Once, a traceback of the schema followed, when all pictures had been scored."""
    Image.new("RGB", (16, 16)).save(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("x" * 10_001)
    said = call(score, score.ScoreOptions, "--images", tmp_path, "--reference", tmp_path, "--out", tmp_path / "out")
    assert said == f"the prompt '{'x' * 40}...' has 10001 characters: at most 10000 are read"
    of_pictures = json.loads(SCHEMA.read_text())["properties"]["pictures"]["items"]["properties"]
    assert of_pictures["prompt"]["maxLength"] == LONGEST_PROMPT == 10_000


def test_drawn_pictures_that_ended_early_are_padded(
    results: dict[str, Path], tmp_path: Path, call: Command, photos: Path
) -> None:
    for name, height in (("a.png", 16), ("b.png", 12)):
        Image.new("RGB", (16, height)).save(tmp_path / name)
    Image.new("RGB", (99, 30)).save(tmp_path / "grid.png")
    images = [{"file": name, "prompt": "a quilt"} for name in ("a.png", "b.png")]
    (tmp_path / "prompts.txt").write_text("a quilt\n" * 2)
    words = ["--images", tmp_path, "--cache", results["root"] / "cache", "--reference", photos, "--out", tmp_path]
    (tmp_path / "generation.json").write_text(json.dumps({"images": images}))
    assert "on 2 pictures" in call(score, score.ScoreOptions, *words)
    assert "on 2 pictures" in call(score, score.ScoreOptions, *words, "--suite", tmp_path / "prompts.txt")
    (tmp_path / "generation.json").write_text(json.dumps({"images": {"a.png": "a quilt"}}))
    assert "must give the file and the prompt of each picture" in call(score, score.ScoreOptions, *words)


def test_the_report_is_complete(results: dict[str, Path], tmp_path: Path, call: Command) -> None:
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
    written = readme.read_text()
    assert written.startswith("before\n<!-- comparison -->\n|  | ")
    assert written.endswith("<!-- /comparison -->\nafter\n")
    lines = [line for line in written.splitlines() if line.startswith("| ")]
    assert "| bits_per_image ↓ |" in written and "| precision ↑ |" not in written
    assert all(line in table.splitlines() for line in lines)


def test_results_of_different_protocols_are_refused(results: dict[str, Path], tmp_path: Path, call: Command) -> None:
    other = read_result(results["b"])
    other["protocol"]["seed"] = 5
    other["protocol"]["reference"]["fingerprint"] = "another"
    (tmp_path / "other.json").write_text(json.dumps(other))
    words = [results["a"], tmp_path / "other.json", "--out", tmp_path / "out"]
    said = call(compare, compare.CompareOptions, *words)
    assert said.startswith("these results cannot be compared: reference.fingerprint: ")
    assert "seed: 0 and 5" in said
    assert not (tmp_path / "out").exists()
    call(compare, compare.CompareOptions, *words, "--force")
    assert (tmp_path / "out" / "report.md").read_text().startswith("**Not the same protocol:** reference.fingerprint")
    body = (tmp_path / "out" / "report.html").read_text().split("<body>")[1]
    assert body.strip().startswith('<p class="mismatch"><b>Not the same protocol')


def test_results_with_different_names_and_paths_compare(
    results: dict[str, Path], tmp_path: Path, call: Command
) -> None:
    shutil.copytree(results["b"], tmp_path / "other")
    other = read_result(tmp_path / "other")
    other["protocol"]["reference"]["name"] = "the same, elsewhere"
    other["protocol"]["suite"]["name"] = "the same, too"
    (tmp_path / "other" / "result.json").write_text(json.dumps(other))
    said = call(compare, compare.CompareOptions, results["a"], tmp_path / "other", "--out", tmp_path)
    assert "the comparison is in" in said


def with_subject(result: dict[str, Any], **subject: Any) -> Column:
    its = {**result["subject"], **subject}
    name = f"{its['model_id']} {its['options']}"
    return Column(name=name, folder=Path("nowhere"), result={**result, "subject": its}, pictures=[])


def test_likelihoods_and_reconstructions_of_two_tokenizers_have_separate_rows(results: dict[str, Path]) -> None:
    result = read_result(results["a"])
    mine, theirs = with_subject(result), with_subject(result, codes_id="0" * 16, pixels_id="1" * 16)
    same = report.markdown_table(compare.with_codes_in_names([mine, mine]), [], {})
    assert "\n| bits_per_image ↓ |" in same
    assert same.count("their reconstruction") == 1
    table = report.markdown_table(compare.with_codes_in_names([mine, theirs]), [], {})
    assert "| bits_per_image ↓ |" not in table
    assert "| bits_per_image (codes 00000000) ↓ |" in table
    assert table.count("their reconstruction (pixels ") == 2
    assert table.count("real pictures") == 1


def test_likelihoods_of_latents_are_named_by_these(results: dict[str, Path]) -> None:
    """Of the same codes, latents may be standardised differently; and a tokenizer may have no codes."""
    result = read_result(results["a"])
    metrics = result["metrics"]
    result["metrics"] = {"bits_per_dimension": metrics["bits_per_image"]}
    mine, theirs = with_subject(result), with_subject(result, latents_id="2" * 16)
    theirs.result["subject"].pop("codes_id")
    token_model = with_subject({**result, "metrics": metrics})
    table = report.markdown_table(compare.with_codes_in_names([mine, token_model, theirs]), [], {})
    assert "| bits_per_dimension (latents 22222222) ↓ |" in table
    assert "| bits_per_dimension ↓ |" not in table
    assert "| bits_per_image ↓ |" in table


def test_a_curve_has_results_of_one_model_with_equal_other_options(results: dict[str, Path]) -> None:
    """Once, two models of one backend shared one zigzag line."""
    result = read_result(results["a"])
    options = result["subject"]["options"]
    columns = [
        with_subject(result, model_id=model, options={**options, "guidance": guidance, "temperature": temperature})
        for model, temperature in (("one", 0.6), ("one", 1.0), ("two", 1.0)) for guidance in (1.0, 2.0)
    ]  # fmt: skip
    lines = report._curve(columns, "kid", "guidance")["lines"]
    assert [line["label"] for line in lines] == [
        f"autoregressive, model {model}, temperature {temperature}"
        for model, temperature in (("one", 0.6), ("one", 1.0), ("two", 1.0))
    ]
    assert [len(line["dots"]) for line in lines] == [2, 2, 2]
    assert not report._curve(columns, "kid", "steps")["lines"]
    stepped = [with_subject(result, backend="diffusion", options={"guidance": 2.0, "steps": n}) for n in (5, 10)]
    (line,) = report._curve([*stepped, columns[0]], "kid", "steps")["lines"]
    assert (line["label"], len(line["dots"])) == ("diffusion", 2)
    assert {"fid", "retrieval_top1_lite1", "concept_and_style_lite1"} <= {*report._CURVES}


def test_an_incomplete_result_is_not_written(results: dict[str, Path], tmp_path: Path) -> None:
    result = read_result(results["a"])
    del result["subject"]["latents_id"]  # instead of which there may be codes_id
    for name in ("codes_id", "pixels_id", "num_images", "suite"):
        part = "subject" if name.endswith("_id") else "protocol"
        lacking = {**result, part: {key: value for key, value in result[part].items() if key != name}}
        with pytest.raises(jsonschema.ValidationError, match=f"'{name}' is a required property"):
            write_result(tmp_path / "result.json", lacking)
    with pytest.raises(jsonschema.ValidationError, match="'controls' is a required property"):
        write_result(tmp_path / "result.json", {key: value for key, value in result.items() if key != "controls"})
    nothing = {"value": float("nan"), "low": None, "high": None, "higher_is_better": True}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result(tmp_path / "result.json", {**result, "metrics": {"kid": nothing}})
    assert not (tmp_path / "result.json").exists()


def test_files_that_are_not_results_are_refused(results: dict[str, Path], tmp_path: Path, call: Command) -> None:
    good = read_result(results["a"])
    (tmp_path / "a.json").write_text(json.dumps({**good, "version": 99}))
    with pytest.raises(BadInput, match="a result of version 99, but only 2 can be read; evaluate again"):
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
    names = ["autoregressive, guidance 3", "autoregressive, guidance 1"]
    rates = compare.win_rate(answers, page.parent / "blind-key.json", names)
    assert [rate.value for rate in rates.values()] == [1, 0]
    assert rates[names[1]].low == pytest.approx(0.51, abs=0.01)  # of four pairs, however clear
    with pytest.raises(BadInput, match=r"is of \['autoregressive, guidance 1', .*, not of \['another', 'two'\]"):
        compare.win_rate(answers, page.parent / "blind-key.json", ["another", "two"])
    answers.write_text("".join(json.dumps({**answer, "choice": "tie"}) + "\n" for answer in first))
    words = [results["a"], results["b"], "--out", page.parent, "--answers", answers]
    call(compare, compare.CompareOptions, *words)
    assert "Preferred by people: autoregressive, guidance 1 0.5" in (page.parent / "report.md").read_text()
    # a second person answers all pairs but one in the opposite way
    turned = [{**answer, "choice": {"left": "right", "right": "left"}[answer["choice"]]} for answer in first[1:]]
    answers.write_text("".join(json.dumps(answer) + "\n" for answer in [*first, *turned]))
    rate = next(iter(compare.win_rate(answers, page.parent / "blind-key.json", names).values()))
    assert rate.value == pytest.approx((1 + 3 * 0.5) / 4)
    for unusable in ({"id": 77}, {"page": "another"}):
        answers.write_text(json.dumps({**first[0], **unusable}))
        assert "line 1: not an answer to a pair" in call(compare, compare.CompareOptions, *words)
    answers.write_bytes(b"\xff")
    assert "answers.jsonl, line 1: not valid JSON (not UTF-8 text, byte 0)" in call(
        compare, compare.CompareOptions, *words
    )


def test_two_of_more_results_are_chosen_for_the_blind_page(
    results: dict[str, Path], tmp_path: Path, call: Command
) -> None:
    shutil.copytree(results["a"], tmp_path / "c")
    words = [results["a"], results["b"], tmp_path / "c", "--out", tmp_path / "out"]
    said = call(compare, compare.CompareOptions, *words)
    assert "no blind page: it shows two results, but 3 have pictures; choose two with --blind A B" in said
    assert not (tmp_path / "out" / "blind.html").exists()
    said = call(compare, compare.CompareOptions, *words, "--blind", results["b"], results["b"].parent / "elsewhere")
    assert "blind is" in said
    assert "must be two of the results" in said
    call(compare, compare.CompareOptions, *words, "--blind", results["b"], tmp_path / "c" / "result.json")
    key = json.loads((tmp_path / "out" / "blind-key.json").read_text())
    assert key["names"] == ["autoregressive, guidance 3", "autoregressive, guidance 1 (c)"]


def test_pictures_of_one_prompt_and_seed_are_distinguished(tmp_path: Path) -> None:
    """Once, the last of several pictures with one prompt and seed was used for all."""
    columns = []
    for red in (0, 200):
        pictures = [{"file": f"{red + n}.png", "prompt": "a fox", "seed": 0} for n in range(3)]
        for n, picture in enumerate(pictures):
            Image.new("RGB", (2, 2), (red + n, 0, 0)).save(tmp_path / picture["file"])
        columns.append(Column(name=str(red), folder=tmp_path, result={}, pictures=pictures))
    page, key = compare.blind(*columns, 0)
    assert len(key["sides"]) == 3
    assert all(report.data_uri(tmp_path, file.name) in page for file in tmp_path.glob("*.png"))


def test_results_with_equal_names_and_folders_get_numbers(tmp_path: Path) -> None:
    columns = [Column(name="mine", folder=tmp_path / part / "run", result={}, pictures=[]) for part in "ab"]
    assert [column.name for column in compare.with_unique_names(columns)] == ["mine (run), 1", "mine (run), 2"]


@pytest.fixture
def handed_over(results: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a result from somebody else, beside a private file of the reader."""
    (tmp_path / "id_rsa").write_text("a private key")
    shutil.copytree(results["a"], tmp_path / "theirs")
    return tmp_path / "theirs"


def rewritten(folder: Path, **fields: Any) -> Path:
    """Changes fields of the result in `folder`."""
    (folder / "result.json").write_text(json.dumps({**json.loads((folder / "result.json").read_text()), **fields}))
    return folder


@pytest.mark.parametrize("how", ["absolute", "above", "a link", "no PNG", "a JPEG", "too large", "a control"])
def test_no_file_outside_a_result_gets_into_a_page(
    results: dict[str, Path], handed_over: Path, call: Command, how: str
) -> None:
    """Once, `"file": "/home/me/.ssh/id_rsa"` was embedded in two pages that people share."""
    pictures = read_result(handed_over)["pictures"]
    first = handed_over / pictures[0]["file"]
    if how in ("absolute", "above"):
        pictures[0]["file"] = str(handed_over.parent / "id_rsa") if how == "absolute" else "../id_rsa"
    elif how == "a JPEG":
        Image.new("RGB", (16, 16)).save(first, format="JPEG")
    elif how == "too large":
        Image.new("1", (5000, 5000)).save(first)
    elif how == "no PNG":
        first.write_text("a private key")
    else:
        first = handed_over / "controls" / "real" / "00000.png" if how == "a control" else first
        first.unlink()
        first.symlink_to(handed_over.parent / "id_rsa")
    out = handed_over.parent / "out"
    said = call(compare, compare.CompareOptions, rewritten(handed_over, pictures=pictures), results["b"], "--out", out)
    assert str(handed_over) in said
    assert not list(out.glob("report.*"))


def test_only_the_pixels_of_a_picture_get_into_a_page(handed_over: Path) -> None:
    told = PngInfo()
    told.add_text("comment", "a private key")
    Image.new("RGB", (2, 2), "red").save(handed_over / "a.png", pnginfo=told, icc_profile=b"a private profile")
    with (handed_over / "a.png").open("ab") as file:
        file.write(b"a private key")
    Image.new("RGB", (2, 2), "red").save(handed_over / "b.png")
    assert b"private" in (handed_over / "a.png").read_bytes()
    assert report.data_uri(handed_over, "a.png") == report.data_uri(handed_over, "b.png")
    for name in ("gone.png", "x" * 300, "a\0b", ""):
        assert report.data_uri(handed_over / "nothing", name) == ""


@pytest.mark.parametrize("name", ["A <!-- /comparison --> <script>alert(1)</script>", "a | b\nc", "![](http://x) `"])
def test_names_are_escaped(results: dict[str, Path], handed_over: Path, call: Command, name: str) -> None:
    """Once, with the end mark in a name, each comparison left a part of the previous table in the README."""
    readme = handed_over.parent / "README.md"
    readme.write_text("before\n<!-- comparison -->\n<!-- /comparison -->\nafter\n")
    protocol = read_result(handed_over)["protocol"]
    protocol = {**protocol, "suite": {**protocol["suite"], "name": name}}
    words = [rewritten(handed_over, name=name, protocol=protocol), results["b"]]
    out = handed_over.parent / "out"
    for _ in range(2):
        call(compare, compare.CompareOptions, *words, "--out", out, "--readme", readme)
    texts = [readme.read_text(), (out / "report.md").read_text()]
    assert texts[0].count("<!--") == 2
    assert texts[0].endswith("<!-- /comparison -->\nafter\n")
    assert texts[0].count("kid ") <= 1 and texts[0].count("images/s") == 1
    for text in texts:
        assert "<script" not in text and "![" not in text and "`" not in text
        assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert "<script>alert" not in (out / "report.html").read_text()


def test_results_and_reports_have_no_local_paths(results: dict[str, Path], handed_over: Path, call: Command) -> None:
    assert str(results["root"]) not in (results["a"] / "result.json").read_text()
    assert read_result(results["a"])["subject"]["model"] == "bundle"
    training = {"command": "accelerate launch x --data /home/me/photos", "data": "/home/me/photos"}
    subject = {**read_result(handed_over)["subject"], "model": "/home/me/bundle", "training": training}
    out = handed_over.parent / "out"
    call(compare, compare.CompareOptions, rewritten(handed_over, subject=subject), results["b"], "--out", out)
    assert "/home/me" not in (out / "report.html").read_text()
    assert str(handed_over.parent) not in (out / "report.html").read_text()


def test_an_evaluation_replaces_only_an_evaluation(
    results: dict[str, Path], tmp_path: Path, call: Command, photos: Path
) -> None:
    """Once, `--out .` in another project replaced its report.md and result.json."""
    words = [results["a"], results["b"], "--out", tmp_path]
    for name in ("report.md", "report.html", "blind.html", "blind-key.json"):
        (tmp_path / name).write_text('{"mine": 1}')
        said = call(compare, compare.CompareOptions, *words)
        assert said.startswith(f"{tmp_path / name}: is there already and is no")
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()
    for _ in range(2):
        assert "the comparison is in" in call(compare, compare.CompareOptions, *words)
    (tmp_path / "result.json").write_text('{"mine": 1}')
    words = ["--images", results["a"] / "pictures", "--reference", photos, "--out", tmp_path]
    assert "result.json: is there already and is not a result" in call(score, score.ScoreOptions, *words)
    (tmp_path / "report.json").write_text('{"mine": 1}')
    words = ["--model", results["bundle"] / "tokenizer", "--data", photos, "--split", "validation", "--out", tmp_path]
    assert "report.json: is there already" in call(reconstruct, reconstruct.ReconstructOptions, *words)
    (tmp_path / "report.json").unlink()
    Image.new("RGB", (2, 2)).save(tmp_path / "pictures.png")
    assert "pictures.png: is there already" in call(reconstruct, reconstruct.ReconstructOptions, *words)


def test_a_run_does_not_replace_files_that_it_did_not_draw(
    results: dict[str, Path], tmp_path: Path, call: Command, photos: Path
) -> None:
    words = [
        "--model",
        results["bundle"],
        "--suite",
        f"{photos}@validation",
        "--device",
        "cpu",
        "--out",
        tmp_path / "out",
    ]
    (tmp_path / "out" / "pictures").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(tmp_path / "out" / "pictures" / "00000-0.png")
    said = call(run, run.RunOptions, *words)
    assert said.endswith("pictures: is there already, and no settings.json says what drew it; choose another --out")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["00000-0.png", "pictures"]


BROWSER = shutil.which("chromium")


@pytest.mark.skipif(BROWSER is None, reason="chromium is not installed, so the blind page was not opened in a browser")
def test_the_blind_page_in_a_browser(page: Path, tmp_path: Path) -> None:
    """Keys, clicks, an answer taken back, and the saved file, in a real browser.

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


def test_pictures_of_any_mode_are_read_as_rgb(tmp_path: Path, results: dict[str, Path]) -> None:
    from evaluation.pictures import read_pictures

    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "grey.png")
    clear, grey = read_pictures([tmp_path / "clear.png", tmp_path / "grey.png"])
    assert (clear == grey).all()
    assert to_pil(clear).getpixel((0, 0)) == (255, 255, 255)


def test_copies_are_found_and_counted(
    results: dict[str, Path], tmp_path: Path, call: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(results["a"], folder)
    tokenizer = load(str(results["bundle"]), device="cpu").tokenizer
    training = open_source(photos, size=16, split="train", cache=results["root"] / "cache")
    copied = reconstructed(tokenizer, [training[1]])[0]
    copied[0, 0, 0] += 1 if copied[0, 0, 0] < 128 else -1  # as rounding does
    result = read_result(folder)
    to_pil(copied).save(folder / result["pictures"][2]["file"])
    out = tmp_path / "out"
    arguments = ["--model", results["bundle"], "--data", photos, "--cache", results["root"] / "cache",
                 "--device", "cpu", "--out", out]  # fmt: skip
    said = call(copies, copies.CopiesOptions, "--result", folder, *arguments)
    assert "same_codes" in said
    found = json.loads((out / "copies.json").read_text())["results"][result["name"]]
    assert found["pictures"][2]["nearest"] == training.key(1)
    assert found["pictures"][2]["same_codes"] is True
    assert found["pictures"][2]["distance"] < 0.1
    assert found["metrics"]["same_codes"]["value"] == 0.25
    assert found["metrics"]["distance_real"]["value"] > 1
    assert Image.open(out / "nearest-1.png").width > 4 * 128

    (out / "nearest-1.png").write_bytes((folder / result["pictures"][0]["file"]).read_bytes())
    assert "nearest-1.png" in call(copies, copies.CopiesOptions, "--result", folder, *arguments)
    for picture in result["pictures"]:  # as --upscale 2 draws them
        Image.new("RGB", (32, 32)).save(folder / picture["file"])
    assert "32 px, but the image tokenizer makes 16 px" in call(
        copies, copies.CopiesOptions, "--result", folder, *arguments[:-1], tmp_path / "o"
    )
    shutil.rmtree(folder / "pictures")
    assert "but there is none" in call(
        copies, copies.CopiesOptions, "--result", folder, *arguments[:-1], tmp_path / "o"
    )


class Training(list[torch.Tensor]):
    """Training pictures that all have one caption."""

    def captions(self, i: int) -> list[str]:
        return ["a fox"]

    def key(self, i: int) -> str:
        return str(i)


def test_copies_count_prompts_and_not_pictures(tmp_path: Path) -> None:
    """The intervals of several pictures a prompt were as narrow as if each had its own prompt."""
    known = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 8, 8).contiguous()
    grey = torch.full_like(known[0], 100)

    def distance(each: int) -> dict[str, float]:
        """The mean distance for two prompts: the pictures of one are copies, those of the other are not."""
        pictures = [{"file": "", "prompt": prompt} for prompt in ("a fox", "a cat") for _ in range(each)]
        column = Column(name="it", folder=tmp_path, result={}, pictures=pictures)
        made = torch.stack([known[0]] * each + [grey] * each)
        training: Any = Training(known)
        return copies._compared(column, made, training, known, tmp_path / "sheet.png", 1)["metrics"]["distance"]

    assert distance(8) == distance(1)


def test_a_real_picture_is_compared_with_all_training_pictures_but_itself(tmp_path: Path) -> None:
    """All training pictures of its caption were left out: where it was the caption of all, the first one counted."""
    known = torch.tensor([0, 100, 110], dtype=torch.uint8)[:, None, None, None].expand(3, 3, 8, 8).contiguous()
    for name in ("real", "reconstruction"):
        (tmp_path / "controls" / name).mkdir(parents=True)
        to_pil(known[1]).save(tmp_path / "controls" / name / "00000.png")
    pictures = [{"file": "", "prompt": "a fox"}]
    column = Column(name="it", folder=tmp_path, result={"protocol": {}}, pictures=pictures)
    training: Any = Training(known)
    found = copies._compared(column, known[:1], training, known, tmp_path / "sheet.png", 1)
    assert found["metrics"]["distance_real"]["value"] == 10


def test_the_nearest_picture_agrees_with_brute_force() -> None:
    draw = torch.Generator().manual_seed(0)
    pictures, known = (torch.randint(0, 256, (n, 3, 4, 4), generator=draw, dtype=torch.uint8) for n in (7, 3000))
    known[2050] = pictures[3]
    allowed = torch.rand(7, 3000, generator=draw) < 0.5
    allowed[3, 2050] = True
    where, distance = copies.nearest(pictures, known, allowed)
    apart = torch.cdist(pictures.flatten(1).double(), known.flatten(1).double()).masked_fill(~allowed, torch.inf)
    assert torch.equal(where, apart.argmin(1))
    assert torch.allclose(distance.double(), apart.amin(1) / 48**0.5)
    assert (int(where[3]), float(distance[3])) == (2050, 0)
