"""`python -m sampling.generate` and `sampling.load`: what comes out, and one clear line for what cannot be."""

import contextlib
import dataclasses
import io
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_models import save_bundle

from sampling import SamplingOptions, Start, load
from sampling.bundle import BundleOptions
from sampling.bundle import assemble as assemble_bundle
from sampling.choose import candidate_seeds, caption_gain
from sampling.generate import GenerateOptions, main
from training.cli import command
from training.config import parse, to_dict
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
    """Runs the command in this process; it must exit with 2 and say why in one line, which is returned."""

    def run(*arguments: str | Path) -> str:
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
    assert record["options"] == {**to_dict(SamplingOptions()), "guidance": 3.0, "top_k": 5}
    assert record["engine"] in ("plain", "packed", "compiled")
    assert record["tokens_a_pass"] == [round(9 / passes, 2) for passes in record["passes_by_batch"]]


def test_pictures_are_uint8_and_do_not_depend_on_the_batch(bundle: Path) -> None:
    loaded = load(bundle)
    together = loaded.generate(PROMPTS, num_images=3, seed=1)
    apart = loaded.generate(PROMPTS, num_images=3, seed=1, batch_size=1)
    assert all(a.dtype == torch.uint8 and a.shape[0] == 3 and a.shape[2] == 12 for a in together)
    assert all(torch.equal(a, b) for a, b in zip(together, apart, strict=True))
    assert not torch.equal(together[0], together[1])


def test_no_flags_means_the_default_options() -> None:
    assert parse(GenerateOptions, []) == GenerateOptions()
    assert GenerateOptions().sampling == SamplingOptions()


def test_guidance_one_is_no_guidance(bundle: Path) -> None:
    """With a null caption that says the same as the caption, any guidance is none; at 1 it is none whatever it says."""
    loaded = load(bundle)
    plain = loaded.generate(PROMPTS, options=SamplingOptions(guidance=1))
    nearly = loaded.generate(PROMPTS, options=SamplingOptions(guidance=1 + 1e-6))
    assert all(torch.equal(a, b) for a, b in zip(plain, nearly, strict=True))


def test_unusable_prompts(bundle: Path, tmp_path: Path, refusal: Refusal) -> None:
    model = ("--model", bundle, "--out", tmp_path / "out")
    assert refusal(*model) == 'nothing to draw: give --prompt "a noto emoji of a fox" or --prompts FILE'
    assert "is empty" in refusal(*model, "--prompt", " ")
    assert "10000 characters: at most 1000" in refusal(*model, "--prompt", "fox " * 2500)
    broken = tmp_path / "broken.txt"
    broken.write_bytes(b"a fox\n\xff\xfe\n")
    assert refusal(*model, "--prompts", broken) == f"{broken}: not UTF-8 text (byte 6)"
    assert refusal(*model, "--prompts", tmp_path / "none.txt") == f"no such file or folder: {tmp_path / 'none.txt'}"
    assert not (tmp_path / "out").exists()
    assert refusal("--prompt", "\udcff") == "'\\udcff' on the command line is not UTF-8 text"


def test_prompts_that_are_no_list_of_texts(bundle: Path) -> None:
    loaded = load(bundle)
    with pytest.raises(BadInput, match="prompts is one text, 'a fox': must be a list of them"):
        loaded.generate("a fox")
    with pytest.raises(BadInput, match="a prompt is 5: must be text"):
        loaded.generate([5])  # type: ignore[list-item]


def test_prompts_that_look_like_something_else() -> None:
    asked = ["[a fox, a cat]", "- a", "-fox", "a: b", "5", "null", '"quoted"', "a=b"]
    argv = [part for prompt in asked for part in ("--prompt", prompt)]
    assert parse(GenerateOptions, argv).prompt == asked
    assert parse(GenerateOptions, [f"--prompt={prompt}" for prompt in asked]).prompt == asked


def test_pictures_of_another_engine_are_drawn_anew(bundle: Path, tmp_path: Path) -> None:
    for engine, dtype in (("plain", "float32"), ("plain", "bfloat16"), ("auto", "float32")):
        main(
            GenerateOptions(
                model=str(bundle), prompt=PROMPTS[:1], out=tmp_path / "out",
                engine=engine, dtype=dtype,  # type: ignore[arg-type]
            )
        )  # fmt: skip
        (file,) = (tmp_path / "out").glob("0000-*.png")
        found = read_json(tmp_path / "out" / "generation.json")
        with Image.open(file) as image:
            assert [image.text[key] for key in ("engine", "dtype")] == [found["engine"], found["dtype"]]  # type: ignore[attr-defined]


def test_unusable_options(bundle: Path, tmp_path: Path, refusal: Refusal) -> None:
    ask = ("--model", bundle, "--prompt", "a fox", "--out", tmp_path / "out")
    assert "did you mean 'guidance'?" in refusal(*ask, "--guidence", "2")
    assert refusal(*ask, "--temperature", "-1").endswith("temperature is -1.0: must be from 0 to 100")
    assert refusal(*ask, "--seed", "x") == "seed: expected a value of type int, got 'x'"
    assert refusal(*ask, "--device", "abacus").startswith("device 'abacus' cannot be used here")
    (tmp_path / "file").write_text("in the way")
    assert refusal(*ask[:-1], tmp_path / "file").startswith("a file stands in the way")
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


def test_a_model_that_is_nowhere(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder; a model on the Hub is given as hf://owner/name"):
        load(tmp_path / "nothing")


def test_a_bundle_is_assembled_from_runs(bundle: Path, tmp_path: Path) -> None:
    parts = {name: bundle / name for name in ("text", "tokenizer", "autoregressive")}
    assemble_bundle(BundleOptions(**parts, out=tmp_path / "assembled"))
    assert load(tmp_path / "assembled").ids == load(bundle).ids
    assert load(bundle).ids["codes_id"] in (tmp_path / "assembled" / "README.md").read_text()
    before = sorted((file, file.stat().st_mtime_ns) for file in (tmp_path / "assembled").rglob("*"))
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"metrics": {}, "count": 1, "source": "photos", "pixels_id": "0123456789abcdef"}))
    with pytest.raises(BadInput, match="is of the image tokenizer 0123456789abcdef, but this one is"):
        assemble_bundle(BundleOptions(**parts, reconstruction=report, out=tmp_path / "assembled"))
    with pytest.raises(BadInput, match=f"--text {tmp_path / 'nothing'}: no such folder"):
        assemble_bundle(BundleOptions(**{**parts, "text": tmp_path / "nothing"}, out=tmp_path / "assembled"))
    assert before == sorted((file, file.stat().st_mtime_ns) for file in (tmp_path / "assembled").rglob("*"))


def test_a_bundle_takes_the_place_of_a_bundle_alone(bundle: Path, tmp_path: Path) -> None:
    parts = {name: bundle / name for name in ("text", "tokenizer", "autoregressive")}
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "weights").write_text("of three days")
    for taken in (tmp_path / "runs", tmp_path / "runs" / "weights"):
        with pytest.raises(BadInput, match="is there already and is no bundle; choose another --out"):
            assemble_bundle(BundleOptions(**parts, out=taken))
    assert (tmp_path / "runs" / "weights").read_text() == "of three days"
    assemble_bundle(BundleOptions(**parts, out=tmp_path / "bundle"))
    (tmp_path / "bundle" / "grid.png").write_text("a picture")
    assemble_bundle(BundleOptions(**parts, out=tmp_path / "bundle", name="Second"))
    assert (tmp_path / "bundle" / "grid.png").read_text() == "a picture"
    assert "# Second" in (tmp_path / "bundle" / "README.md").read_text()


def test_best_of_keeps_the_candidate_that_gains_most(bundle: Path) -> None:
    loaded, options = load(bundle), SamplingOptions(temperature=5.0, guidance=1.0)
    assert loaded.autoregressive is not None
    text = loaded.text.encode([PROMPTS[0]] * 4)
    seeds = torch.arange(4)
    candidates = [loaded.sampler.draw(text, candidate_seeds(seeds, n), options) for n in range(3)]
    gains = torch.stack([caption_gain(loaded.autoregressive, text, codes) for codes in candidates])
    best = gains.argmax(0).tolist()
    assert len({*best}) > 1  # else nothing would be shown
    options = dataclasses.replace(options, best_of=3)
    for i, picture in enumerate(loaded.generate(PROMPTS[:1], num_images=4, options=options)):
        assert torch.equal(picture, loaded.tokenizer.decode(candidates[best[i]][i][None])[0])


def test_best_of_sixteen_needs_the_cache_of_one_batch(bundle: Path) -> None:
    """Candidates are drawn one batch after the other, in the same buffers."""
    loaded, wanted = load(bundle), [(PROMPTS[0], seed) for seed in range(16)]
    loaded.draw(wanted, SamplingOptions())
    budget = loaded.sampler.cache_bytes
    loaded.draw(wanted, SamplingOptions(best_of=16))
    assert 0 < loaded.sampler.cache_bytes <= budget


def test_the_picture_so_far(bundle: Path) -> None:
    loaded = load(bundle)
    steps = list(loaded.stream(PROMPTS, seed=5))
    final = loaded.generate(PROMPTS, seed=5)
    assert [steps[i][0].shape[1] for i in range(len(steps))] == [4 * (i + 1) for i in range(len(steps))]
    assert all(torch.equal(a, b) for a, b in zip(steps[-1], final, strict=True))


def test_a_picture_is_completed_and_repaired(bundle: Path) -> None:
    """What is kept has the tokens of the picture that was given, whatever else is drawn."""
    loaded = load(bundle)
    image = torch.randint(0, 256, (3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    codes = loaded.tokenizer.encode(image[None])[0]
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[5, 6] = True  # one pixel of the token in the middle
    for start, kept in (
        (Start(image=image, strength=0.34), [*range(6)]),
        (Start(image=image, mask=mask), [0, 1, 2, 3, 5, 6, 7, 8]),
    ):
        tokens = start.tokens(loaded.tokenizer)[0]
        assert (tokens >= 0).nonzero().flatten().tolist() == kept
        assert torch.equal(tokens[kept], codes.flatten()[kept])
        text = loaded.text.encode([PROMPTS[0]])
        (made,) = loaded.sampler.draw(text, torch.tensor([1]), SamplingOptions(), start.tokens(loaded.tokenizer))
        assert torch.equal(made.flatten()[kept], codes.flatten()[kept])
        (picture,) = loaded.generate(PROMPTS[:1], seed=1, start=start)
        assert torch.equal(picture, loaded.tokenizer.decode(made[None])[0])


def test_unusable_pictures_to_start_from(bundle: Path, tmp_path: Path, refusal: Refusal) -> None:
    ask = ("--model", bundle, "--prompt", "a fox", "--out", tmp_path / "out")
    Image.new("RGB", (12, 12), "red").save(tmp_path / "red.png")
    assert "at strength 1 nothing of init_image is left" in refusal(*ask, "--init_image", tmp_path / "red.png")
    assert refusal(*ask, "--mask", tmp_path / "red.png").endswith("must be absent without init_image")
    both = ("--init_image", tmp_path / "red.png", "--mask", tmp_path / "red.png", "--strength", "0.5")
    assert refusal(*ask, *both) == "mask and strength both say what is drawn anew: give one of them"
    with pytest.raises(BadInput, match=r"the mask is \(2, 2\), the picture \(12, 12\)"):
        Start(image=torch.zeros(3, 12, 12), mask=torch.zeros(2, 2))


def test_what_is_there_is_not_drawn_again(bundle: Path, tmp_path: Path) -> None:
    """Given the same command, finished pictures stay; a damaged one, one that is missing and others' are drawn."""
    ask = ("--model", bundle, "--prompt", PROMPTS[0], "--num_images", "4", "--out", tmp_path)
    assert "4 pictures in" in generate(*ask)
    files = sorted(tmp_path.glob("0*.png"))
    before = [file.read_bytes() for file in files]
    times = [file.stat().st_mtime_ns for file in files]
    files[0].unlink()
    files[2].write_bytes(before[2][:60])
    again = generate(*ask)
    assert "2 pictures in" in again
    assert "2 were there already" in again
    assert [file.read_bytes() for file in files] == before
    assert [file.stat().st_mtime_ns == time for file, time in zip(files, times, strict=True)] == [False, True] * 2
    assert "4 pictures in" in generate(*ask, "--temperature", "0.9")


def test_another_picture_under_the_name_of_the_first_is_drawn_from(bundle: Path, tmp_path: Path) -> None:
    ask = ("--model", bundle, "--prompt", PROMPTS[0], "--init_image", tmp_path / "it.png", "--strength", "0.5")
    for color in ("red", "blue"):
        Image.new("RGB", (12, 12), color).save(tmp_path / "it.png")
        assert "1 pictures in" in generate(*ask, "--out", tmp_path / "out")


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
