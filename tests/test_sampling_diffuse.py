"""The diffusion sampler: with a denoiser known in closed form, every scheduler draws from the right distribution."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers import scheduling_ddpm
from PIL import Image
from tiny_models import IMAGES, add_diffusion, diffusion_model, save_bundle, text_tokenizer
from torch import Tensor

from diffusion.model import DiffusionModel
from diffusion.process import Process, ProcessConfig
from sampling import DiffusionOptions, SamplingOptions, Start, load
from sampling.diffuse import (
    Denoise,
    denoiser,
    interpolated_denoiser,
    interpolated_noise,
    sample,
    seeded_noise,
    thresholded,
)
from sampling.generate import GenerateOptions
from sampling.generate import main as generate
from sampling.noise import gaussian, gumbel
from sampling.schedulers import Estimate, Noise, solver_for
from tokenizer.image_tokenizer import ImageTokenizer
from training.command_line import parse
from training.errors import BadInput
from training.files import write_json

MEAN = torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)
ROOT = torch.tensor([[0.5, 0.0, 0.0], [0.4, 0.8, 0.0], [-0.3, 0.1, 0.3]], dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.T
PROMPTS = ["a noto emoji of a fox", "a twemoji emoji of a cat", "a fox"]


def process(schedule: str, steps: int = 1000) -> Process:
    return Process(ProcessConfig(schedule=schedule, steps=steps))  # type: ignore[arg-type]


def closed_form(found: Process) -> Denoise:
    """E[x_0 | x_t] for latents of one element and three channels that are N(MEAN, COVARIANCE)."""

    def denoise(x: Tensor, t: float) -> Estimate:
        alpha, sigma = (factor.item() for factor in found.at(torch.tensor([t])))
        inner = alpha**2 * COVARIANCE + sigma**2 * torch.eye(3, dtype=torch.float64)
        gain = alpha * COVARIANCE @ torch.linalg.inv(inner)
        centred = x.flatten(1).double() - alpha * MEAN
        return Estimate((MEAN + centred @ gain.T).to(x.dtype).view_as(x))

    return denoise


def exact_distribution(found: Process, options: DiffusionOptions) -> tuple[Tensor, Tensor]:
    """The exact mean and covariance of the samples. With this denoiser, sampling is an affine function of its noise, so
    its response to no noise (row 0) and to one unit at each step and channel (the other rows) determines it."""

    def impulses(step: int) -> Tensor:
        noise = torch.zeros(1 + 3 * (options.steps + 1), 3, 1, 1)
        noise[1 + 3 * step : 4 + 3 * step, :, 0, 0] = torch.eye(3)
        return noise

    drawn = sample(closed_form(found), found, impulses, options).flatten(1).double()
    answers = drawn[1:] - drawn[0]
    return drawn[0], answers.T @ answers


# At 40 steps, the largest error of mean or covariance (whose largest element is 0.8), as measured.
SCHEDULERS: list[tuple[str, dict[str, Any], float]] = [
    ("linear", {"scheduler": "ddpm"}, 0.15),
    ("linear", {"scheduler": "ddim"}, 0.08),
    ("linear", {"scheduler": "ddim", "eta": 0.5}, 0.095),
    ("linear", {"scheduler": "dpm"}, 0.007),
    ("cosine", {"scheduler": "ddpm"}, 0.09),
    ("cosine", {"scheduler": "ddim"}, 0.05),
    ("cosine", {"scheduler": "ddim", "eta": 0.5}, 0.06),
    ("cosine", {"scheduler": "dpm"}, 0.001),
    ("flow", {"scheduler": "ddpm"}, 0.095),
    ("flow", {"scheduler": "dpm"}, 0.005),
    ("flow", {"scheduler": "euler"}, 0.055),
    ("flow", {"scheduler": "heun"}, 0.001),
]


@pytest.mark.parametrize(("schedule", "options", "error"), SCHEDULERS)
def test_every_scheduler_draws_from_a_gaussian(schedule: str, options: dict[str, Any], error: float) -> None:
    """Samples agree with the exact distribution within four standard errors; this one agrees with the true one within
    its discretisation error, which is smaller at twice the steps."""
    found = process(schedule)
    errors = []
    for steps in (40, 80):
        mean, covariance = exact_distribution(found, DiffusionOptions(steps=steps, **options))
        errors.append(max((mean - MEAN).abs().max().item(), (covariance - COVARIANCE).abs().max().item()))
        if steps == 40:
            count = 4000
            noise = seeded_noise(torch.arange(count), (3, 1, 1))
            drawn = (
                sample(closed_form(found), found, noise, DiffusionOptions(steps=steps, **options)).flatten(1).double()
            )
            spread = covariance.diag().sqrt()
            assert ((drawn.mean(0) - mean).abs() < 4 * spread / math.sqrt(count)).all()
            room = 4 * ((spread[:, None] * spread).square() + covariance.square()).sqrt() / math.sqrt(count)
            assert ((drawn.T.cov() - covariance).abs() < room).all()
    assert errors[0] < error
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_ancestral_steps_are_those_of_diffusers(schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps of DDPM, with the same noise given to the scheduler of `diffusers`."""
    found, x = process(schedule, steps=50), seeded_noise(torch.arange(5), (3, 1, 1))
    ours = sample(closed_form(found), found, x, DiffusionOptions(steps=50, scheduler="ddpm"))
    bar = found.alpha.square()
    theirs = DDPMScheduler(
        50, trained_betas=(1 - bar[1:] / bar[:-1]).tolist(), clip_sample=False, prediction_type="sample"
    )
    theirs.set_timesteps(50)
    state, calls = x(0), iter(range(1, 51))
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *args, **kwargs: x(next(calls)))
    for timestep in theirs.timesteps.tolist():
        estimate = closed_form(found)(state, timestep + 1.0)
        state = theirs.step(estimate.x_0, timestep, state).prev_sample
    torch.testing.assert_close(ours, state, atol=2e-4, rtol=1e-3)


def test_ddim_at_eta_one_is_ddpm() -> None:
    found, noise = process("cosine"), seeded_noise(torch.arange(4), (3, 1, 1))
    one = sample(closed_form(found), found, noise, DiffusionOptions(steps=30, scheduler="ddim", eta=1))
    other = sample(closed_form(found), found, noise, DiffusionOptions(steps=30, scheduler="ddpm"))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_ddim_is_deterministic_and_invertible() -> None:
    """With eta 0 no noise is added after the start. Running the equation backwards returns to the start, 2 % off at 500
    steps, and nearer with more steps."""
    found, start = process("cosine"), torch.randn(20, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    denoise, errors = closed_form(found), []
    for steps in (125, 500):
        drawn = x = sample(denoise, found, {0: start}.__getitem__, DiffusionOptions(steps=steps, scheduler="ddim"))
        again = sample(denoise, found, {0: start}.__getitem__, DiffusionOptions(steps=steps, scheduler="ddim"))
        assert torch.equal(drawn, again)
        times = torch.linspace(0, 1000, steps + 1).round()
        for t, after in pairwise(times):
            alpha, sigma = (factor.item() for factor in found.at(t.clamp_min(1)[None]))
            x_0 = denoise(x, max(float(t), 1.0)).x_0
            noise = (x - alpha * x_0) / sigma if t > 0 else (x - x_0) / sigma
            x = found.add_noise(x_0, noise, after.expand(20))
        errors.append((x - start).abs().max().item() / start.abs().max().item())
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.02


def test_any_number_of_steps_ends_at_a_picture() -> None:
    """Also where it does not divide the steps of the schedule, which schedulers of `diffusers` do not handle."""
    known = torch.full((2, 3, 1, 1), 0.3)
    for schedule, schedulers in (("cosine", ("dpm", "ddim", "ddpm")), ("flow", ("dpm", "euler", "heun", "ddpm"))):
        found = process(schedule)
        for scheduler in schedulers:
            for steps in (1, 2, 7, 33):
                options = DiffusionOptions(steps=steps, scheduler=scheduler)  # type: ignore[arg-type]
                drawn = sample(lambda x, t: Estimate(known), found, seeded_noise(torch.arange(2), (3, 1, 1)), options)
                torch.testing.assert_close(drawn, known, atol=2e-3, rtol=0)


def test_gaussian_noise_is_fixed_and_standard_normal() -> None:
    noise = torch.stack([gaussian(torch.arange(200), step, 512) for step in range(4)])
    assert noise.dtype == torch.float32
    count = noise.numel()
    assert noise.mean().item() == pytest.approx(0, abs=4 / math.sqrt(count))
    assert noise.var().item() == pytest.approx(1, rel=4 * math.sqrt(2 / count))
    assert noise.pow(4).mean().item() == pytest.approx(3, abs=4 * math.sqrt(96 / count))
    cells = torch.histc(torch.special.ndtr(noise), bins=256, min=0, max=1)
    chi2 = ((cells - count / 256) ** 2 / (count / 256)).sum().item()
    assert 255 - 5 * math.sqrt(2 * 255) < chi2 < 255 + 5 * math.sqrt(2 * 255)
    for dimension in range(3):  # neighbours in step, seed and element
        a, b = (
            noise.narrow(dimension, 0, noise.shape[dimension] - 1),
            noise.narrow(dimension, 1, noise.shape[dimension] - 1),
        )
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()) < 5 / math.sqrt(a.numel())
    seeds = torch.tensor([7, 2**40, 5])
    assert torch.equal(gaussian(seeds, 3, 50), gaussian(seeds.flip(0), 3, 90)[:, :50].flip(0))
    other = torch.corrcoef(torch.stack([gaussian(seeds, 3, 5000).flatten(), gumbel(seeds, 3, 5000).flatten()]))[0, 1]
    assert abs(other.item()) < 5 / math.sqrt(15_000)


def draw(options: DiffusionOptions, rows: slice | list[int] = slice(None)) -> Tensor:
    model, text = diffusion_model(), text_tokenizer()
    ids, seeds = text.encode(PROMPTS)[rows], torch.arange(3)[rows]
    denoise = denoiser(model, ids, text.encode([None]), options)
    return sample(denoise, model.process, seeded_noise(seeds, model.latent_shape), options)


@torch.no_grad()
def test_batch_and_order_leave_latents_unchanged() -> None:
    options = DiffusionOptions(steps=5, guidance=2.0, scheduler="ddim", eta=0.5)
    together = draw(options)
    torch.testing.assert_close(draw(options, [1]), together[1:2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(draw(options, [2, 1, 0]).flip(0), together, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_guidance_in_one_pass_is_that_of_two() -> None:
    model, text = diffusion_model(), text_tokenizer()
    ids, null = text.encode(PROMPTS), text.encode([None])
    x, t = gaussian(torch.arange(3), 0, 36).view(3, 4, 3, 3), torch.full((3,), 60.0)
    both = denoiser(model, ids, null, DiffusionOptions(guidance=2.5))(x, 60.0).x_0
    with_it, without = model(x, t, ids), model(x, t, null.expand_as(ids))
    expected = model.process.estimates(without + 2.5 * (with_it - without), x, t)[0]
    torch.testing.assert_close(both, expected, atol=1e-4, rtol=1e-4)
    plain = denoiser(model, ids, null, DiffusionOptions(guidance=1))(x, 60.0).x_0
    torch.testing.assert_close(plain, model.process.estimates(with_it, x, t)[0])


@pytest.mark.parametrize("scheduler", ["dpm", "heun"])
@torch.no_grad()
def test_guidance_in_an_interval(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It draws what one draws by hand from both predictions, and outside the interval there is no null half."""
    model, text = diffusion_model(ProcessConfig(schedule="flow", target="velocity")), text_tokenizer()
    ids, null = text.encode(PROMPTS), text.encode([None])
    options = DiffusionOptions(
        guidance=2.5, steps=10, scheduler=scheduler, guidance_from=0.2, guidance_until=0.9  # type: ignore[arg-type]
    )  # fmt: skip

    def by_hand(x: Tensor, time: float) -> Estimate:
        t = torch.full((3,), time)
        with_it, without = model(x, t, ids), model(x, t, null.expand_as(ids))
        guide = 150 < time < 850  # of the times 1000, 900, ..., 100, not 1000, 900 and 100
        velocity = without + 2.5 * (with_it - without) if guide else with_it
        return Estimate(model.process.estimates(velocity, x, t)[0])

    noise = seeded_noise(torch.arange(3), model.latent_shape)
    expected = sample(by_hand, model.process, noise, options)
    sizes, forward = [], model.denoiser.forward
    monkeypatch.setattr(model.denoiser, "forward", lambda x, *rest: (sizes.append(len(x)), forward(x, *rest))[1])
    drawn = sample(denoiser(model, ids, null, options), model.process, noise, options)
    torch.testing.assert_close(drawn, expected, atol=1e-3, rtol=1e-3)
    twice = {"dpm": 7, "heun": 14}[scheduler]
    assert (sizes.count(6), sizes.count(3)) == (twice, {"dpm": 3, "heun": 5}[scheduler])


def test_the_interval_in_shares_of_the_steps() -> None:
    """The same steps for every way to round the bounds and the times."""
    for steps in (7, 10, 25, 50):
        times = [float(torch.tensor(1000 * k / steps)) for k in range(steps, 0, -1)]
        for first in range(steps + 1):
            options = DiffusionOptions(guidance_from=first / steps, guidance_until=1.0)
            assert [options.guides_at(time / 1000) for time in times] == [call >= first for call in range(steps)]
            options = DiffusionOptions(guidance_until=first / steps)
            assert [options.guides_at(time / 1000) for time in times] == [call < first for call in range(steps)]
    assert not DiffusionOptions(guidance=1).guides_at(0.5)


def test_thresholding_agrees_with_imagen() -> None:
    x = torch.stack([torch.linspace(-1, 1, 64), torch.linspace(-10, 10, 64)]).view(2, 4, 4, 4)
    cut = thresholded(x, 0.9, bound=3.0)
    assert torch.equal(cut[0], x[0])  # nothing is too large
    s = x[1].abs().quantile(0.9)
    torch.testing.assert_close(cut[1], x[1].clamp(-s, s) * 3 / s)


def test_interpolation_of_noises_and_denoisers() -> None:
    part = torch.linspace(0, 1, 3)
    a, b = (seeded_noise(torch.full((3,), seed), (4, 30, 30)) for seed in (1, 2))
    noise = interpolated_noise(a, b, part)(0)
    torch.testing.assert_close(noise[0], a(0)[0])
    torch.testing.assert_close(noise[2], b(0)[2], atol=1e-6, rtol=1e-4)
    assert noise[1].var().item() == pytest.approx(1, rel=0.1)
    between = interpolated_denoiser(lambda x, t: Estimate(x), lambda x, t: Estimate(x + 2), part)
    ones = between(torch.zeros(3, 1, 1, 1), 0.5)
    assert ones.x_0.flatten().tolist() == [0, 1, 2]


def test_both_backends_decode_to_the_same_pixels() -> None:
    """The same latents and codes, decoded by the diffusion backend and by the token backend."""
    torch.manual_seed(0)
    tokenizer = ImageTokenizer(IMAGES)
    pictures = torch.randint(0, 256, (6, 3, 12, 12), dtype=torch.uint8)
    tokenizer.calibrate([pictures])
    codes = tokenizer.encode(pictures)
    assert codes.unique().numel() > 1
    assert torch.equal(tokenizer.decode_latents(tokenizer.latents(pictures)), tokenizer.decode(codes))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_diffusion(save_bundle(tmp_path_factory.mktemp("both")))


def test_a_bundle_draws_by_either_backend(bundle: Path) -> None:
    loaded = load(bundle)
    options = DiffusionOptions(steps=4)
    drawn = loaded.generate(PROMPTS, num_images=2, seed=3, options=options)
    apart = loaded.generate(PROMPTS, num_images=2, seed=3, options=options, batch_size=1)
    assert [(picture.dtype, tuple(picture.shape)) for picture in drawn] == [(torch.uint8, (3, 12, 12))] * 6
    assert all(torch.equal(a, b) for a, b in zip(drawn, apart, strict=True))
    assert not torch.equal(drawn[0], drawn[1])
    assert len(loaded.generate(PROMPTS[:1], options=SamplingOptions())) == 1


def test_a_picture_to_start_from(bundle: Path) -> None:
    """With little noise it stays the same, except for the tokenizer's error.

    With full noise nothing of it is left: `--init_image` without `--strength` had no effect, and nothing said so.
    """
    loaded, options = load(bundle), DiffusionOptions(steps=4, guidance=1)
    image = torch.randint(0, 256, (3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model = loaded.models["diffusion"]
    assert isinstance(model, DiffusionModel)
    truth = loaded.tokenizer.latents(image[None])
    found, noise = model.process, seeded_noise(torch.arange(1), model.latent_shape)
    kept = sample(lambda x, t: Estimate(truth), found, noise, options, init=truth, strength=0.1)
    torch.testing.assert_close(kept, truth, atol=1e-3, rtol=1e-3)
    assert solver_for(found, options, 0.1).times[0] == 10
    assert len(loaded.generate(PROMPTS[:1], options=options, start=Start(image=image, strength=0.5))) == 1
    with pytest.raises(BadInput, match="at strength 1 nothing of init_image is left: give a smaller strength"):
        loaded.generate(PROMPTS[:1], options=options, start=Start(image=image))
    with pytest.raises(BadInput, match="only the token model can draw within a mask"):
        loaded.generate(PROMPTS[:1], options=options, start=Start(image=image, mask=image[0] > 0))


def test_between_prompts_of_one_seed_the_noise_stays_as_it_is(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was mixed with itself, so that it was sqrt(2) times as large in the middle."""
    noises: list[Tensor] = []

    def sampled(denoise: Denoise, process: Process, noise: Noise, options: DiffusionOptions, **start: Any) -> Tensor:
        noises.append(noise(0))
        return sample(denoise, process, noise, options, **start)

    monkeypatch.setattr("sampling.diffusion_backend.sample", sampled)
    loaded, options = load(bundle), DiffusionOptions(steps=2)
    loaded.generate(PROMPTS[:1], seed=5, options=options)
    loaded.interpolate((PROMPTS[0], PROMPTS[1]), (5, 5), 3, options)
    alone, between = noises
    assert torch.equal(between, alone.expand_as(between))


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(bundle: Path, tmp_path: Path) -> Run:
    """Runs the command in this process; returns its record."""

    def call(*arguments: str | Path) -> dict[str, Any]:
        argv = ["--model", bundle, "--backend", "diffusion", "--steps", "4", "--out", tmp_path / "out", *arguments]
        generate(parse(GenerateOptions, [str(argument) for argument in argv]))
        record: dict[str, Any] = json.loads((tmp_path / "out" / "generation.json").read_text())
        return record

    return call


def test_the_command_writes_the_same_files_for_both_backends(run: Run, bundle: Path, tmp_path: Path) -> None:
    record = run("--prompt", PROMPTS[0], "--num_images", "2", "--scheduler", "ddim", "--eta", "0.5")
    assert record["backend"] == "diffusion"
    options = {
        "guidance": 2.0, "guidance_from": 0.0, "guidance_until": 1.0, "steps": 4, "scheduler": "ddim", "eta": 0.5,
        "threshold": 0.0,
    }  # fmt: skip
    assert record["options"] == options
    expected = load(bundle).generate(PROMPTS[:1], num_images=2, options=DiffusionOptions(**options))
    for image, picture in zip(record["images"], expected, strict=True):
        with Image.open(tmp_path / "out" / image["file"]) as png:
            png.load()
            assert (png.text["backend"], json.loads(png.text["options"])) == ("diffusion", options)
            pixels = torch.tensor(list(png.tobytes())).view(12, 12, 3).permute(2, 0, 1)
        assert torch.equal(pixels, picture.long())
    assert (tmp_path / "out" / "grid.png").is_file()


def test_the_command_interpolates_and_starts_from_pictures(run: Run, bundle: Path, tmp_path: Path) -> None:
    record = run("--prompt", PROMPTS[0], "--prompt", PROMPTS[1], "--interpolate", "3", "--batch_size", "2")
    assert [image["prompt"].rsplit(": ")[-1] for image in record["images"]] == ["0 %", "50 %", "100 %"]
    (first,) = load(bundle).generate(PROMPTS[:1], options=DiffusionOptions(steps=4))
    with Image.open(tmp_path / "out" / record["images"][0]["file"]) as png:
        assert torch.equal(torch.tensor(list(png.tobytes())).view(12, 12, 3).permute(2, 0, 1), first.long())
    times = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("0*.png")}
    (tmp_path / "out" / record["images"][1]["file"]).unlink()
    again = run("--prompt", PROMPTS[0], "--prompt", PROMPTS[1], "--interpolate", "3", "--batch_size", "2")
    later = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("0*.png")}
    assert again["images"] == record["images"]
    assert {name for name in times if later[name] != times[name]} == {record["images"][1]["file"]}
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    record = run("--prompt", PROMPTS[0], "--init_image", tmp_path / "red.png", "--strength", "0.5")
    assert record["options"]["strength"] == 0.5


def test_impossible_options_give_one_line(run: Run, tmp_path: Path) -> None:
    for flags, says in (
        (
            ["--scheduler", "euler"],
            "scheduler euler does not go with a model of schedule cosine: take dpm, ddim or ddpm",
        ),
        (["--steps", "200"], "steps is 200: must be at most 100"),
        (["--eta", "0.5"], "eta is 0.5: must be 0 with scheduler dpm"),
        (
            ["--temperature", "0.9"],
            "backend 'diffusion' has no option 'temperature'; 'autoregressive' has it: give --backend autoregressive",
        ),
        (["--strength", "0.5"], "strength is 0.5: must be 1 without init_image"),
        (["--init_image", str(tmp_path / "none.png")], "none.png: cannot be read"),
        (["--interpolate", "1"], "interpolate is 1: must be 2 or more, or 0 for none"),
        (["--interpolate", "3", "--num_images", "2"], "num_images is 2: must be 1 with interpolate"),
    ):
        with pytest.raises(BadInput, match=says):
            run("--prompt", "a fox", *flags)
    with pytest.raises(
        BadInput, match="backend 'autoregressive' has no option 'steps'; 'diffusion' has it: give --backend diffusion"
    ):
        parse(GenerateOptions, ["--steps", "7"])


def test_a_bundle_without_the_backend_says_how_to_train_it(tmp_path: Path) -> None:
    save_bundle(tmp_path / "bundle")
    argv = ["--model", tmp_path / "bundle", "--prompt", "a fox", "--backend", "diffusion", "--out", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "sampling.generate", *argv], capture_output=True, text=True, check=False, timeout=170
    )
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 2
    assert line.startswith(
        "error: this bundle has no diffusion part: train one with `accelerate launch diffusion/train.py"
    )
    assert "python -m sampling.bundle" in line
    assert not (tmp_path / "out").exists()


def test_the_only_backend_of_a_bundle_is_the_default(run: Run, bundle: Path, tmp_path: Path) -> None:
    """A bundle with only a diffusion model was refused without `--backend diffusion`, and so were its options."""
    only = shutil.copytree(bundle, tmp_path / "only")
    write_json(only / "bundle.json", {"version": 1, "parts": ["text", "tokenizer", "diffusion"]})
    ask = ["--model", str(only), "--prompt", PROMPTS[0], "--steps", "4", "--out", str(tmp_path / "found")]
    generate(parse(GenerateOptions, ask))
    record = json.loads((tmp_path / "found" / "generation.json").read_text())
    assert record["images"] == run("--prompt", PROMPTS[0])["images"]
    (tmp_path / "options.yaml").write_text(f"model: {only}\nbackend: {{guidance: 3}}\n")
    options = parse(GenerateOptions, ["--config", str(tmp_path / "options.yaml"), "--seed", "1"])
    assert options.backend == DiffusionOptions(guidance=3)
    with pytest.raises(BadInput, match="this bundle has no autoregressive part"):
        generate(parse(GenerateOptions, [*ask[:4], "--backend", "autoregressive"]))
    for model in (bundle, tmp_path, tmp_path / "none", "hf://owner/name", "5"):  # with two backends, or not there
        assert parse(GenerateOptions, ["--model", str(model)]).backend == SamplingOptions()


def test_parts_that_do_not_belong_together(bundle: Path) -> None:
    loaded = load(bundle)
    with pytest.raises(BadInput, match="the diffusion model was trained with image tokenizer another, but this one is"):
        type(loaded)(
            text=loaded.text, tokenizer=loaded.tokenizer, models={"diffusion": diffusion_model(latents_id="another")}
        )


def test_no_flags_means_the_default_options() -> None:
    assert parse(GenerateOptions, ["--backend", "diffusion"]).backend == DiffusionOptions()
