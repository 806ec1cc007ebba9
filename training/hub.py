"""Access to the Hugging Face Hub. Only paths that begin with `hf://` reach it; all others are local folders."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HUB_CACHE

from training.errors import BadInput, reason

_FORM = re.compile(r"hf://?(?P<data>datasets/)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
"""Matches one slash after `hf:` too: `Path` drops the second."""

TRANSFORMERS_FILES = ("*.json", "*.model", "*.safetensors", "*.txt")
"""The files of a `transformers` model: data only, no code and no pickles."""

SAFELY: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Arguments for every `from_pretrained` of `transformers` on a folder from `fetched`: no network, no code from
outside."""


def fetched(path: str | Path, files: Sequence[str], *, download: bool = True, data: bool = False) -> tuple[Path, str]:
    """The folder of a model, downloaded first if `path` is `hf://owner/name` or `hf://owner/name@commit`.

    Args:
        path: a folder, or a model on the Hub. A tag may stand for the commit.
        files: names or patterns of the files to download. Patterns match in the top folder only, unless `data` is set.
        download: if False, the model must be in the Hub's cache already. For models that another model names:
            loading a model must not download others.
        data: `path` names a data set, `hf://datasets/owner/name`.

    Returns:
        The folder, and a name for its content: `hf://owner/name@commit` (always with the commit), or the folder.

    Raises:
        BadInput: there is no such folder, model or commit, or one of the files is a link to outside the folder.
    """
    if not str(path).startswith("hf:/"):
        if not Path(path).is_dir():
            raise BadInput(f"{path}: no such folder; a model on the Hub is given as hf://owner/name")
        _refuse_links_outside(Path(path), files)
        return Path(path), str(path)
    return _fetched_from_hub(str(path), files, download, data)


def identity(value: object) -> object:
    """What an option's value means wherever its file lies: the hash of weights, `PATH@sha256:HASH`, else the value."""
    return value.rpartition("@")[2] if isinstance(value, str) and "@sha256:" in value else value


def _fetched_from_hub(path: str, files: Sequence[str], download: bool, data: bool) -> tuple[Path, str]:
    """What `fetched` returns for a path on the Hub."""
    from huggingface_hub import snapshot_download  # loads an HTTP client
    from huggingface_hub.errors import DryRunError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    form = _FORM.fullmatch(path)
    if form is None or bool(form["data"]) != data:
        shown = "hf://datasets/owner/name" if data else "hf://owner/name"
        raise BadInput(f"{path}: must be {shown}, or {shown}@commit")
    below = data or any("/" in name for name in files)
    wanted: dict[str, Any] = {"allow_patterns": [*files], "ignore_patterns": None if below else ["*/*"]}
    wanted |= {"repo_type": "dataset"} if data else {}
    repo, revision, name = form["repo"], form["revision"], f"hf://{form['data'] or ''}{form['repo']}"
    if not download:
        try:
            return Path(snapshot_download(repo, revision=revision, local_files_only=True, **wanted)), path
        except (HfHubHTTPError, HFValidationError, OSError):
            fetch = f"hf download {repo}{f' --revision {revision}' if revision else ''}"
            raise BadInput(f"{path}: a model needs it; check that you trust it, then download it: {fetch}") from None
    try:
        try:
            listed = snapshot_download(repo, revision=revision, dry_run=True, **wanted)
        except DryRunError:  # the Hub cannot be reached; use the cache
            folder = Path(snapshot_download(repo, revision=revision, local_files_only=True, **wanted))
            return folder, f"{name}@{folder.name}"
        if not listed:
            raise BadInput(f"{path}: has none of {', '.join(files)}")
        commit = listed[0].commit_hash
        missing = [file for file in listed if file.will_download]
        size = sum(file.file_size or 0 for file in missing)
        print(f"{name}@{commit}: {size / 1e6:.1f} MB to download in {len(missing)} files", file=sys.stderr)
        return Path(snapshot_download(repo, revision=commit, **wanted)), f"{name}@{commit}"
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        raise BadInput(f"{path}: cannot be downloaded from the Hub ({reason(error)})") from None


def _refuse_links_outside(folder: Path, files: Sequence[str]) -> None:
    """Raises `BadInput` if a file of a model is a link to outside its folder. Links into the Hub's cache are
    allowed."""
    homes = (folder.resolve(), Path(HF_HUB_CACHE).resolve())
    for file in (file for name in files for file in folder.glob(name)):
        if not any(file.resolve().is_relative_to(home) for home in homes):
            raise BadInput(f"{file}: is a link to a file outside of {folder}; put a copy in its place")


def load_complete(kind: Any, folder: Path) -> Any:
    """Loads a model of a `transformers` class from a folder.

    Raises:
        ValueError: a weight is missing, which `transformers` would fill with random numbers.
    """
    model, found = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **SAFELY)
    missing = sorted(name for name in found["missing_keys"] if "pooler" not in name)  # the pooler is not used here
    if missing:
        raise ValueError(f"its weights lack {missing[0]}")
    return model
