"""Encodes a corpus once: `python -m tokenizer.encode --model RUN/model --data emoji --out FOLDER`.

The token model is trained on codes, the diffusion model on latents (`--latents true`).

`accelerate launch -m tokenizer.encode ...` divides the work among processes. If it is stopped or killed, run the same
command again: it continues where it stopped.

`FOLDER/origin.json` says what they are of, so that those of other pictures are not replaced by mistake.
"""

import atexit
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from data.captioned import CaptionedImages
from data.codes import CodesInfo
from data.latents import LatentsInfo
from data.source import identity, open_source
from data.store import HEAD, Store
from data.store_writer import Part, Text, begin, finish, part_of, require_free
from tokenizer.augment import move, random_moves
from tokenizer.image_tokenizer import ImageTokenizer
from training.cli import command
from training.config import require
from training.device import with_device
from training.errors import BadInput
from training.files import locked, remove, write_json
from training.processes import require_joined, set_up_cpu
from training.run import RunFolder
from training.strict_json import read_json

SPLITS = ("train", "validation")
_ORIGIN = "origin.json"
_SKETCHED = 64
"""Pictures of a split that a dry run encodes."""

Encode = Callable[[Tensor, Tensor], Tensor]
"""Makes of pictures uint8 (B, 3, H, W), and their heights in widths (B,), what a store keeps of them, (B, ...)."""


@dataclass(kw_only=True)
class EncodeOptions:
    """Writes a store of codes, or of latents, for each split: `OUT/train`, `OUT/validation`.

    Trainers do it themselves. Several that are to learn from the same pictures need not do it again each.
    """

    presets: ClassVar = "encode"

    model: Path
    """Image tokenizer: a model folder or `hf://owner/name`."""
    out: Path
    """Folder to write. What is there is kept if nothing has changed. It is replaced if the pictures of the
    source, the weights of the tokenizer or other options have; but not by that of another source or tokenizer."""
    data: str = "emoji"
    """`emoji`, `scenes`, or your own pictures: a folder, a parquet or tar file, `labels:FOLDER`, or
    `hf://datasets/owner/name`. Several are joined by `+`."""
    latents: bool = False
    """Write latents, on which the diffusion model is trained, instead of codes."""
    views: int = 4
    """Views of each training picture: the picture itself, and small shifts and zooms of it. Other splits have one."""
    batch_size: int = 64
    """Pictures to encode at a time."""
    limit: int | None = None
    """Encode at most this many pictures of each split."""
    seed: int = 0
    """Seed of the shifts and zooms."""
    strict: bool = False
    """Stop at an unreadable picture. Otherwise it is skipped and listed."""
    cache: Path | None = None
    """Folder for prepared pictures; by default the user's cache folder."""
    device: str = "auto"
    """Device to encode on: `auto` (a GPU if there is one), `cpu`, `cuda`, `mps`, or another of torch's."""

    def __post_init__(self) -> None:
        for name in ("views", "batch_size"):
            require(self, name, getattr(self, name) >= 1, "1 or more")
        require(self, "seed", 0 <= self.seed < 2**31, "from 0 to 2147483647")


@dataclass(frozen=True, kw_only=True)
class PlannedStore:
    """A store that is to be written: its folder, its description and its pictures."""

    folder: Path
    info: Any
    """The description of the store (`data.store.Info`), with the number of `views` and their `seed`."""
    pictures: CaptionedImages

    @property
    def is_complete(self) -> bool:
        """Whether the folder already holds this store."""
        try:
            return Store(self.folder, type(self.info)).info == self.info
        except BadInput:  # the store is missing or damaged
            return False


def main(options: EncodeOptions) -> None:
    """Encode the training and validation splits."""
    options = with_device(options)
    state = PartialState(cpu=options.device == "cpu")
    require_joined(state.num_processes)
    set_up_cpu()
    model = ImageTokenizer.from_pretrained(options.model, device=options.device)
    if not options.latents:
        model.require_codes()
    plan, encode = (plan_latents, latents_of) if options.latents else (plan_codes, codes_with_eos)
    wanted = plan(model, options)
    with locked(options.out) if state.is_main_process else nullcontext():
        if state.is_main_process:
            _claim(wanted, options)
        missing = [one for one in wanted if not one.is_complete]
        encode_distributed(missing, encode(model), model.latent_mean.device, options.batch_size)
    if state.is_main_process:
        for one in wanted:
            print(f"{len(one.pictures)} pictures x {one.info.views} views are in {one.folder}")


def _claim(wanted: Sequence[PlannedStore], options: EncodeOptions) -> None:
    """Write down what the stores are of. Raises `BadInput` if the folder holds some of another source or tokenizer."""
    data, tokenizer, kind = identity(options.data), identity(str(options.model)), wanted[0].info.kind
    its_id = f"{kind}_id"
    here = {
        "data": data["source"], "data_id": data["id"], "tokenizer": tokenizer["source"],
        "tokenizer_id": tokenizer["id"], its_id: getattr(wanted[0].info, its_id),
    }  # fmt: skip
    for one in wanted:
        require_free(one.folder)
    file = options.out / _ORIGIN
    there = read_json(file) if file.exists() else _recorded(wanted) or here
    if its_id not in there:
        raise BadInput(f"{file}: is there already and does not say what {kind} are of; choose another --out")
    if not any(path.exists() for one in wanted for path in (one.folder, part_of(one.folder))):
        there = here  # what it is of was deleted
    if there.get("data_id", here["data_id"]) != here["data_id"]:
        raise BadInput(
            f"{options.out}: holds {kind} of {there.get('data')!r}, which is another source than {options.data!r}; "
            "choose another --out"
        )
    if there[its_id] != here[its_id] and there.get("tokenizer_id") != here["tokenizer_id"]:
        raise BadInput(
            f"{options.out}: holds {kind} of image tokenizer {there[its_id]}, but {options.model} is {here[its_id]}, "
            "which is another one; choose another --out"
        )
    write_json(file, here)


def _recorded(wanted: Sequence[PlannedStore]) -> dict[str, Any]:
    """What stores of codes themselves say, for those of an older version: nothing of where pictures and tokenizer
    are."""
    info = next((Store(one.folder, type(one.info)).info for one in wanted if (one.folder / HEAD).is_file()), None)
    return {"data": info.source, "codes_id": info.codes_id} if info else {}


def codes_with_eos(model: ImageTokenizer) -> Encode:
    """Encode pictures with `model`, and replace the codes below each picture's last row by EOS."""

    def encode(images: Tensor, heights: Tensor) -> Tensor:
        codes = model.encode(images)
        rows = torch.arange(codes.shape[1], device=codes.device)
        below = rows >= (heights.to(codes.device) * len(rows)).ceil()[:, None]
        return codes.masked_fill(below[:, :, None], model.codebook_size)

    return encode


def latents_of(model: ImageTokenizer) -> Encode:
    """Encode pictures with `model`."""
    return lambda images, _: model.latents(images)


def plan_codes(model: ImageTokenizer, options: EncodeOptions) -> list[PlannedStore]:
    """Plan the stores of codes of both splits."""

    def info(pictures: CaptionedImages, views: int) -> CodesInfo:
        return CodesInfo(
            codes_id=model.codes_id, codebook_size=model.codebook_size, rows=model.config.grid,
            columns=model.columns, views=views, seed=options.seed, source=pictures.name,
            fingerprint=pictures.fingerprint,
        )  # fmt: skip

    return _plan_stores(options, model.config.image_size, info)


def plan_latents(model: ImageTokenizer, options: EncodeOptions) -> list[PlannedStore]:
    """Plan the stores of latents of both splits."""

    def info(pictures: CaptionedImages, views: int) -> LatentsInfo:
        return LatentsInfo(
            latents_id=model.latents_id, fingerprint=pictures.fingerprint, channels=model.config.quantizer.dim,
            grid=model.config.grid, views=views, seed=options.seed,
        )  # fmt: skip

    return _plan_stores(options, model.config.image_size, info)


def _plan_stores(options: EncodeOptions, size: int, info: Callable[[CaptionedImages, int], Any]) -> list[PlannedStore]:
    """Plan a store for each split. `info` makes its description from the pictures, (size x size), and their views."""
    plan = []
    for split, views in zip(SPLITS, (options.views, 1), strict=True):
        pictures = open_source(
            options.data, size=size, split=split, cache=options.cache, strict=options.strict, limit=options.limit
        )
        plan.append(PlannedStore(folder=options.out / split, info=info(pictures, views), pictures=pictures))
    return plan


def encode_for_run(run: RunFolder, plan: Sequence[PlannedStore], encode: Encode, device: torch.device) -> list[Path]:
    """Write those stores of a run that are not complete yet; return the folders of all. Raises `BadInput` where the run
    began with other data.

    A dry run writes nothing into the run folder: it encodes a few pictures into a temporary one.
    """
    if run.config.dry_run:
        return [one.folder if one.is_complete else _sketch(one, encode, device) for one in plan]
    if PartialState().is_main_process:
        run.lock()
        run.require_data({one.folder.name: one.info.origin for one in plan})
    encode_distributed([one for one in plan if not one.is_complete], encode, device)
    return [one.folder for one in plan]


def _sketch(one: PlannedStore, encode: Encode, device: torch.device) -> Path:
    """Write a store of the first pictures, which is deleted when the process ends; return its folder."""
    rows = range(min(_SKETCHED, len(one.pictures)))
    home = Path(tempfile.mkdtemp(prefix="tessera-"))
    atexit.register(remove, home)
    folder = home / one.folder.name
    begin(folder, one.info, _texts(one.pictures, rows))
    with Part(folder, one.info) as part:
        part.write(0, **_values(one, rows, encode, device))
    finish(folder, one.info)
    if PartialState().is_main_process:
        print(f"# {one.pictures.name}: {len(one.pictures)} pictures, of which a dry run encodes {len(rows)}")
    return folder


def encode_distributed(
    wanted: Sequence[PlannedStore], encode: Encode, device: torch.device, batch_size: int = 64
) -> None:
    """Write stores. Every process of the launcher must call it, and encodes its share of the batches.

    If a process dies, the next run encodes what is missing. Raises `BadInput` where a folder holds something other than
    a store.

    Args:
        wanted: the stores to write. Each has one array.
        encode: pictures uint8 (B, 3, H, W) on `device`, and their heights in widths (B,), above 0 to 1 -> the array's
            values for them, (B, ...).
        device: device that pictures are moved to.
        batch_size: pictures to encode at a time.
    """
    state = PartialState()
    if state.is_main_process:
        for one in wanted:
            begin(one.folder, one.info, _texts(one.pictures, range(len(one.pictures))))
    state.wait_for_everyone()
    for one in wanted:
        _encode_share(one, encode, device, batch_size, state)
    state.wait_for_everyone()
    if state.is_main_process:
        for one in wanted:
            finish(one.folder, one.info)
    state.wait_for_everyone()


def _encode_share(
    one: PlannedStore, encode: Encode, device: torch.device, batch_size: int, state: PartialState
) -> None:
    starts = range(0, len(one.pictures), batch_size)
    with Part(one.folder, one.info) as part:
        missing = np.zeros(len(one.pictures), bool)
        missing[part.missing()] = True
        show = state.is_main_process
        for number, start in enumerate(tqdm(starts, f"encoding {one.pictures.name}", unit="batch", disable=not show)):
            rows = range(start, min(start + batch_size, len(one.pictures)))
            if number % state.num_processes != state.process_index or not missing[rows].any():
                continue
            part.write(start, **_values(one, rows, encode, device))


def _texts(pictures: CaptionedImages, rows: Sequence[int]) -> list[Text]:
    return [(pictures.key(i), pictures.group(i), pictures.captions(i)) for i in rows]


def _values(one: PlannedStore, rows: Sequence[int], encode: Encode, device: torch.device) -> dict[str, NDArray[Any]]:
    """The array of a store by its name, for the pictures in `rows`: (rows, views, ...)."""
    (name,) = one.info.arrays
    images = torch.stack([one.pictures[i] for i in rows])
    heights = torch.tensor([one.pictures.height(i) for i in rows])
    moves = (_moves(one.info.seed, rows, view) for view in range(1, one.info.views))
    seen = [images, *(move(images, *its) for its in moves)]
    return {name: torch.stack([encode(view.to(device), heights).cpu() for view in seen], dim=1).numpy()}


def _moves(seed: int, rows: Sequence[int], view: int) -> tuple[Tensor, Tensor]:
    """The zooms and shifts of one view of the pictures in `rows`, as `random_moves` returns them.

    Each depends on the seed, the row and the view only, so batches and processes may be divided in any way.
    """
    states = [np.random.SeedSequence((seed, row, view)).generate_state(1, np.uint64) for row in rows]
    each = [random_moves(1, torch.Generator().manual_seed(int(state[0]))) for state in states]
    scales, offsets = zip(*each, strict=True)
    return torch.cat(scales), torch.cat(offsets)


if __name__ == "__main__":
    command(main, EncodeOptions)
