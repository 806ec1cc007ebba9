"""`python -m sampling.generate`, `sampling.bundle` and `sampling.load`: their results, and one-line errors."""

import contextlib
import dataclasses
import io
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_models import save_bundle

from data.emoji import credits
from sampling import Bundle, SamplingOptions, Start, load
from sampling.bundle import BundleOptions, samples_by
from sampling.bundle import assemble as assemble_bundle
from sampling.card import emoji_sources, read_report, read_result
from sampling.choose import candidate_seeds, likelihoods
from sampling.decode import Sampler
from sampling.generate import GenerateOptions, main
from sampling.picture_files import file_name, read_png, require_replaceable, write_picture
from sampling.token_backend import TokenBackend, known_tokens
from seq2seq.packed import packing
from tokenizer.text import CaptionCut
from training.cli import command
from training.command_line import parse, parser_for
from training.errors import BadInput
from training.strict_json import read_json

PROMPTS = ["a noto emoji of a fox", "a twemoji emoji of a cat"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bundle(tmp_path_factory.mktemp("bundle"))


def generate(*arguments: str | Path) -> str:
    """Runs the command in this process; returns what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        main(parse(GenerateOptions, [str(argument) for argument in arguments]))
    return said.getvalue()


Refusal = Callable[..., str]


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Runs the command in this process; it must exit with 2; returns its one-line error."""

    def run(*arguments: str | Path) -> str:
        capsys.readouterr()  # what was said before
        monkeypatch.setattr(sys, "argv", ["generate", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            command(main, GenerateOptions)
        assert left.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line.removeprefix("error: ")

    return run


def test_it_writes_pictures_a_grid_and_a_record(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(f"{PROMPTS[1]}\n\n")
    said = generate(
        "--model", bundle, "--prompt", PROMPTS[0], "--prompts", file, "--num_images", "2", "--seed", "7",
        "--guidance", "3", "--top_k", "5", "--out", tmp_path / "out",
    )  # fmt: skip
    assert str(tmp_path / "out" / "grid.png") in said
    assert "images/s" in said
    record = json.loads((tmp_path / "out" / "generation.json").read_text())
    assert [(image["prompt"], image["seed"]) for image in record["images"]] == [(p, s) for p in PROMPTS for s in (7, 8)]
    expected = load(bundle).generate(PROMPTS, num_images=2, seed=7, options=SamplingOptions(guidance=3, top_k=5))
    for image, picture in zip(record["images"], expected, strict=True):
        with Image.open(tmp_path / "out" / image["file"]) as png:
            png.load()
            assert png.text["prompt"] == image["prompt"]
            assert png.text["seed"] == str(image["seed"])
            assert json.loads(png.text["options"]) == record["options"]
            assert png.text["codes_id"] == record["codes_id"]
            assert png.text["pixels_id"] == record["pixels_id"]
            pixels = torch.tensor(list(png.tobytes())).view(png.height, png.width, 3).permute(2, 0, 1)
        assert torch.equal(pixels, picture.long())
    assert record["options"] == {**SamplingOptions().settings, "guidance": 3.0, "top_k": 5}
    assert record["engine"] in ("plain", "packed", "graph")
    assert record["passes_a_picture"] <= 9
    assert record["tokens_a_pass"] >= 1  # four pictures at a time are drawn in windows


def test_pictures_are_uint8_and_do_not_depend_on_the_batch(bundle: Path) -> None:
    loaded = load(bundle)
    together = loaded.generate(PROMPTS, num_images=3, seed=1)
    apart = loaded.generate(PROMPTS, num_images=3, seed=1, batch_size=1)
    in_turns = loaded.generate(PROMPTS, num_images=3, seed=1, batch_size=2)
    assert all(torch.equal(a, b) for a, b in zip(together, in_turns, strict=True))
    assert all(a.dtype == torch.uint8 and a.shape[0] == 3 and a.shape[2] == 12 for a in together)
    assert all(torch.equal(a, b) for a, b in zip(together, apart, strict=True))
    assert not torch.equal(together[0], together[1])


def test_no_flags_means_the_default_options() -> None:
    assert parse(GenerateOptions, []) == GenerateOptions()
    assert GenerateOptions().backend == SamplingOptions()


def test_the_help_of_dtype_names_what_linear_layers_multiply_in() -> None:
    """It said float32, but the packed engine rounds weights to float16."""
    text = parser_for(GenerateOptions, {}).format_help().partition("Data type of")[2].partition("(default")[0]
    for rows, dtype in {**packing(torch.float32), **packing(torch.bfloat16)}.items():
        assert re.search(rf"\b{str(dtype).removeprefix('torch.')}\b", text)
        assert rows == 1 or f"from {rows} rows" in " ".join(text.split())


def test_guidance_one_is_no_guidance(bundle: Path) -> None:
    """If null caption and caption are equal, no scale has an effect; scale 1 has none for any null caption."""
    loaded = load(bundle)
    plain = loaded.generate(PROMPTS, options=SamplingOptions(guidance=1))
    nearly = loaded.generate(PROMPTS, options=SamplingOptions(guidance=1 + 1e-6))
    assert all(torch.equal(a, b) for a, b in zip(plain, nearly, strict=True))


def test_unusable_prompts(bundle: Path, tmp_path: Path, refusal: Refusal) -> None:
    model = ("--model", bundle, "--out", tmp_path / "out")
    assert refusal(*model) == 'nothing to draw: give --prompt "a noto emoji of a fox" or --prompts FILE'
    assert "is empty" in refusal(*model, "--prompt", " ")
    assert "12000 characters: at most 10000" in refusal(*model, "--prompt", "fox " * 3000)
    broken = tmp_path / "broken.txt"
    broken.write_bytes(b"a fox\n\xff\xfe\n")
    assert refusal(*model, "--prompts", broken) == f"{broken}, line 2: not UTF-8 text (byte 6); save it as UTF-8"
    assert refusal(*model, "--prompts", tmp_path / "none.txt") == f"{tmp_path / 'none.txt'}: no such file"
    assert not (tmp_path / "out").exists()
    assert refusal("--prompt", "\udcff") == "'\\udcff' on the command line is not UTF-8 text"


def test_prompts_must_be_a_list_of_texts_and_seeds_in_range(bundle: Path) -> None:
    """Once, a stream of one text drew its letters."""
    loaded = load(bundle)
    for draw in (loaded.generate, loaded.stream):
        with pytest.raises(BadInput, match="prompts is one text, 'a fox': must be a list of texts"):
            draw("a fox")
        with pytest.raises(BadInput, match="a prompt is 5: must be text"):
            draw([5])  # type: ignore[list-item]
        for seed in (-1, 2**62, 0.5):
            with pytest.raises(BadInput, match=rf"seed is {seed}: must be a whole number from 0 to below 2\*\*62"):
                draw(PROMPTS, seed=seed)  # type: ignore[arg-type]


def test_prompts_that_look_like_yaml() -> None:
    asked = ["[a fox, a cat]", "- a", "-fox", "a: b", "5", "null", '"quoted"', "a=b"]
    argv = [part for prompt in asked for part in ("--prompt", prompt)]
    assert parse(GenerateOptions, argv).prompt == asked
    assert parse(GenerateOptions, [f"--prompt={prompt}" for prompt in asked]).prompt == asked


def test_pictures_of_another_engine_are_drawn_again(bundle: Path, tmp_path: Path) -> None:
    for engine, dtype in (("plain", "float32"), ("plain", "bfloat16"), ("auto", "float32")):
        main(
            GenerateOptions(
                model=str(bundle), prompt=PROMPTS[:1], out=tmp_path / "out",
                engine=engine, dtype=dtype,  # type: ignore[arg-type]
            )
        )  # fmt: skip
        found = read_json(tmp_path / "out" / "generation.json")
        with Image.open(tmp_path / "out" / found["images"][0]["file"]) as image:
            assert [image.text[key] for key in ("engine", "dtype")] == [found["engine"], found["dtype"]]  # type: ignore[attr-defined]


def test_unusable_options(bundle: Path, tmp_path: Path, refusal: Refusal) -> None:
    ask = ("--model", bundle, "--prompt", "a fox", "--out", tmp_path / "out")
    assert "did you mean 'guidance'?" in refusal(*ask, "--guidence", "2")
    assert refusal(*ask, "--temperature", "-1").endswith("temperature is -1.0: must be from 0 to 100")
    assert refusal(*ask, "--seed", "x") == "seed: expected a value of type int, got 'x'"
    assert refusal(*ask, "--device", "abacus").startswith("device 'abacus' cannot be used here")
    (tmp_path / "file").write_text("in the way")
    assert refusal(*ask[:-1], tmp_path / "file").startswith("a file with this name exists already")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("rm bundle.json", "has no bundle.json"),
        ("rm text/spiece.model", "has no spiece.model"),
        ("rm tokenizer", "its folder tokenizer is missing"),
        ("cut text/spiece.model", "not a complete SentencePiece model"),
        ("rm tokenizer/model.safetensors", "has no model.safetensors"),
        ("cut autoregressive/model.safetensors", "not a complete safetensors file"),
        ("cut tokenizer/config.json", "not valid JSON"),
    ],
)
def test_damaged_bundles(bundle: Path, tmp_path: Path, damage: str, says: str) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    how, name = damage.split()
    file = tmp_path / "bundle" / name
    if how == "rm":
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BadInput) as raised:
        load(tmp_path / "bundle")
    assert says in str(raised.value)
    assert name.split("/")[0] in str(raised.value)
    assert "\n" not in str(raised.value)


def test_parts_that_do_not_belong_together(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    file = tmp_path / "bundle" / "autoregressive" / "config.json"
    file.write_text(file.read_text().replace(load(bundle).ids["codes_id"], "0123456789abcdef"))
    with pytest.raises(BadInput, match="trained with image tokenizer 0123456789abcdef, but this one is"):
        load(tmp_path / "bundle")


def test_a_missing_model(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder; a model on the Hub is given as hf://owner/name"):
        load(tmp_path / "nothing")


def bundled(parts: dict[str, Path], **options: Any) -> BundleOptions:
    backend = [f"{kind}={folder}" for kind, folder in parts.items() if kind not in ("text", "tokenizer")]
    return BundleOptions(text=parts["text"], tokenizer=parts["tokenizer"], backend=backend, **options)


def test_a_bundle_is_assembled_from_runs(bundle: Path, tmp_path: Path) -> None:
    parts = {name: bundle / name for name in ("text", "tokenizer", "autoregressive")}
    assemble_bundle(bundled(parts, out=tmp_path / "assembled"))
    assert load(tmp_path / "assembled").ids == load(bundle).ids
    assert load(bundle).ids["codes_id"] in (tmp_path / "assembled" / "README.md").read_text()
    before = sorted((file, file.stat().st_mtime_ns) for file in (tmp_path / "assembled").rglob("*"))
    result = tmp_path / "result.json"
    metric = {"value": 0.25, "low": 0.2, "high": 0.3, "higher_is_better": True}
    its = load(bundle)
    subject = {"backend": "autoregressive", "options": {"guidance": 3.0, "parallel": None},
               "pixels_id": its.ids["pixels_id"], "model_id": its.models["autoregressive"].model_id}  # fmt: skip
    metrics = {"kid_lite1": metric, "recall": metric}
    found = {"count": 5, "metrics": metrics, "controls": {"real": {"metrics": metrics}},
             "protocol": {"suite": {"name": "photos@validation"}}, "subject": subject}  # fmt: skip
    result.write_text(json.dumps(found))
    assemble_bundle(bundled(parts, result=[result], out=tmp_path / "measured"))
    text = (tmp_path / "measured" / "README.md").read_text()
    assert "5 pictures; guidance 3.0. 95 %" in text
    headlines, all_ = text.split("<details>")
    for name, where in (("kid_lite1", headlines), ("kid_lite1", all_), ("recall", all_)):
        assert f"| {name} | 0.25 (0.2 to 0.3) | 0.25 (0.2 to 0.3) |" in where
    assert "recall" not in headlines
    for name, wrong in (("model_id", "x"), ("backend", "diffusion")):
        result.write_text(json.dumps({**found, "subject": {**subject, name: wrong}}))
        with pytest.raises(BadInput, match=r"result.json: is of a model with model_id \w+, but here it is"):
            assemble_bundle(bundled(parts, result=[result], out=tmp_path / "measured"))
    result.write_text("{}")
    with pytest.raises(BadInput, match=r"not a result of `python -m evaluation.run`: lacks controls"):
        assemble_bundle(bundled(parts, result=[result], out=tmp_path / "measured"))
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"metrics": {}, "count": 1, "source": "photos", "pixels_id": "0123456789abcdef"}))
    with pytest.raises(BadInput, match="is of the image tokenizer 0123456789abcdef, but this one is"):
        assemble_bundle(bundled(parts, reconstruction=report, out=tmp_path / "assembled"))
    with pytest.raises(BadInput, match=f"{tmp_path / 'nothing'}: no such folder"):
        assemble_bundle(bundled({**parts, "text": tmp_path / "nothing"}, out=tmp_path / "assembled"))
    assert before == sorted((file, file.stat().st_mtime_ns) for file in (tmp_path / "assembled").rglob("*"))


def test_damaged_figures_for_a_model_card(bundle: Path, tmp_path: Path) -> None:
    """They ended in a traceback, after all parts had been copied."""
    its, file = load(bundle), tmp_path / "it.json"
    subject = {"backend": "autoregressive", "options": {}, "pixels_id": its.ids["pixels_id"],
               "model_id": its.backend("autoregressive").model_id}  # fmt: skip
    result = {"count": 5, "metrics": {}, "controls": {}, "protocol": {"suite": {"name": "x"}}, "subject": subject}
    report = {"metrics": {}, "count": 1, "source": "photos", "pixels_id": its.ids["pixels_id"]}
    file.write_text(json.dumps(result))
    assert read_result(file, its) == result
    for changed in ({"protocol": []}, {"subject": {}}, {"controls": {"real": 1}}, {"metrics": {"kid": {"value": "x"}}}):
        file.write_text(json.dumps(result | changed))
        with pytest.raises(BadInput, match=r"it.json: is damaged"):
            read_result(file, its)
    for metrics in ([], {"psnr": 1}, {"psnr": {}}, {"psnr": {"value": 1, "low": 1}}):
        file.write_text(json.dumps(report | {"metrics": metrics}))
        with pytest.raises(BadInput, match=r"it.json: is damaged"):
            read_report(file, its)


def test_a_bundle_holds_one_model_of_each_kind(bundle: Path, tmp_path: Path) -> None:
    """The last one of a kind was taken, and the others were not even looked at."""
    backend = [f"autoregressive={folder}" for folder in (tmp_path / "none", bundle / "autoregressive")]
    with pytest.raises(BadInput, match="a bundle holds one model of each kind"):
        BundleOptions(text=bundle / "text", tokenizer=bundle / "tokenizer", backend=backend, out=tmp_path / "out")


def test_a_bundle_replaces_only_a_bundle(bundle: Path, tmp_path: Path) -> None:
    parts = {name: bundle / name for name in ("text", "tokenizer", "autoregressive")}
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "weights").write_text("of three days")
    for taken in (tmp_path / "runs", tmp_path / "runs" / "weights"):
        with pytest.raises(BadInput, match="is there already and is not a bundle; choose another --out"):
            assemble_bundle(bundled(parts, out=taken))
    assert (tmp_path / "runs" / "weights").read_text() == "of three days"
    assemble_bundle(bundled(parts, out=tmp_path / "bundle"))
    (tmp_path / "bundle" / "grid.png").write_text("a picture")
    assemble_bundle(bundled(parts, out=tmp_path / "bundle", name="Second"))
    assert (tmp_path / "bundle" / "grid.png").read_text() == "a picture"
    assert "# Second" in (tmp_path / "bundle" / "README.md").read_text()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture
def parts(bundle: Path, tmp_path: Path) -> dict[str, Path]:
    """Copies of the parts of a bundle, in `runs`."""
    shutil.copytree(bundle, tmp_path / "runs")
    return {name: tmp_path / "runs" / name for name in ("text", "tokenizer", "autoregressive")}


def test_a_bundle_has_only_the_files_of_models(parts: dict[str, Path], tmp_path: Path) -> None:
    """Once, other files beside the weights were published with them: `.env`, notes, targets of links."""
    (tmp_path / "id_rsa").write_text("a private key")
    for folder in parts.values():
        for name in (".env", "notes.py", "README.md", "config.json.bak"):
            (folder / name).write_text("private")
        (folder / "deep").mkdir()
        (folder / "deep" / "config.json").write_text("private")
        (folder / "key").symlink_to(tmp_path / "id_rsa")
    assemble_bundle(bundled(parts, out=tmp_path / "out"))
    assert set(snapshot(tmp_path / "out")) == {
        "README.md", "bundle.json", "text/config.json", "text/spiece.model",
        "tokenizer/config.json", "tokenizer/model.safetensors",
        "autoregressive/config.json", "autoregressive/model.safetensors",
    }  # fmt: skip
    assert not [path for path in tmp_path.iterdir() if path.name not in ("runs", "out", "id_rsa")]


@pytest.mark.parametrize("name", ["text/spiece.model", "tokenizer/model.safetensors", "autoregressive/training.json"])
def test_a_link_among_models_is_refused(parts: dict[str, Path], tmp_path: Path, name: str) -> None:
    file = tmp_path / "runs" / name
    (tmp_path / "id_rsa").write_text("a private key")
    file.unlink(missing_ok=True)
    file.symlink_to(tmp_path / "id_rsa")
    with pytest.raises(BadInput, match=f"{file}: is a link to a file outside of"):
        assemble_bundle(bundled(parts, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_added_files_stay_in_a_bundle(parts: dict[str, Path], tmp_path: Path) -> None:
    """Once, assembling again deleted `.git`, a licence and a hand-written README."""
    out = tmp_path / "out"
    assemble_bundle(bundled(parts, out=out))
    theirs = {".git/HEAD": "ref", "LICENSE": "mine", "grid.png": "a picture", "text/notes.txt": "n", "more/a": "b"}
    for name, text in theirs.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(text)
    (out / "link").symlink_to(tmp_path / "runs")
    (out / "diffusion").mkdir()
    (out / "diffusion" / "config.json").write_text("of an older bundle")
    assemble_bundle(bundled(parts, out=out, name="Second"))
    assert {name: (out / name).read_text() for name in theirs} == theirs
    assert (out / "link").is_symlink()
    assert not (out / "diffusion").exists()
    assert "# Second" in (out / "README.md").read_text()
    own = {"text": out / "text", "tokenizer": out / "tokenizer"}  # one part new, the others its own
    assemble_bundle(bundled({**parts, **own}, out=out, name="Third"))
    assert load(out).ids == load(tmp_path / "runs").ids


def test_a_changed_model_card_is_kept(parts: dict[str, Path], tmp_path: Path) -> None:
    readme = tmp_path / "out" / "README.md"
    assemble_bundle(bundled(parts, out=tmp_path / "out"))
    written = readme.read_text()
    for mine in ("# By hand\n", written + "And one more thing.\n"):
        readme.write_text(mine)
        with pytest.warns(UserWarning, match=r"README.md: was not written by this command, or was changed since"):
            assemble_bundle(bundled(parts, out=tmp_path / "out", name="Second"))
        assert readme.read_text() == mine


def test_one_folder_inside_the_other_is_refused(parts: dict[str, Path], tmp_path: Path) -> None:
    """Once, a bundle inside a part copied itself until its path was too long."""
    (tmp_path / "link").symlink_to(parts["text"])
    (tmp_path / "to_runs").symlink_to(tmp_path / "runs")
    before = snapshot(tmp_path / "runs")
    for out in (
        parts["text"] / "out",
        parts["text"],
        tmp_path / "link" / "out",
    ):
        with pytest.raises(BadInput, match="this folder and --out lie in one another"):
            assemble_bundle(bundled(parts, out=out))
    assemble_bundle(bundled(parts, out=tmp_path / "out"))
    shutil.rmtree(tmp_path / "out" / "text")
    (tmp_path / "out" / "text").symlink_to(parts["text"])
    with pytest.raises(BadInput, match="text: is a link, through which files elsewhere would be replaced"):
        assemble_bundle(bundled(parts, out=tmp_path / "out"))
    assert snapshot(tmp_path / "runs") == before


def test_a_foreign_bundle_json_is_not_a_bundle(parts: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "bundle.json").write_text('{"entry": "main.js"}')
    with pytest.raises(BadInput, match="is there already and is not a bundle"):
        assemble_bundle(bundled(parts, out=tmp_path / "out"))
    assert snapshot(tmp_path / "out") == {"bundle.json": b'{"entry": "main.js"}'}


def test_a_bundle_is_replaced_whole_or_not_at_all(
    parts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any file. If the process is killed there, the half cannot be loaded, and assembling again repairs it."""
    out = tmp_path / "out"
    assemble_bundle(bundled(parts, out=out))
    before, halves = snapshot(out), []

    def replace(self: Path, target: Path) -> None:
        nonlocal left
        left -= (".out." in str(self)) != (".out." in str(target))  # between the bundle and what it is made in
        if left == 0:
            halves.append((out / "bundle.json").read_text())
            left -= 1
            raise OSError(5, "broken disk")
        self.rename(target)

    while True:
        left = len(halves) + 1
        with monkeypatch.context() as patch, contextlib.suppress(OSError):
            patch.setattr(Path, "replace", replace)
            assemble_bundle(bundled(parts, out=out, name="Second"))
            break
        assert snapshot(out) == before
    assert len(halves) == 2 * len(before) - 1  # all are moved away but the index, and all moved in
    assert all(json.loads(half)["parts"] == [] for half in halves)
    assert "# Second" in (out / "README.md").read_text()
    shutil.rmtree(out / "text")
    (out / "bundle.json").write_text(halves[0])
    with pytest.raises(BadInput, match="lists no text, so it is not a complete bundle"):
        load(out)
    assemble_bundle(bundled(parts, out=out))
    assert load(out).ids == load(tmp_path / "runs").ids


def test_a_card_has_no_local_paths(parts: dict[str, Path], tmp_path: Path) -> None:
    for name in ("tokenizer", "autoregressive"):
        record = {
            "command": f"accelerate launch x --data /home/me/photos --out {tmp_path}/run --note '```\n<script>'",
            "data": "/home/me/photos", "seed": 0, "steps": 1, "batch_size": 1, "figures": {"<b>": 1.0},
        }  # fmt: skip
        (parts[name] / "training.json").write_text(json.dumps(record))
    assemble_bundle(bundled(parts, out=tmp_path / "out", name="<i>Mine"))
    for file, content in snapshot(tmp_path / "out").items():
        assert b"/home/me" not in content and str(tmp_path).encode() not in content, file
    card = (tmp_path / "out" / "README.md").read_text()
    assert "--data photos --out run" in card
    assert "# &lt;i&gt;Mine" in card and "<b>" not in card
    outside = [block for n, block in enumerate(card.split("\n````\n")) if n % 2 == 0]
    assert "<script>" not in "".join(outside)
    assert card.startswith("---\nlibrary_name: tessera\n")
    with pytest.raises(BadInput) as raised:
        (parts["tokenizer"] / "config.json").unlink()
        assemble_bundle(bundled(parts, out=tmp_path / "out"))
    assert str(raised.value).startswith(f"{parts['tokenizer']}: has no config.json")


def test_best_of_keeps_the_most_likely_candidate(bundle: Path) -> None:
    loaded, options = load(bundle), SamplingOptions(temperature=5.0, guidance=1.0)
    sampler = sampler_of(loaded)
    text = loaded.text.encode([PROMPTS[0]] * 4)
    seeds = torch.arange(4)
    candidates = [sampler.draw(text, candidate_seeds(seeds, n), options) for n in range(3)]
    scores = torch.stack([likelihoods(loaded.backend("autoregressive").model, text, codes) for codes in candidates])
    best = scores.argmax(0).tolist()
    assert len({*best}) > 1  # else nothing would be shown
    options = dataclasses.replace(options, best_of=3)
    for i, picture in enumerate(loaded.generate(PROMPTS[:1], num_images=4, options=options)):
        assert torch.equal(picture, loaded.tokenizer.decode(candidates[best[i]][i][None])[0])


def sampler_of(bundle: Bundle) -> Sampler:
    backend = bundle.backend("autoregressive")
    assert isinstance(backend, TokenBackend)
    return backend.prepared


def test_best_of_sixteen_needs_the_cache_of_sixty_four_rows(bundle: Path) -> None:
    """Candidates are drawn together, but not more than 64 at a time, however many there are."""
    loaded, wanted = load(bundle), [(PROMPTS[0], seed) for seed in range(16)]
    loaded.draw(wanted, SamplingOptions(guidance=1.0))
    of_sixteen = sampler_of(loaded).cache_bytes
    loaded.draw(wanted, SamplingOptions(guidance=1.0, best_of=16))
    assert sampler_of(loaded).cache_bytes == of_sixteen + 4 * of_sixteen  # both are kept for later calls


@pytest.mark.parametrize(
    ("pictures", "best_of", "batch_size", "rows"),
    [(2, 2, 32, 4), (9, 2, 3, 6), (1, 3, 1, 3), (8, 30, 4, 64), (3, 1, 32, 3)],
)
def test_candidates_take_the_rows_of_a_batch(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, pictures: int, best_of: int, batch_size: int, rows: int
) -> None:
    """`batch_size` counts pictures. Once, two candidates of two pictures took 64 rows, 60 of them idle."""
    loaded, used = load(bundle), []
    monkeypatch.setattr(sampler_of(loaded), "continuously", lambda *args: used.append(args[2]) or ())
    pairs = [(PROMPTS[0], seed) for seed in range(pictures)]
    assert not [*loaded.draw_each(pairs, batch_size, SamplingOptions(best_of=best_of, parallel=0))]
    assert used == [rows]


@pytest.mark.parametrize("best_of", [1, 3])
def test_windows_draw_the_same_pictures(bundle: Path, monkeypatch: pytest.MonkeyPatch, best_of: int) -> None:
    """In batches of four rows, so that some candidates of a picture are in one batch and some in the next."""
    monkeypatch.setattr("sampling.token_backend.ROWS", 4)
    loaded = load(bundle)
    options = SamplingOptions(temperature=5.0, best_of=best_of, parallel=0)
    expected = loaded.generate(PROMPTS, num_images=2, batch_size=2, options=options)
    options = dataclasses.replace(options, parallel=4)
    found = loaded.generate(PROMPTS, num_images=2, batch_size=2, options=options)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_stream_of_unfinished_pictures(bundle: Path) -> None:
    loaded = load(bundle)
    assert list(loaded.stream([])) == loaded.generate([]) == []
    steps = list(loaded.stream(PROMPTS, seed=5))
    final = loaded.generate(PROMPTS, seed=5)
    assert [steps[i][0].shape[1] for i in range(len(steps))] == [4 * (i + 1) for i in range(len(steps))]
    assert all(torch.equal(a, b) for a, b in zip(steps[-1], final, strict=True))


def test_a_picture_is_completed_and_inpainted(bundle: Path) -> None:
    """The kept part has the tokens of the given picture, whatever else is drawn."""
    loaded = load(bundle)
    image = torch.randint(0, 256, (3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    codes = loaded.tokenizer.encode(image[None])[0]
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[5, 6] = True  # one pixel of the token in the middle
    for start, kept in (
        (Start(image=image, strength=0.34), [*range(6)]),
        (Start(image=image, mask=mask), [0, 1, 2, 3, 5, 6, 7, 8]),
    ):
        tokens = known_tokens(start, loaded.tokenizer)[0]
        assert (tokens >= 0).nonzero().flatten().tolist() == kept
        assert torch.equal(tokens[kept], codes.flatten()[kept])
        text = loaded.text.encode([PROMPTS[0]])
        (made,) = sampler_of(loaded).draw(
            text, torch.tensor([1]), SamplingOptions(), known_tokens(start, loaded.tokenizer)
        )
        assert torch.equal(made.flatten()[kept], codes.flatten()[kept])
        (picture,) = loaded.generate(PROMPTS[:1], seed=1, start=start)
        assert torch.equal(picture, loaded.tokenizer.decode(made[None])[0])


def test_unusable_pictures_to_start_from(bundle: Path, tmp_path: Path, refusal: Refusal) -> None:
    ask = ("--model", bundle, "--prompt", "a fox", "--out", tmp_path / "out")
    Image.new("RGB", (12, 12), "red").save(tmp_path / "red.png")
    assert "at strength 1 nothing of init_image is left" in refusal(*ask, "--init_image", tmp_path / "red.png")
    assert refusal(*ask, "--mask", tmp_path / "red.png").endswith("must be absent without init_image")
    both = ("--init_image", tmp_path / "red.png", "--mask", tmp_path / "red.png", "--strength", "0.5")
    assert refusal(*ask, *both) == "mask and strength both say what is drawn again: give one of them"
    with pytest.raises(BadInput, match=r"the mask is \(2, 2\), the picture \(12, 12\)"):
        Start(image=torch.zeros(3, 12, 12), mask=torch.zeros(2, 2))


@pytest.mark.parametrize(("strength", "kept"), [(0.01, 6), (0.5, 6), (0.67, 3), (0.99, 3)])
def test_at_any_strength_a_row_is_kept_and_one_is_drawn(bundle: Path, strength: float, kept: int) -> None:
    """Rounded to whole rows, a strength near 0 drew nothing, and one near 1 kept nothing of the picture."""
    start = Start(image=torch.zeros(3, 12, 12, dtype=torch.uint8), strength=strength)
    tokens = known_tokens(start, load(bundle).tokenizer)[0]
    assert (tokens >= 0).nonzero().flatten().tolist() == [*range(kept)]


def test_a_mask_of_another_size_than_its_picture(bundle: Path, tmp_path: Path, refusal: Refusal) -> None:
    """Each was cropped to a square of its own, so that another part of the picture was drawn again than was masked."""
    upright, lying = tmp_path / "upright.png", tmp_path / "lying.jpg"
    Image.new("RGB", (12, 24), "red").save(upright)
    mask, turned = Image.new("L", (24, 12)), Image.Exif()
    turned[0x0112] = 6  # the orientation: its viewers turn it upright
    mask.save(tmp_path / "wide.png")
    mask.save(lying, exif=turned)
    ask = ("--model", bundle, "--prompt", "a fox", "--out", tmp_path / "out", "--init_image", upright, "--mask")
    assert refusal(*ask, tmp_path / "wide.png") == "the mask is 24x12 pixels, init_image 12x24: must be one size"
    assert not (tmp_path / "out").exists()
    assert "1 pictures in" in generate(*ask, lying)


def test_finished_pictures_are_not_drawn_again(bundle: Path, tmp_path: Path) -> None:
    """With the same command, finished pictures stay; a damaged one and a missing one are drawn."""
    ask = ("--model", bundle, "--prompt", PROMPTS[0], "--num_images", "4", "--out", tmp_path)
    assert "4 pictures in" in generate(*ask)
    files = sorted(tmp_path.glob("0*.png"))
    before = [file.read_bytes() for file in files]
    times = [file.stat().st_mtime_ns for file in files]
    files[0].unlink()
    files[2].write_bytes(before[2][:-30])
    again = generate(*ask)
    assert "2 pictures in" in again
    assert "2 were there already" in again
    assert [file.read_bytes() for file in files] == before
    assert [file.stat().st_mtime_ns == time for file, time in zip(files, times, strict=True)] == [False, True] * 2
    assert "4 pictures in" in generate(*ask, "--temperature", "0.9")
    assert [file.read_bytes() for file in files] == before


def test_prompts_in_every_script_have_different_files(bundle: Path, tmp_path: Path) -> None:
    """Once, every prompt without a-z or 0-9 went to `0000--0.png`, and a second command replaced the first picture."""
    ask = ("--model", bundle, "--out", tmp_path)
    for prompt in ("一只狐狸", "лиса", "?", "!", "e\u0301clair", "हाथी"):
        assert "1 pictures in" in generate(*ask, "--prompt", prompt)
    names = {file.name[5:-13] for file in tmp_path.glob("0*.png")}
    assert names == {"一只狐狸-0", "лиса-0", "0", "éclair-0", "हाथी-0"}
    assert len(list(tmp_path.glob("0*.png"))) == 6
    generate(*ask, "--prompt", "一只狐狸", "--prompt", "一只狐狸")
    assert len({image["file"] for image in read_json(tmp_path / "generation.json")["images"]}) == 2


def test_names_of_files_fit_any_file_system() -> None:
    for prompt in ("a/b\\c:d*e?f", "CON", ".", "..", "一" * 1000, "a\0b", "\u202etxt", "x" * 1000):
        name = file_name(0, prompt, 2**62 - 1, {"prompt": prompt})
        assert len(name.encode()) <= 120
        assert not {*'/\\:*?"<>|\0\u202e'} & {*name}
    same = {file_name(0, prompt, 0, {"prompt": "x"}) for prompt in ("\u00e9", "e\u0301")}
    assert len(same) == 1  # some file systems take both for one name


def test_a_grid_of_any_size_is_recognised(tmp_path: Path) -> None:
    """A picture larger than any model draws is not decoded, but a grid of 120 is as large and may be replaced."""
    write_picture(tmp_path / "grid.png", Image.new("RGB", (15000, 10)), {"Title": "grid"})
    require_replaceable(tmp_path / "grid.png", {"Title": "grid"})
    with pytest.raises(BadInput, match="15000x10 pixels; at most 4096 a side are read"):
        read_png(tmp_path / "grid.png")


def test_foreign_files_are_not_replaced(bundle: Path, tmp_path: Path, refusal: Refusal) -> None:
    ask = ("--model", bundle, "--prompt", PROMPTS[0], "--out", tmp_path)
    generate(*ask)
    name = read_json(tmp_path / "generation.json")["images"][0]["file"]
    picture, grid, record = tmp_path / name, tmp_path / "grid.png", tmp_path / "generation.json"
    (tmp_path / "mine").write_text("of three days")
    for file in (picture, grid, record):
        before = file.read_bytes()
        for replaced in ("text", "picture", "link"):
            file.unlink()
            if replaced == "text":
                file.write_text('{"mine": 1}')
            elif replaced == "picture":
                Image.new("RGB", (9, 9), "red").save(file, format="PNG")
            else:
                file.symlink_to(tmp_path / "mine")
            mine = file.read_bytes()
            assert refusal(*ask).startswith(f"{file}: ")
            assert file.read_bytes() == mine
        file.unlink()
        file.write_bytes(before)
    assert "0 pictures in" in generate(*ask)
    assert (tmp_path / "mine").read_text() == "of three days"


def test_input_files_are_not_replaced(bundle: Path, tmp_path: Path, refusal: Refusal) -> None:
    """Once, a picture given as --init_image was replaced by the one drawn from it."""
    ask = ("--model", bundle, "--prompt", PROMPTS[0], "--out", tmp_path)
    generate(*ask)
    (tmp_path / "link.png").symlink_to(tmp_path / "grid.png")
    (tmp_path / "hard.png").hardlink_to(tmp_path / "grid.png")
    for file in ("grid.png", "link.png", "hard.png"):
        said = refusal(*ask, "--init_image", tmp_path / file, "--strength", "0.5")
        assert said == f"--init_image {tmp_path / file}: would be replaced by an output; choose another --out"
    given = ("--init_image", tmp_path / "link.png", "--mask", tmp_path / "hard.png")
    assert "would be replaced by an output" in refusal(*ask, *given)
    assert "--prompts" in refusal(*ask, "--prompts", tmp_path / "generation.json")
    first = tmp_path / read_json(tmp_path / "generation.json")["images"][0]["file"]
    before = first.read_bytes()
    assert "1 pictures in" in generate(*ask, "--init_image", first, "--strength", "0.5")
    assert first.read_bytes() == before


def test_no_local_path_is_written(bundle: Path, tmp_path: Path) -> None:
    """Once, paths were in the text chunks of pictures and in `generation.json`, which people share."""
    Image.new("RGB", (12, 12), "red").save(tmp_path / "red.png")
    generate("--model", bundle, "--prompt", PROMPTS[0], "--out", tmp_path / "out", "--init_image", tmp_path / "red.png",
             "--strength", "0.5")  # fmt: skip
    written = [file.read_bytes() for file in (tmp_path / "out").iterdir()]
    assert len(written) == 3
    assert not any(str(folder).encode() in text for text in written for folder in (tmp_path, bundle))
    record = read_json(tmp_path / "out" / "generation.json")
    assert (record["model"], record["options"]["init_image"]) == (bundle.name, "red.png")


def test_a_changed_init_image_is_drawn_from_again(bundle: Path, tmp_path: Path) -> None:
    ask = ("--model", bundle, "--prompt", PROMPTS[0], "--init_image", tmp_path / "it.png", "--strength", "0.5")
    for color in ("red", "blue"):
        Image.new("RGB", (12, 12), color).save(tmp_path / "it.png")
        assert "1 pictures in" in generate(*ask, "--out", tmp_path / "out")


def test_the_card_attributes_emoji_in_joined_sources_and_scenes() -> None:
    """Once, a model of `emoji+scenes:20000` had neither the licence nor the names of the artists."""
    data = ["photos", "emoji:noto+photos", "scenes:20000", "runs/emoji/codes", "None"]
    assert emoji_sources(data) == ["emoji:noto", "emoji"]
    assert emoji_sources(["emoji+scenes:20000"]) == ["emoji", "emoji"]
    assert credits(["emoji", "emoji"]).count("Twemoji") == 1


def test_a_trainer_draws_captions_that_are_longer_than_prompts(bundle: Path) -> None:
    its = load(bundle)
    draw = samples_by("autoregressive", its.text, its.tokenizer)
    with pytest.warns(CaptionCut):
        assert len(draw(its.models["autoregressive"], ["a very long fox " * 100, "a fox"])) == 2


def test_processes_share_the_work_and_draw_the_same(bundle: Path, tmp_path: Path) -> None:
    ask = ("--model", bundle, "--prompt", PROMPTS[0], "--prompt", PROMPTS[1], "--num_images", "3", "--batch_size", "2")
    generate(*ask, "--out", tmp_path / "alone")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",  # on CPUs too
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(port),
        "-m", "sampling.generate", *map(str, ask), "--device", "cpu", "--out", str(tmp_path / "together"),
    ]  # fmt: skip
    together = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=170)
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("6 pictures in") == 1
    files = sorted(file.name for file in (tmp_path / "alone").glob("0*.png"))
    assert len(files) == 6
    for name in files:
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "together" / name).read_bytes()
