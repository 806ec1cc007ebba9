"""Presets by name: the YAML files in `configs/`, which each command knows by the names of those in its folder."""

import difflib
from pathlib import Path

from training.errors import BadInput

_CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def presets(config: type) -> list[str]:
    """The names that `--config` knows for this config: of the YAML files in its folder of `configs/`."""
    folder = getattr(config, "presets", None)
    return sorted(file.stem for file in (_CONFIGS / folder).glob("*.yaml")) if folder else []


def preset(config: type, given: str) -> Path:
    """The YAML file of a path or a name; a file that is there wins. Raises `BadInput` with the names there are."""
    file, names = Path(given), presets(config)
    if file.is_file() or (file.exists() and given not in names):
        return file
    if given in names:
        return _CONFIGS / config.presets / f"{given}.yaml"  # type: ignore[attr-defined]
    near = difflib.get_close_matches(file.stem, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; presets are {', '.join(names)}" if names else ""
    raise BadInput(f"--config {given}: no such file{hint}")
