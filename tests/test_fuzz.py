"""Damaged files of many kinds are read, or refused in one line, quickly.

Takes seconds in `make test`; `make test-all` tries ten times as many files. The number is printed at the end.
"""

import copy
import json
import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pyarrow import parquet
from test_evaluation_damaged import RESULT
from tiny_models import add_diffusion, add_upsampler, save_bundle

from data.files import text_lines
from data.metadata import captioned
from data.parquet import ParquetCorpus
from data.picture import fit, fit_mask, original_size, whole
from data.store import Unreadable
from diffusion.model import DiffusionModel
from evaluation.report import Column, html_report, markdown_table
from evaluation.result import read_result
from evaluation.suites import open_suite
from sampling.generate import GenerateOptions
from sampling.picture_files import read_picture
from sampling.pipeline import load
from seq2seq.model import TokenModel
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.text import TextTokenizer
from tokenizer.upsampler import Upsampler
from training.command_line import parse
from training.errors import BadInput
from training.record import read_record

MAX_SECONDS = 5.0
MAX_MEMORY = 2**30
"""Bytes that the process may come to take beyond what it took before."""

tried: Counter[str] = Counter()
"""Files by kind, for the summary that `conftest.py` prints."""

Read = Callable[[], object]

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([-1, 0, 2**20, 2**31, 2**63, 10**400, 10**5000]),
    st.floats(), st.text(max_size=20), st.lists(st.integers(), max_size=3),
    st.sampled_from(["../x", "/etc/passwd", "\x1b[2J", "\ud83d", "nan", "a" * 100_000]),
    st.dictionaries(st.sampled_from(["class_path", "init_args", "x"]), st.text(), max_size=2),
)  # fmt: skip


@st.composite
def damaged_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """Changes, deletes or inserts some bytes, or cuts the end off."""
    damaged = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(damaged) - 1)))
        match draw(st.sampled_from(["change", "take out", "put in", "cut"])):
            case "change":
                damaged[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
            case "take out":
                del damaged[at : at + draw(st.integers(1, 50))]
            case "put in":
                damaged[at:at] = draw(st.binary(min_size=1, max_size=50))
            case "cut":
                del damaged[at:]
    return bytes(damaged)


@st.composite
def damaged_json(draw: st.DrawFn, whole: Any) -> bytes:
    """Replaces, wraps, deletes or renames some values of a JSON document, or damages its text."""
    document = {"": copy.deepcopy(whole)}
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(document))
        parent, key = places[draw(st.integers(0, len(places) - 1))]
        match draw(st.sampled_from(["replace", "wrap", "take out", "rename"])):
            case "replace":
                parent[key] = draw(VALUES)
            case "wrap":
                for _ in range(draw(st.sampled_from([1, 3, 200]))):
                    parent[key] = [parent[key]]
            case "take out" if key != "":
                del parent[key]
            case "rename" if isinstance(parent, dict) and key != "":
                parent[draw(st.text(max_size=10))] = parent.pop(key)
    try:
        text = json.dumps(document[""]).encode(errors="surrogatepass")
    except ValueError:  # Python itself refuses to print so long an integer
        text = b"[" + b"9" * 5000 + b"]"
    return draw(damaged_bytes(text)) if draw(st.integers(0, 4)) == 0 else text


def _places(value: Any) -> Any:
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def attempt(kind: str, read: Read) -> None:
    """Fails unless reading succeeds or is refused in one line, within limits of time and memory."""
    tried[kind] += 1
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, time.perf_counter()
    try:
        read()
    except BadInput as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 2000
    except Unreadable:
        pass
    assert time.perf_counter() - began < MAX_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < MAX_MEMORY


def fuzzed(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: runs a test with that many examples, or ten times as many."""
    profile = settings.get_current_profile_name()
    return settings(
        max_examples=examples * (10 if profile == "all" else 1), deadline=None, derandomize=profile != "all",
        database=None, suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_upsampler(add_diffusion(save_bundle(tmp_path_factory.mktemp("fuzz") / "bundle")))


MODELS = {
    "autoregressive": TokenModel, "diffusion": DiffusionModel, "tokenizer": ImageTokenizer, "text": TextTokenizer,
    "upsampler": Upsampler,
}  # fmt: skip


@pytest.mark.parametrize("part", MODELS)
def test_configs_of_models(bundle: Path, part: str) -> None:
    file = bundle / part / "config.json"
    before = file.read_bytes()

    @fuzzed(25)
    @given(damaged_json(json.loads(before)))
    def run(damaged: bytes) -> None:
        file.write_bytes(damaged)
        attempt("config.json of a model", lambda: MODELS[part].from_pretrained(bundle / part))

    try:
        run()
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize("part", ["autoregressive", "tokenizer"])
def test_weights(bundle: Path, part: str) -> None:
    file = bundle / part / "model.safetensors"
    before = file.read_bytes()
    header = 8 + int.from_bytes(before[:8], "little")

    @fuzzed(25)
    @given(damaged_bytes(before[:header]), st.integers(0, 1))
    def run(damaged: bytes, rest: int) -> None:
        file.write_bytes(damaged + before[header:] * rest)
        attempt("header of safetensors", lambda: MODELS[part].from_pretrained(bundle / part))

    try:
        run()
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize("name", ["bundle.json", "autoregressive/training.json"])
def test_files_of_bundles(bundle: Path, name: str) -> None:
    file = bundle / name
    shipped = json.loads((Path(__file__).parents[1] / "checkpoints/emoji" / name).read_text())
    shipped.get("curves", {}).clear()
    before = file.read_bytes() if file.exists() else None

    @fuzzed(15)
    @given(damaged_json(shipped))
    def run(damaged: bytes) -> None:
        file.write_bytes(damaged)
        attempt(name, lambda: load(bundle))
        attempt(name, lambda: read_record(bundle / "autoregressive"))

    try:
        run()
    finally:
        file.write_bytes(before) if before is not None else file.unlink()


def test_results(tmp_path: Path) -> None:
    """If a result is accepted, a report can be made from it."""
    file = tmp_path / "result.json"
    file.write_text(json.dumps(RESULT))
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "pictures" / "0.png")

    def read() -> None:
        result = read_result(file)
        pictures = result.get("pictures", []) if result["kind"] == "generation" else []
        columns = [Column(name=result["name"], folder=tmp_path, result=result, pictures=pictures)] * 2
        markdown_table(columns, [], {})
        assert "/etc/passwd" not in html_report(columns, [], {}) or "/etc/passwd" in file.read_text()

    read()

    @fuzzed(60)
    @given(damaged_json(RESULT))
    def run(damaged: bytes) -> None:
        file.write_bytes(damaged)
        attempt("result.json", read)

    run()


ROWS = [{"prompt": "a fox", "category": "animals"}, {"prompt": "ein Hündchen 🐕", "challenge": "x"}]
SUITES = {
    "suite.jsonl": "\n".join(json.dumps(row) for row in ROWS),
    "suite.csv": 'Prompt,Category\n"a fox, red",animals\na dog,\n',
    "suite.tsv": 'Prompt\tCategory\na "fox"\tanimals\n',
    "suite.txt": "animals\ta fox\nein Hündchen\n",
    "suite.json": json.dumps({"annotations": [{"image_id": 1, "id": 2, "caption": "a fox"}]}),
}


@pytest.mark.parametrize("name", SUITES)
def test_suites_of_prompts(tmp_path: Path, name: str) -> None:
    @fuzzed(20)
    @given(damaged_bytes(SUITES[name].encode()))
    def run(damaged: bytes) -> None:
        (tmp_path / name).write_bytes(damaged)
        attempt("suite of prompts", lambda: open_suite(str(tmp_path / name)))
        attempt("text", lambda: text_lines(tmp_path / name))

    run()


def test_metadata(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    lines = [{"file_name": name, "text": f"a {name}", "split": "train"} for name in ("a.png", "b.png")]

    @fuzzed(60)
    @given(st.tuples(*(damaged_json(line) for line in lines)))
    def run(damaged: tuple[bytes, bytes]) -> None:
        (tmp_path / "metadata.jsonl").write_bytes(b"\n".join(damaged))
        attempt("metadata.jsonl", lambda: list(captioned(tmp_path, ["a.png", "b.png", "metadata.jsonl"])))

    run()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_pictures(tmp_path: Path, format: str) -> None:
    file = tmp_path / "picture.png"
    chunks = PngInfo()
    chunks.add_itxt("prompt", "a fox")
    chunks.add_text("seed", "3" * 1000, zip=True)
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, format=format, **({"pnginfo": chunks} if format == "PNG" else {}))
    before = file.read_bytes()

    @fuzzed(20)
    @given(damaged_bytes(before))
    def run(damaged: bytes) -> None:
        file.write_bytes(damaged)
        for read in (whole, original_size, lambda file: fit(file, 16), lambda file: fit_mask(file, 16)):
            attempt("picture", lambda read=read: read(file))
        attempt("picture", lambda: read_picture(file, {"prompt": "a fox"}))

    run()


def test_tables(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    rows = {"image": [(tmp_path / "a.png").read_bytes()] * 3, "text": ["a", "b", "c"]}
    parquet.write_table(pa.table(rows), file)
    before = file.read_bytes()
    footer = len(before) - 8 - int.from_bytes(before[-8:-4], "little")

    @fuzzed(10)
    @given(damaged_bytes(before[footer:]), damaged_bytes(before[:footer]), st.sampled_from(["footer", "body", "both"]))
    def run(end: bytes, body: bytes, which: str) -> None:
        file.write_bytes(
            (before[:footer] if which == "footer" else body) + (before[footer:] if which == "body" else end)
        )

        def read() -> None:
            corpus = ParquetCorpus(file, tmp_path / "cache")
            for i in range(len(corpus.keys)):
                corpus.captions(i)
                corpus.render(i, 16)

        attempt("parquet", read)

    run()


CONFIG = {"prompt": ["a fox"], "num_images": 2, "temperature": 0.5, "out": "outputs", "engine": "auto", "mask": None}


def test_configs_of_commands(tmp_path: Path) -> None:
    """YAML, which includes JSON."""
    file = tmp_path / "config.yaml"

    @fuzzed(40)
    @given(damaged_json(CONFIG))
    def run(damaged: bytes) -> None:
        file.write_bytes(damaged)
        attempt("config of a command", lambda: parse(GenerateOptions, ["--config", str(file)]))

    run()
