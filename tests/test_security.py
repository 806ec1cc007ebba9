"""Checks the promises of `SECURITY.md`: commands read hostile files under an audit hook.

An audit hook cannot be removed, so the commands run in another process: this file, as a script.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy.testing  # noqa: F401 # numpy 2.0 runs lscpu when it is first imported, here by `datasets`
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file, save_file
from tiny_models import add_diffusion, add_upsampler, save_bundle

ROOT = Path(__file__).parents[1]
EVIL = "evil_notes"
"""A module beside the hostile files; running any of it leaves a file `ran` behind."""
CLASS = {"class_path": f"{EVIL}.X", "init_args": {"x": 1}}

Case = tuple[str, list[str]]
"""Module of a command, and its arguments."""


def edited(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def foreign_text(bundle: Path) -> None:
    """Removes the text encoder from the diffusion weights, as if one of `transformers` reads the captions."""
    file = bundle / "diffusion" / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if not name.startswith("text.")}
    save_file({**kept, "text.encoder.null": torch.zeros(32)}, file)


def hostile_bundles(folder: Path) -> Iterator[Path]:
    """Bundles that each try one attack."""
    good = add_upsampler(add_diffusion(save_bundle(folder / "good")))

    def bundle(name: str) -> Path:
        return Path(shutil.copytree(good, folder / name))

    for part, field in (
        ("diffusion", "process"),
        ("diffusion", "dit"),
        ("autoregressive", "width"),
        ("tokenizer", "backbone"),
        ("tokenizer", "quantizer"),
        ("upsampler", "width"),
    ):
        made = bundle(f"class-in-{part}-{field}")
        edited(made / part / "config.json", **{field: CLASS})
        yield made
    for name, kind in (("module", EVIL), ("class", f"{EVIL}:X"), ("file", str(folder / f"{EVIL}.py"))):
        made = bundle(f"kind-is-a-{name}")
        edited(made / "tokenizer" / "config.json", quantizer={"kind": kind})
        yield made
    made = bundle("config-as-a-file")
    (made / "process.yaml").write_text(f"class_path: {EVIL}.X")
    edited(made / "diffusion" / "config.json", process="process.yaml")
    yield made
    made = bundle("parts-elsewhere")
    edited(made / "bundle.json", parts=["text", "tokenizer", "../../secret"])
    yield made
    made = bundle("text-encoder-elsewhere")
    foreign_text(made)
    text = json.loads((made / "diffusion" / "config.json").read_text())["text"]
    edited(made / "diffusion" / "config.json", text={**text, "kind": "transformers", "source": f"hf://{EVIL}/x"})
    yield made
    made = bundle("token-model-with-a-text-encoder-elsewhere")
    file = made / "autoregressive" / "model.safetensors"
    tensors = load_file(file)
    width = tensors.pop("encoder.embed.weight").shape[1]
    frozen = {"encoder.embed.0.null": torch.zeros(8), "encoder.embed.1.weight": torch.zeros(width, 8)}
    save_file({**tensors, **frozen}, file)
    edited(made / "autoregressive" / "config.json", text_source=f"hf://{EVIL}/x", text_states=8)
    yield made
    made = bundle("text-encoder-with-code")
    foreign_text(made)
    (made / "encoder").mkdir()
    code = {"auto_map": {"AutoModel": f"{EVIL}.X", "AutoConfig": f"{EVIL}.X"}, "model_type": EVIL}
    (made / "encoder" / "config.json").write_text(json.dumps(code))
    shutil.copy(folder / f"{EVIL}.py", made / "encoder")
    edited(made / "diffusion" / "config.json", text={**text, "kind": "transformers", "source": str(made / "encoder")})
    yield made
    made = bundle("claims-much")
    edited(made / "autoregressive" / "config.json", width=2**16, mlp_width=2**17, decoder_depth=999)
    yield made
    made = bundle("upsampler-claims-much")
    edited(made / "upsampler" / "config.json", width=2**16, groups=999, blocks=999)
    yield made
    made = bundle("claims-large-pictures")
    tensors = load_file(made / "autoregressive" / "model.safetensors")
    for name, count in (("decoder.rows", 1025), ("decoder.columns", 1024)):
        tensors[name] = tensors[name].new_ones(count, *tensors[name].shape[1:])
    save_file(tensors, made / "autoregressive" / "model.safetensors")
    edited(made / "autoregressive" / "config.json", grid=1024)
    yield made
    made = bundle("no-numbers")
    for part in ("autoregressive", "diffusion", "upsampler"):
        tensors = load_file(made / part / "model.safetensors")
        next(iter(tensors.values())).view(-1)[0] = float("nan")
        save_file(tensors, made / part / "model.safetensors")
    yield made
    made = bundle("weights-are-a-link")
    (made / "autoregressive" / "model.safetensors").unlink()
    (made / "autoregressive" / "model.safetensors").symlink_to(folder / "secret")
    yield made
    made = bundle("weights-are-a-pickle")
    (made / "autoregressive" / "model.safetensors").write_bytes(b"\x80\x04\x95cos\nsystem\n(S'touch ran'\ntR.")
    yield made


def hostile_files(folder: Path) -> Iterator[Case]:
    """Results, pictures, tables, texts and configs that each try one attack."""
    out = str(folder / "out")
    for number, name in enumerate((str(folder / "secret"), "../secret", "link.png")):
        result = folder / f"result-{number}"
        shutil.copytree(folder / "result", result)
        (result / "link.png").symlink_to(folder / "secret")
        pictures = json.loads((result / "result.json").read_text())["pictures"]
        edited(result / "result.json", pictures=[{**pictures[0], "file": name}], name=f"{number} <script>")
        yield "evaluation.compare", [str(result), str(folder / "result"), "--force", "--out", f"{out}/compare-{number}"]
        yield "evaluation.sheet", ["--result", str(result), "--out", f"{out}/sheet-{number}"]
        known = ["--model", f"{folder}/good", "--data", f"{folder}/fine", "--cache", f"{folder}/cache"]
        yield "evaluation.copies", ["--result", str(result), *known, "--out", f"{out}/copies-{number}"]
    photos = folder / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(ran) (w) file closefile\n%%EOF"
    )
    Image.new("RGB", (32, 32)).save(photos / "b.png")
    lines = [{"file_name": f"{name}.png", "text": f"a \x1b]0;{name}"} for name in "ab"]
    (photos / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    yield "data.inspect", [str(photos), "--size", "16", "--cache", f"{folder}/cache", "--out", f"{out}/inspect"]
    outside = folder / "outside"
    outside.mkdir()
    for number, name in enumerate((str(folder / "secret"), "../secret")):
        (outside / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "a"}))
        yield "data.inspect", [str(outside), "--size", "16", "--cache", f"{folder}/cache", "--out", f"{out}/o{number}"]
    picture = (photos / "b.png").read_bytes()
    cells = [{"bytes": picture, "path": "b.png"}, {"bytes": None, "path": str(folder / "secret")}]
    parquet.write_table(pa.table({"image": cells, "text": ["a", "b"]}), folder / "table.parquet")
    yield "data.inspect", [f"{folder}/table.parquet", "--size", "16", "--cache", f"{folder}/cache", "--out", f"{out}/t"]
    clean = ["--min_side", "8", "--processes", "1", "--cache", f"{folder}/cache", "--out"]
    yield "data.prepare", [str(photos), *clean, f"{out}/cleaned"]
    yield "data.prepare", [f"{folder}/table.parquet", "--min_contrast", "0", *clean, f"{out}/cleaned-table"]
    (folder / "captioner").mkdir()
    (folder / "captioner" / f"{EVIL}.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass X: pass\n")
    auto = {f"Auto{kind}": f"{EVIL}.X" for kind in ("Config", "Processor", "ModelForImageTextToText")}
    (folder / "captioner" / "config.json").write_text(json.dumps({"model_type": "its own", "auto_map": auto}))
    captions = ["--min_contrast", "0", "--recaption", f"{folder}/captioner"]
    yield "data.prepare", [f"{folder}/fine", *captions, *clean, f"{out}/captioned"]
    good = ["--model", f"{folder}/good", "--prompt", "a", "--out"]
    for number, config in enumerate((CLASS, {"prompt": CLASS}, {"config": f"{folder}/secret"}, {"import": EVIL})):
        (folder / f"config-{number}.yaml").write_text(json.dumps(config))
        yield "sampling.generate", ["--config", f"{folder}/config-{number}.yaml", *good, f"{out}/config-{number}"]
    yield "sampling.generate", [*good, f"{out}/missing", "--model", f"{EVIL}/model"]
    yield "sampling.generate", [*good, f"{out}/init", "--init_image", f"{photos}/a.png", "--strength", "0.5"]
    planted = folder / "out" / "planted"
    planted.mkdir(parents=True)
    (planted / "grid.png").symlink_to(folder / "secret")
    yield "sampling.generate", [*good, str(planted)]
    (folder / "inception.pt").write_bytes(b"PK\x03\x04")
    fine = folder / "fine"  # so that what is hostile is come to
    fine.mkdir()
    for name in "abcd":
        Image.new("RGB", (64, 64), "teal").save(fine / f"{name}.png")
    (fine / "metadata.jsonl").write_text("\n".join(json.dumps({"file_name": f"{n}.png", "text": n}) for n in "abcd"))
    inception = ["--images", str(fine), "--reference", str(fine), "--cache", f"{folder}/cache"]
    yield "evaluation.score", [*inception, "--inception", f"{folder}/inception.pt", "--out", f"{out}/score"]


def other_commands(folder: Path) -> Iterator[Case]:
    """The commands that read models and pictures, with hostile ones."""
    bundle, photos, cache, out = (
        folder / "class-in-diffusion-process",
        folder / "photos",
        folder / "cache",
        folder / "out",
    )
    tokenizer = folder / "class-in-tokenizer-backbone" / "tokenizer"
    parts = ["--text", f"{bundle}/text", "--tokenizer", f"{bundle}/tokenizer"]
    parts += ["--backend", f"diffusion={bundle}/diffusion"]
    data = ["--data", str(folder / "fine"), "--cache", str(cache)]
    yield "sampling.bundle", [*parts, "--out", f"{out}/bundle"]
    yield "evaluation.curves", ["--model", str(folder / "parts-elsewhere"), "--plot", f"{out}/curves.png"]
    yield (
        "evaluation.run",
        ["--model", str(bundle), "--suite", f"{photos}@train", "--cache", str(cache), "--out", f"{out}/run"],
    )
    yield "evaluation.reconstruct", ["--model", str(tokenizer), *data, "--out", f"{out}/reconstruct"]
    (folder / "evil.ckpt").write_bytes(f"c{EVIL}\nX\n(tR.".encode())
    yield "tokenizer.convert", [f"{folder}/evil.ckpt", "--image_size", "64", "--out", f"{out}/converted"]
    yield "tokenizer.encode", ["--model", str(tokenizer), *data, "--out", f"{out}/codes"]
    yield "tokenizer.train_text", [*data, "--vocab_size", "300", "--size", "16", "--out", f"{out}/text"]
    trained = ["--tokenizer", str(tokenizer), "--text", f"{bundle}/text", *data, "--steps", "1"]
    for room in ("seq2seq", "diffusion"):
        yield f"{room}.train", [*trained, "--out", f"{out}/{room}"]
    (folder / "train.yaml").write_text(json.dumps({"model": CLASS, "optimizer": f"{folder}/secret"}))
    yield "tokenizer.train", ["--config", f"{folder}/train.yaml", *data, "--steps", "1", "--out", f"{out}/train"]
    yield "tokenizer.train", [*data, "--init", str(tokenizer), "--steps", "1", "--out", f"{out}/train"]


def cases(folder: Path) -> list[Case]:
    """All hostile cases; and one with the good bundle, to show that the hook does not stop normal work."""
    (folder / f"{EVIL}.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass X: pass\n")
    (folder / "secret").write_text("the reader's own")
    from test_evaluation_damaged import RESULT

    (folder / "result" / "pictures").mkdir(parents=True)
    (folder / "result" / "result.json").write_text(json.dumps(RESULT))
    Image.new("RGB", (16, 16)).save(folder / "result" / "pictures" / "0.png")
    found: list[Case] = []
    for bundle in hostile_bundles(folder):
        for backend in ("autoregressive", "diffusion"):
            options = ["--model", str(bundle), "--backend", backend, "--prompt", "a", "--device", "cpu"]
            found.append(("sampling.generate", [*options, "--out", f"{folder}/out/{bundle.name}-{backend}"]))
    found += hostile_files(folder)
    found += other_commands(folder)
    found.append(("sampling.generate", ["--model", f"{folder}/good", "--prompt", "a", "--out", f"{folder}/out/good"]))
    return found


FORBIDDEN = {"socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec", "pickle.find_class"}


class Watch:
    """An audit hook that records everything that untrusted files must not cause."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.noted, self.on = str(folder), list[str](), False
        self._mine = (f"{self.folder}/out", f"{self.folder}/cache", "/dev/", "/proc/")

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "import" and EVIL in str(arguments[0]):
            self.noted.append(f"import {arguments[0]}")
        elif event in FORBIDDEN:
            self.noted.append(f"{event} {arguments!r}"[:300])
        elif event == "open" and isinstance(arguments[0], str):
            self._opened(os.path.realpath(arguments[0]), arguments[0], arguments[1], arguments[2])
        elif event == "exec" and self.folder in getattr(arguments[0], "co_filename", ""):
            self.noted.append(f"exec {arguments[0].co_filename}")

    def _opened(self, real: str, path: str, mode: str | None, flags: int) -> None:
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR)) or any(letter in (mode or "") for letter in "wax+")
        if real == f"{self.folder}/secret":
            self.noted.append(f"open {path}")
        elif writes and not real.startswith(self._mine) and not path.startswith(self._mine):
            self.noted.append(f"write {path}")


def run(folder: Path) -> dict[str, Any]:
    """Runs every case. Returns how each ended, and what was recorded."""
    everything = cases(folder)
    modules = {name: importlib.import_module(name) for name, _ in everything}
    from training.cli import command

    options = {
        "sampling.generate": "GenerateOptions", "evaluation.compare": "CompareOptions",
        "data.inspect": "InspectOptions", "data.prepare": "PrepareOptions", "evaluation.score": "ScoreOptions",
        "sampling.bundle": "BundleOptions", "evaluation.curves": "CurvesOptions",
        "evaluation.run": "RunOptions", "evaluation.reconstruct": "ReconstructOptions",
        "tokenizer.convert": "ConvertOptions",
        "tokenizer.encode": "EncodeOptions", "tokenizer.train_text": "TextTrainingOptions",
        "seq2seq.train": "TokenTrainingConfig", "diffusion.train": "DiffusionTrainingConfig",
        "tokenizer.train": "TokenizerTrainingConfig", "evaluation.sheet": "SheetOptions",
        "evaluation.copies": "CopiesOptions",
    }  # fmt: skip

    def call(name: str, arguments: list[str]) -> tuple[int, str]:
        module, config = modules[name], options[name]
        said = StringIO()
        sys.argv = [name, *arguments]
        with redirect_stdout(said), redirect_stderr(said):
            try:
                command(module.main, getattr(module, config))
            except SystemExit as left:
                return int(left.code or 0), said.getvalue()
        return 0, said.getvalue()

    name, arguments = everything[-1]
    call(
        name, [*arguments[:-1], f"{folder}/out/first"]
    )  # what libraries import and open at first is not the file's doing
    watch = Watch(folder)
    sys.addaudithook(watch)
    ended = []
    for name, arguments in everything:
        watch.noted.clear()
        watch.on = True
        try:
            code, said = call(name, arguments)
        except BaseException as error:
            code, said = 1, repr(error)
        watch.on = False
        ended.append(
            {"case": f"{name} {' '.join(arguments)}", "code": code, "said": said[-600:], "noted": [*watch.noted]}
        )
    return {"ended": ended}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("stranger")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT), str(ROOT / "tests")])}
    environment |= {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, __file__, str(folder)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return folder, json.loads(process.stdout.splitlines()[-1])["ended"]


def test_no_import_no_process_no_network_no_write_elsewhere(
    watched: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, ended = watched
    assert not (folder / "ran").exists()
    assert (folder / "secret").read_text() == "the reader's own"
    assert {case["case"]: case["noted"] for case in ended if case["noted"]} == {}


def test_every_case_succeeds_or_ends_in_one_line(watched: tuple[Path, list[dict[str, Any]]]) -> None:
    """Refusals say "error: ..." and exit with 2. Files that can be used are used."""
    folder, ended = watched
    assert ended[-1]["code"] == 0, ended[-1]
    for case in ended:
        assert case["code"] in (0, 2), case
        assert "Traceback" not in case["said"], case
        assert "\x1b" not in case["said"], case
        if case["code"] == 2:
            assert case["said"].strip().splitlines()[-1].startswith("error: "), case
    assert sum(case["code"] == 2 for case in ended) >= 25
    for command, refused in {
        "evaluation.score": "inception",
        "tokenizer.train ": "class_path",
        "tokenizer.encode": "class_path",
        "tokenizer.convert": f"names {EVIL}.X, and loading that could run code",
        "evaluation.reconstruct": "class_path",
        "seq2seq.train": "class_path",
        "diffusion.train": "class_path",
        "evaluation.run": "class_path",
        "sampling.bundle": "class_path",
        f"data.prepare {folder}/fine": "not a model of transformers",
        f"sampling.generate --model {folder}/claims-large-pictures": "has grid 1024, but the tokenizer here has 3",
    }.items():  # and not something before it
        its = [case["said"] for case in ended if case["case"].startswith(command)]
        assert its and all(refused in said for said in its), (command, its)


def test_private_files_do_not_get_into_pages(watched: tuple[Path, list[dict[str, Any]]]) -> None:
    from base64 import b64encode

    folder, _ = watched
    for page in (folder / "out").rglob("*.html"):
        assert b64encode(b"the reader's own").decode()[:16] not in page.read_text()
        assert "<script>0" not in page.read_text()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(run(Path(sys.argv[1]))))
