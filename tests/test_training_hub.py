"""Access to the Hub: only by an explicit form, at a fixed commit, and only for the needed files. Uses no network."""

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import DryRunError, LocalEntryNotFoundError
from huggingface_hub.file_download import DryRunFileInfo
from PIL import Image
from tiny_models import save_bundle, save_text_encoder

from data.source import open_source
from diffusion.text import TextConfig, resolve_text_config
from sampling.bundle import BundleOptions, assemble
from sampling.clip import Clip
from sampling.pipeline import load
from seq2seq.frozen_text import transformers_encoder
from tokenizer.image_tokenizer import ImageTokenizer
from tokenizer.text import TextTokenizer
from training.errors import BadInput
from training.options import TrainingConfig
from training.run import RunFolder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A fake `snapshot_download` with one repository, which records the requests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[dict[str, Any]] = []
        self.online = True

    def __call__(self, repo: str, **asked: Any) -> Any:
        self.asked.append({"repo": repo, **asked})
        if repo != "some/thing":
            raise OSError("404 Client Error. (Request ID: 1)\n\nRepository Not Found")
        if not self.online and not asked.get("local_files_only"):
            raise DryRunError("no connection")
        if not asked.get("dry_run"):
            return str(self.folder)
        allowed, ignored = asked["allow_patterns"], asked["ignore_patterns"] or []
        names = [str(file.relative_to(self.folder)) for file in self.folder.rglob("*") if file.is_file()]
        return [
            DryRunFileInfo(COMMIT, 500_000, name, str(self.folder / name), False, True)
            for name in names
            if any(fnmatch(name, one) for one in allowed) and not any(fnmatch(name, one) for one in ignored)
        ]


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    folder = tmp_path / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    found = Hub(folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found)
    return found


LOADERS = {
    "bundle": load,
    "model": ImageTokenizer.from_pretrained,
    "clip": Clip,
    "text": lambda path: transformers_encoder(str(path)),
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("path", ["runs/acme", "owner/name", "http://a/b", "HF://owner/name", "/nowhere"])
def test_a_mistyped_path_does_not_reach_the_hub(kind: str, path: str, remote: Hub) -> None:
    """`runs/acme` was looked up on the Hub, where anybody may own that name."""
    with pytest.raises(BadInput) as error:
        LOADERS[kind](path)
    assert str(error.value) == f"{path}: no such folder; a model on the Hub is given as hf://owner/name"
    assert remote.asked == []


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("path", ["hf://name", "hf://a/b/c", "hf://a/b@", "hf://a/../b", "hf://a/b@x y", "hf://"])
def test_a_wrong_form_does_not_reach_the_hub(kind: str, path: str, remote: Hub) -> None:
    with pytest.raises(BadInput, match="must be hf://owner/name, or hf://owner/name@commit"):
        LOADERS[kind](path)
    assert remote.asked == []


@pytest.mark.parametrize("path", ["hf://some/thing", Path("hf://some/thing"), f"hf://some/thing@{COMMIT}"])
def test_a_bundle_is_pinned_and_its_size_shown(
    path: str | Path, remote: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    save_bundle(remote.folder)
    for name in ("setup.py", "text/notes.py", "autoregressive/model.bin", ".env", "extra.safetensors"):
        (remote.folder / name).touch()
    bundle = load(path)
    assert bundle.source == f"hf://some/thing@{COMMIT}"
    seen, taken = remote.asked[:2]
    assert (seen["dry_run"], seen["revision"]) == (True, COMMIT if COMMIT in str(path) else None)
    assert taken["revision"] == COMMIT
    names = [str(file.relative_to(remote.folder)) for file in remote.folder.rglob("*") if file.is_file()]
    assert {name for name in names if any(fnmatch(name, one) for one in taken["allow_patterns"])} == {
        "bundle.json", "text/config.json", "text/spiece.model", "tokenizer/config.json", "tokenizer/README.md",
        "tokenizer/model.safetensors", "autoregressive/config.json", "autoregressive/model.safetensors",
    } - {"tokenizer/README.md"}  # fmt: skip
    assert capsys.readouterr().err == f"hf://some/thing@{COMMIT}: 3.5 MB to download in 7 files\n"


def test_a_model_is_two_files(remote: Hub) -> None:
    save_bundle(remote.folder / "bundle")
    for file in (remote.folder / "bundle" / "tokenizer").iterdir():
        file.rename(remote.folder / file.name)
    model = ImageTokenizer.from_pretrained("hf://some/thing", dtype=torch.float32)
    assert model.config.quantizer.size == 20
    assert remote.asked[0]["allow_patterns"] == ["config.json", "model.safetensors"]


def test_a_part_of_a_bundle_may_be_on_the_hub(remote: Hub, tmp_path: Path) -> None:
    """Its files are links into the Hub's cache."""
    made, blobs = save_bundle(tmp_path / "made"), tmp_path / "blobs"
    shutil.move(made / "tokenizer", blobs)
    for file in blobs.iterdir():
        (remote.folder / file.name).symlink_to(file)
    parts = {"text": made / "text", "tokenizer": Path("hf://some/thing"), "out": tmp_path / "out"}
    assemble(BundleOptions(**parts, backend=[f"autoregressive={made / 'autoregressive'}"]))
    copies = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert len(copies) == 8
    assert not any(file.is_symlink() for file in copies)
    assert load(tmp_path / "out").generate(["a fox"])


def test_a_text_tokenizer_is_two_files(remote: Hub, tmp_path: Path) -> None:
    there = save_bundle(tmp_path / "made") / "text"
    for file in there.iterdir():
        shutil.copy(file, remote.folder)
    assert TextTokenizer.from_pretrained("hf://some/thing").text_id == TextTokenizer.from_pretrained(there).text_id


def test_a_data_set_is_pinned_and_its_pictures_come_from_any_depth(
    remote: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (remote.folder / "data").mkdir()
    for name in ("README.md", "loader.py", "data/tool.py"):
        (remote.folder / name).touch()
    for i in range(3):
        Image.new("RGB", (16, 16), (i, 0, 0)).save(remote.folder / "data" / f"{i}{('.png', '.PNG')[i % 2]}")
        (remote.folder / "data" / f"{i}.txt").write_text(f"number {i}")
    pictures = open_source(f"hf://datasets/some/thing@{COMMIT}", size=16, cache=tmp_path / "cache")
    assert (len(pictures), pictures.captions(2), pictures.name) == (3, ("number 2",), "thing-16/all")
    seen, taken = remote.asked[:2]
    assert (seen["repo"], seen["repo_type"], taken["revision"]) == ("some/thing", "dataset", COMMIT)
    assert not any(fnmatch(name, one) for name in ("loader.py", "data/tool.py") for one in taken["allow_patterns"])
    assert f"hf://datasets/some/thing@{COMMIT}: 3.0 MB to download in 6 files" in capsys.readouterr().err
    for wrong in ("hf://some/thing", "hf://datasets/thing", "hf://datasets/a/../b", "hf://datasets/a/b/c"):
        with pytest.raises(BadInput, match="must be hf://datasets/owner/name, or"):
            open_source(wrong, size=16, cache=tmp_path / "cache")


def test_without_a_network_the_cache_is_used(remote: Hub) -> None:
    save_bundle(remote.folder)
    remote.online = False
    assert load("hf://some/thing").source == f"hf://some/thing@{COMMIT}"
    assert remote.asked[-1]["local_files_only"]


def test_what_the_hub_does_not_have_is_refused(remote: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput) as error:
        load("hf://some/other")
    assert str(error.value).startswith("hf://some/other: cannot be downloaded from the Hub (404 Client Error.")
    with pytest.raises(BadInput, match=r"hf://some/thing: has none of bundle.json"):
        load("hf://some/thing")

    def gone(*_: Any, **asked: Any) -> None:
        raise DryRunError("x") if asked.get("dry_run") else LocalEntryNotFoundError("not here\neither")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", gone)
    with pytest.raises(BadInput, match=r"cannot be downloaded from the Hub \(not here\)"):
        load("hf://some/thing")


def test_a_run_that_starts_from_the_hub_gets_the_record_too(remote: Hub, tmp_path: Path) -> None:
    """The record was looked for in a folder `hf:`, so the cost of the first training was missing."""
    (remote.folder / "model.safetensors").write_bytes(b"1")
    before = {"steps": 1, "batch_size": 1, "data": "photos", "figures": {}, "flops": 7.0}
    (remote.folder / "training.json").write_text(json.dumps(before))
    run = RunFolder(TrainingConfig(data="d", out=str(tmp_path / "run"), steps=1, init=Path("hf://some/thing")))
    run.open({})
    assert run.init_record == before
    assert remote.asked[-1]["allow_patterns"] == ["model.safetensors", "training.json"]


def test_a_text_encoder_from_the_hub_is_pinned_and_named(remote: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    from tiny_models import text_tokenizer

    save_text_encoder(remote.folder)
    (remote.folder / "modeling_stranger.py").write_text("raise SystemExit")
    settings, _ = resolve_text_config(TextConfig(kind="transformers", source="hf://some/thing"), text_tokenizer())
    assert settings.source == f"hf://some/thing@{COMMIT}"
    assert f"captions are read by hf://some/thing@{COMMIT}, a model of transformers" in capsys.readouterr().err
    transformers_encoder(settings.source)
    assert "captions are read" not in capsys.readouterr().err
    allowed = remote.asked[0]["allow_patterns"]
    assert not any(fnmatch(name, one) for one in allowed for name in ("modeling_stranger.py", "pytorch_model.bin"))
    assert remote.asked[0]["ignore_patterns"] == ["*/*"]
    assert {asked["revision"] for asked in remote.asked[1:]} == {COMMIT}


@pytest.mark.parametrize("kind", ["text", "clip"])
@pytest.mark.parametrize("damage", ["code", "pickle", "json"])
def test_a_foreign_encoder_runs_no_code(kind: str, damage: str, tmp_path: Path) -> None:
    """The library offered to run code from the folder, or loaded a pickle."""
    save_text_encoder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "modeling_stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass X: pass\n")
    if damage == "code":
        of_stranger = dict.fromkeys(("AutoConfig", "AutoModel", "AutoTokenizer"), "modeling_stranger.X")
        config |= {"model_type": "stranger", "auto_map": of_stranger}
    elif damage == "pickle":
        torch.save({}, tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / "config.json").write_text("{" if damage == "json" else json.dumps(config))
    with pytest.raises(BadInput, match="of transformers"):
        LOADERS[kind](str(tmp_path))
    assert not (tmp_path / "ran").exists()
