"""The training loop, shared by every trainer."""

import contextlib
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from training import checkpoint, ema
from training.config import flat, to_dict
from training.errors import BadInput
from training.files import atomic, write_json
from training.muon import Muon
from training.options import OptimizerConfig, TrainingConfig
from training.order import batch_indices
from training.precision import has_bf16
from training.processes import Signals, require_joined, share_cores
from training.record import FILE, flop_counter, record
from training.run import RunFolder
from training.schedule import learning_rate
from training.trackers import require_trackers

Batch = dict[str, Tensor]
MakeBatch = Callable[[NDArray[np.int64], torch.Generator], Batch]
Loss = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]]


def accelerator_for(config: TrainingConfig) -> Accelerator:
    """The `Accelerator` of a run, with threads set to cores / processes. Create it before any model."""
    has_accelerator = torch.accelerator.is_available()
    precision: str = config.precision
    if precision == "auto":
        device = torch.accelerator.current_accelerator() if has_accelerator else None
        precision = "bf16" if has_bf16(device.type if device else "cpu") else "no"
    require_trackers(config.trackers)
    accelerator = Accelerator(
        mixed_precision=precision, cpu=not has_accelerator,
        log_with=config.trackers or None, project_dir=config.out,
    )  # fmt: skip
    require_joined(accelerator.num_processes)
    share_cores()
    parts = accelerator.num_processes * config.accumulation
    if config.batch_size % parts:
        raise BadInput(
            f"batch_size {config.batch_size} does not divide into {accelerator.num_processes} processes "
            f"times {config.accumulation} accumulation steps: give a multiple of {parts}"
        )
    set_seed(config.seed)
    return accelerator


def train(
    accelerator: Accelerator,
    run: RunFolder,
    model: nn.Module,
    *,
    data: dict[str, Any],
    count: int,
    make_batch: MakeBatch,
    loss: Loss,
    evaluate: Callable[[Any, Path], dict[str, float]],
    export: Callable[[Any, Path], None],
    tokens: int,
) -> bool:
    """Trains `model` for `run.config.steps` steps, resuming whatever the folder of `run` holds.

    Everything random in a step is a function of (seed, step, process), so a resumed run repeats a straight one.
    Ctrl-C and SIGTERM save a checkpoint after the running step, then raise `KeyboardInterrupt`.

    Args:
        data: what tells the examples from others; only a run on the same is resumed.
        count: number of training examples.
        make_batch: (indices, generator) -> tensors of one forward pass; the generator is its only randomness.
        loss: (model, batch) -> scalar to minimise, and scalars to log.
        evaluate: (averaged model, file) draws a PNG of what the model can do, returns figures to log.
        export: (averaged model, folder) writes the finished model.
        tokens: image tokens an example, for the log's tokens/s.

    Returns:
        Whether the run is complete: False after a dry run.
    """
    config = run.config
    if config.dry_run:
        _describe(config, model, make_batch, count)
        return False
    main = accelerator.is_main_process
    if main:
        run.open(data)
    average = ema.averaged_copy(model).to(accelerator.device)
    model, optimizer = accelerator.prepare(model, _optimizer(model, config.optimizer))
    start = checkpoint.restore(run.checkpoints, model, average, optimizer)
    if main:
        run.rewind_log(start)
        if (before := run.precision_before()) not in (None, accelerator.mixed_precision):
            print(f"goes on from step {start} in precision {accelerator.mixed_precision}, {before} before")
    accelerator.init_trackers("tessera", flat(to_dict(config)))
    flops, parts = run.flops_a_step() if main else None, accelerator.num_processes * config.accumulation
    counter = flop_counter()
    norms: list[Tensor] = []
    meter = _Meter(accelerator, config.batch_size / config.accumulation, tokens)
    bar = tqdm(range(start, config.steps), initial=start, total=config.steps, disable=not main, unit="step")
    model.train()

    signals = Signals(accelerator)
    with signals.heard(), _batches(accelerator, config, make_batch, count, start) as batches:
        for step in bar:
            set_seed(config.seed + 7919 * (step * accelerator.num_processes + accelerator.process_index) & 0x7FFFFFFF)
            rate = _set_learning_rate(optimizer, step, config)
            for micro in range(config.accumulation):
                last = micro == config.accumulation - 1
                # in a run's first step alone: counted operators round otherwise, which would tell a resumed run
                counting = _counted(counter) if step == 0 and last else contextlib.nullcontext()
                with contextlib.nullcontext() if last else accelerator.no_sync(model), counting:
                    value, scalars = loss(model, _to(next(batches), accelerator.device))
                    accelerator.backward(value / config.accumulation)
                meter.add(value, scalars)
            norms.append(accelerator.clip_grad_norm_(model.parameters(), config.optimizer.clip))
            optimizer.step()
            optimizer.zero_grad()
            ema.update(average, accelerator.unwrap_model(model), step, config.ema_decay)

            done = step + 1
            stop, paused = signals.agreed()
            meter.leave_out(paused)
            save = done % config.checkpoint_every == 0 or done == config.steps or stop
            if done % config.log_every == 0 or save:  # at each save, so that a resumed run logs the same means
                means = meter.read()
                if main:
                    batch = _batch_id(config, step, count)
                    _log(
                        accelerator, run, done,
                        {**means, "learning_rate": rate, "grad_norm": float(norms[-1]), "batch": batch,
                         "precision": accelerator.mixed_precision,
                         "flops": done * (flops or parts * counter.get_total_flops())},
                    )  # fmt: skip
                bar.set_postfix_str(f"loss {means['loss']:.4f}")
                steepest = np.max([float(norm) for norm in norms])  # finite losses may come of weights partly nan
                norms.clear()
                if not np.isfinite([means["loss"], steepest]).all():
                    raise BadInput(
                        f"by step {done} the loss is {means['loss']} and the largest gradient's norm {steepest}: "
                        "begin the run anew in another --out with a lower optimizer.learning_rate"
                    )
            if main and config.sample_every and (done % config.sample_every == 0 or done == config.steps):
                with atomic(run.samples / f"step-{done:08d}.png") as file:
                    figures = evaluate(average, file)
                _log(accelerator, run, done, figures)
                meter.restart_clock()
            if save:  # last, so that a kill before has the step done again, and nothing of it is missing
                checkpoint.save(run.checkpoints, done, model, average, optimizer, write=main)
            if stop:
                bar.close()
                accelerator.print(f"stopped after step {done}; give the same command again to resume")
                accelerator.wait_for_everyone()  # an exit code other than 0 makes the launcher stop the others
                accelerator.end_training()
                raise KeyboardInterrupt
    if main:
        with atomic(run.model) as folder:
            export(average, folder)
            write_json(folder / FILE, record(config, run.command, run.log_file, accelerator.device))
        print(f"trained {config.steps} steps; the model is in {run.model}")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return True


@contextlib.contextmanager
def _counted(counter: contextlib.AbstractContextManager[object]) -> Iterator[None]:
    """Operators can be counted only where they run one by one: a model to be compiled is not, meanwhile."""
    with torch.compiler.set_stance("force_eager"), counter:
        yield


def _log(accelerator: Accelerator, run: RunFolder, step: int, values: dict[str, Any]) -> None:
    run.log({"step": step, **values})
    accelerator.log(values, step=step)


def _optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    turned = [
        p for name, p in trained.items()
        if config.muon_learning_rate and p.ndim == 2 and "blocks." in name and name.endswith(".weight")
    ]  # fmt: skip
    inner = {id(p) for p in turned}
    others = [p for p in trained.values() if id(p) not in inner]
    decay, adamw, muon = config.weight_decay, config.learning_rate, config.muon_learning_rate
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": decay, "lr": adamw, "peak": adamw},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0, "lr": adamw, "peak": adamw},
    ]
    betas = (config.beta1, config.beta2)
    if not turned:
        return torch.optim.AdamW(groups, betas=betas, fused=True)
    groups.append({"params": turned, "weight_decay": decay, "lr": muon, "peak": muon, "muon": True})
    return Muon(groups, betas=betas, fused=True)


def _set_learning_rate(optimizer: torch.optim.Optimizer, step: int, config: TrainingConfig) -> float:
    options = config.optimizer
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(
            step, peak=group["peak"], warmup=options.warmup, total=config.steps, floor=options.floor
        )
    return float(optimizer.param_groups[0]["lr"])


class _MicroBatches(Dataset[Batch]):
    """The batches of one process, indexed by the number of the forward pass since the start of the run."""

    def __init__(self, accelerator: Accelerator, config: TrainingConfig, make_batch: MakeBatch, count: int) -> None:
        self._parts = accelerator.num_processes * config.accumulation
        self._rank, self._accumulation = accelerator.process_index, config.accumulation
        self._batch_size, self._seed = config.batch_size, config.seed
        self._make_batch, self._count = make_batch, count

    def __getitem__(self, index: int) -> Batch:
        step, micro = divmod(index, self._accumulation)
        indices = batch_indices(step, count=self._count, batch_size=self._batch_size, seed=self._seed)
        part = self._rank * self._accumulation + micro
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + step) * self._parts + part)
        return self._make_batch(np.split(indices, self._parts)[part], generator)


@contextlib.contextmanager
def _batches(
    accelerator: Accelerator, config: TrainingConfig, make_batch: MakeBatch, count: int, start: int
) -> Iterator[Iterator[Batch]]:
    """The batches of this process from step `start` on."""
    passes = range(start * config.accumulation, config.steps * config.accumulation)
    loader = DataLoader(
        _MicroBatches(accelerator, config, make_batch, count),
        batch_size=None,
        sampler=passes,
        num_workers=config.workers,
        pin_memory=accelerator.device.type == "cuda",
        worker_init_fn=_leave_signals_to_the_trainer,
    )
    batches = iter(loader)
    try:
        yield batches
    finally:
        if config.workers:  # a traceback keeps them, and Python would wait for ever for them to heed its SIGTERM
            batches._shutdown_workers()  # type: ignore[attr-defined]


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C and a SIGTERM to all of a job reach the workers too, but the trainer needs them to finish its step."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _batch_id(config: TrainingConfig, step: int, count: int) -> str:
    """A checksum of the indices of a step's batch: two runs that log the same one saw the same pictures."""
    indices = batch_indices(step, count=count, batch_size=config.batch_size, seed=config.seed)
    return f"{zlib.crc32(indices.tobytes()):08x}"


def _to(batch: Batch, device: torch.device) -> Batch:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


class _Meter:
    """Means of what is logged since the last reading, over all processes, and speed."""

    def __init__(self, accelerator: Accelerator, images_per_pass: float, tokens: int) -> None:
        self._accelerator, self._images_per_pass, self._tokens = accelerator, images_per_pass, tokens
        self._sums: dict[str, Tensor] = {}
        self._passes = 0
        self.restart_clock()

    def add(self, loss: Tensor, scalars: Mapping[str, Tensor]) -> None:
        for name, value in {"loss": loss, **scalars}.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().float()
        self._passes += 1

    def read(self) -> dict[str, float]:
        means = self._accelerator.reduce(torch.stack([*self._sums.values()]) / self._passes, "mean").tolist()
        speed = self._passes * self._images_per_pass / (time.perf_counter() - self._clock)
        values = dict(zip(self._sums, means, strict=True))
        self._sums, self._passes = {}, 0
        self.restart_clock()
        return {**values, "images_per_second": speed, "tokens_per_second": speed * self._tokens}

    def leave_out(self, seconds: float) -> None:
        """Of the time since the last reading."""
        self._clock += seconds

    def restart_clock(self) -> None:
        self._clock = time.perf_counter()


def _describe(config: TrainingConfig, model: nn.Module, make_batch: MakeBatch, count: int) -> None:
    """What `--dry_run` prints."""
    import yaml

    indices = batch_indices(0, count=count, batch_size=config.batch_size, seed=config.seed)
    batch = make_batch(indices, torch.Generator().manual_seed(config.seed))
    shapes = ", ".join(f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in batch.items())
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(yaml.safe_dump(to_dict(config), sort_keys=False), end="")
    print(f"# {parameters / 1e6:.1f} M parameters, {count} examples, a batch: {shapes}")
