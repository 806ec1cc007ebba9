"""The training loop of all tasks."""

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env, set_seed
from torch import nn
from tqdm import tqdm

from training import checkpoint, ema
from training.batches import Batch, Data, batch_id, batch_indices, batches_from
from training.config import flatten, to_dict
from training.device import usable_device
from training.errors import BadInput
from training.files import atomic, write_json
from training.meter import Meter
from training.options import TrainingConfig
from training.precision import has_bf16
from training.processes import Signals, require_joined, set_up_cpu
from training.record import FILE, flop_counter, record
from training.run import RunFolder
from training.schedule import learning_rate
from training.task import Task, label
from training.trackers import require_trackers


def accelerator_for(config: TrainingConfig) -> Accelerator:
    """The `Accelerator` of a run. Also seeds all generators and shares the cores. Create it before any model.

    Raises:
        BadInput: the device or a tracker is missing, the processes are not joined, or the batch does not divide among
            them.
    """
    device, precision = usable_device(config.device).type, config.precision
    if config.device == "auto" and parse_flag_from_env("ACCELERATE_USE_CPU"):  # of `accelerate launch --cpu`
        device = "cpu"
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "no"
    require_trackers(config.trackers)
    accelerator = Accelerator(
        mixed_precision=precision, cpu=device == "cpu",
        log_with=config.trackers or None, project_dir=config.out,
    )  # fmt: skip
    require_joined(accelerator.num_processes)
    if config.device not in ("auto", accelerator.device.type):
        raise BadInput(
            f"device is {config.device!r}, but Accelerate chose {accelerator.device.type}: give that, or auto"
        )
    set_up_cpu()
    parts = accelerator.num_processes * config.accumulation
    if config.batch_size % parts:
        raise BadInput(
            f"batch_size {config.batch_size} cannot be divided among {accelerator.num_processes} processes "
            f"times {config.accumulation} accumulation steps: give a multiple of {parts}"
        )
    set_seed(config.seed)
    return accelerator


class Trainer:
    """Trains a task for `run.config.steps` steps. If the run folder has a checkpoint, it resumes from there.

    All randomness of a step is a function of (seed, step, process). On a CPU, a resumed run therefore ends with the
    same weights as one that was never stopped. On a GPU they may differ by rounding, as some kernels add in no fixed
    order.
    """

    def __init__(self, task: Task, data: Data, run: RunFolder, accelerator: Accelerator) -> None:
        self.task, self._data, self._run, self._accelerator = task, data, run, accelerator
        self._config, self._is_main = run.config, accelerator.is_main_process
        self._average = ema.averaged_copy(task.modules["model"]).to(accelerator.device)
        self._counter = flop_counter()
        for optimizer in task.optimizers.values():
            for group in optimizer.param_groups:
                group["peak"] = group["lr"]

    def fit(self) -> bool:
        """Trains, then exports the averaged model.

        Ctrl-C and SIGTERM save a checkpoint after the current step, then raise `KeyboardInterrupt`.

        Returns:
            Whether the run is complete. False after a dry run.

        Raises:
            BadInput: the folder holds another run, or a loss or gradient is nan or infinite.
        """
        config = self._config
        if config.dry_run:
            if self._is_main:
                self._print_dry_run()
            return False
        states = self._prepare()
        start = self._resume(states)
        if 1 < config.steps <= config.optimizer.warmup:
            self._accelerator.print(
                f"all {config.steps} steps are warm-up, so the learning rate stays low; "
                f"a lower optimizer.warmup than {config.optimizer.warmup} would learn more"
            )
        self._meter = Meter(self._accelerator, config.batch_size, self.task.tokens)
        steps, signals = range(start, config.steps), Signals(self._accelerator)
        bar = tqdm(steps, initial=start, total=config.steps, disable=not self._is_main, unit="step")
        with signals.caught(), batches_from(start, self._accelerator, config, self._data) as batches:
            for step in bar:
                self._step(step, batches)
                done = step + 1
                stop, paused = signals.poll()
                self._meter.add_step(paused)
                keep = self._is_due(config.keep_every, done)
                save = stop or keep or self._is_due(config.checkpoint_every, done)
                if save or self._is_due(config.log_every, done):  # at each save, so that a resumed run logs the same
                    bar.set_postfix_str(self._log_means(done))
                if self._is_main and self._is_due(config.sample_every, done):
                    self._evaluate(done)
                if keep:
                    # a copy, because `export` may change what it is given
                    self._export(copy.deepcopy(self._average), self._run.averages / f"step-{done:08d}")
                if save:  # last: after an earlier kill the step is repeated, and its log and samples are not lost
                    with self._meter.stopped():
                        checkpoint.save(self._run.checkpoints, done, states, write=self._is_main)
                if stop:
                    bar.close()
                    self._end(f"stopped after step {done}; give the same command again to resume")
                    raise KeyboardInterrupt
        self._export(self._average, self._run.model)
        self._end(f"trained {config.steps} steps; the model is in {self._run.model}")
        return True

    def _prepare(self) -> dict[str, checkpoint.State]:
        """Prepares the run folder, the modules and the optimizers. Returns all that a checkpoint holds, by name."""
        from training.states import ModuleState, OptimizerState

        if self._is_main:
            self._run.open(self._data.origin)
        modules, optimizers = self.task.modules, self.task.optimizers
        prepared = iter(self._accelerator.prepare(*modules.values(), *optimizers.values()))
        modules.update({name: next(prepared) for name in modules})
        optimizers.update({name: next(prepared) for name in optimizers})
        for module in modules.values():
            module.train()
        return {
            **{name: ModuleState(module) for name, module in modules.items()},
            "average": ModuleState(self._average),
            **{label("optimizer", name): OptimizerState(modules[name], one) for name, one in optimizers.items()},
        }

    def _resume(self, states: dict[str, checkpoint.State]) -> int:
        """Loads the last checkpoint, if any. Returns its step."""
        start, now = checkpoint.restore(self._run.checkpoints, states), self._accelerator.mixed_precision
        if self._is_main:
            self._run.rewind_log(start)
            self._flops_before = self._run.flops_per_step()
            if (before := self._run.precision_before()) not in (None, now):
                print(f"resumes from step {start} in precision {now}; it was {before} before")
        self._accelerator.init_trackers("tessera", flatten(to_dict(self._config)))
        return start

    def _is_due(self, every: int, done: int) -> bool:
        """Whether something done every `every` steps (0: never) is due now. It is also due after the last step."""
        return every > 0 and (done % every == 0 or done == self._config.steps)

    def _step(self, step: int, batches: Iterator[Batch]) -> None:
        """One step of every optimizer for which the task yields a loss."""
        accelerator, config, modules = self._accelerator, self._config, self.task.modules
        set_seed(config.seed + 7919 * (step * accelerator.num_processes + accelerator.process_index) & 0x7FFFFFFF)
        self._set_learning_rates(step)
        stepped: dict[str, None] = {}  # an ordered set of optimizers
        for micro in range(config.accumulation):
            last = micro == config.accumulation - 1
            # Count FLOPs only in the first step of a run: counting changes rounding, so a resumed run would differ.
            counting = self._count_flops() if step == 0 and last else contextlib.nullcontext()
            with contextlib.nullcontext() if last else self._no_sync(), counting:
                for loss in self.task.losses(next(batches), step):
                    accelerator.backward(loss.value / config.accumulation, **self._backward_inputs(loss.optimizer))
                    self._meter.add(loss)
                    stepped[loss.optimizer] = None
        for name in stepped:
            norm = accelerator.clip_grad_norm_(modules[name].parameters(), self.task.rules[name].clip)
            self._meter.add_norm(name, norm)
            self.task.optimizers[name].step()
            self.task.optimizers[name].zero_grad()
        ema.update(self._average, accelerator.unwrap_model(modules["model"]), step, config.ema_length)

    def _set_learning_rates(self, step: int) -> None:
        total = self._config.steps
        for name, rule in self.task.rules.items():
            for group in self.task.optimizers[name].param_groups:
                group["lr"] = learning_rate(step, peak=group["peak"], warmup=rule.warmup, total=total, floor=rule.floor)

    def _backward_inputs(self, name: str) -> dict[str, list[nn.Parameter]]:
        """Arguments that limit a backward pass to the parameters of module `name`, if there are several modules.

        A single module needs no limit, and may be sharded: then it computes with tensors that are not its parameters.
        """
        if len(self.task.modules) == 1:
            return {}
        return {"inputs": [p for p in self.task.modules[name].parameters() if p.requires_grad]}

    @contextlib.contextmanager
    def _no_sync(self) -> Iterator[None]:
        """Inside the block, gradients are not averaged over processes."""
        with contextlib.ExitStack() as stack:
            for module in self.task.modules.values():
                stack.enter_context(self._accelerator.no_sync(module))
            yield

    @contextlib.contextmanager
    def _count_flops(self) -> Iterator[None]:
        """Counts floating-point operations in the block. Compiled models run eagerly there, or nothing could be
        counted."""
        with torch.compiler.set_stance("force_eager"), self._counter:
            yield

    def _log_means(self, done: int) -> str:
        """Logs what the meter has collected. Returns the losses as text for the progress bar.

        Raises:
            BadInput: a loss or gradient is nan or infinite, or the task finds that the run should stop.
        """
        means, largest_norms = self._meter.read()
        if self._is_main:
            parts = self._accelerator.num_processes * self._config.accumulation
            self._log(done, {
                **means, "learning_rate": float(self.task.optimizers["model"].param_groups[0]["lr"]),
                "batch": batch_id(done - 1, self._config, self._data), "precision": self._accelerator.mixed_precision,
                "flops": done * (self._flops_before or parts * self._counter.get_total_flops()),
            })  # fmt: skip
        losses = {label("loss", name): (means[label("loss", name)], norm) for name, norm in largest_norms.items()}
        for name, (loss, norm) in losses.items():
            if not np.isfinite([loss, norm]).all():  # losses may be finite although some weights are nan
                raise BadInput(
                    f"by step {done} the {name} is {loss} and the largest gradient norm {norm}: "
                    "start a new run in another --out with a lower optimizer.learning_rate"
                )
        self.task.require_healthy(done, means)
        return ", ".join(f"{name} {loss:.4f}" for name, (loss, _) in losses.items())

    def _evaluate(self, done: int) -> None:
        with self._meter.stopped(), atomic(self._run.samples / f"step-{done:08d}.png") as file:
            figures = self.task.evaluate(self._average, file)
        self._log(done, figures)

    def _log(self, done: int, values: dict[str, Any]) -> None:
        self._run.log({"step": done, **values})
        self._accelerator.log(values, step=done)

    def _export(self, average: nn.Module, to: Path) -> None:
        if self._is_main:
            with self._meter.stopped(), atomic(to) as folder:
                self.task.export(average, folder)
                run, device = self._run, self._accelerator.device
                found = record(self._config, run.command, run.log_file, device, run.init_record)
                write_json(folder / FILE, found)

    def _end(self, message: str) -> None:
        self._accelerator.print(message)
        self._accelerator.wait_for_everyone()  # a process that exits with an error makes the launcher stop the others
        self._accelerator.end_training()

    def _print_dry_run(self) -> None:
        """Prints the config, the size of the model and the shapes of a batch."""
        import yaml

        config, count = self._config, len(self._data)
        indices = batch_indices(0, count=count, batch_size=config.batch_size, seed=config.seed)
        batch = self._data(indices, torch.Generator().manual_seed(config.seed))
        shapes = ", ".join(f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in batch.items())
        weights = [p.numel() for one in self.task.modules.values() for p in one.parameters() if p.requires_grad]
        print(yaml.safe_dump(to_dict(config), sort_keys=False), end="")
        print(f"# {sum(weights) / 1e6:.1f} M parameters, {count} examples, a batch: {shapes}")
