"""What only a GPU can show. `benchmarks/gpu.sh` runs these tests; without a GPU they are skipped."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_sampling_continuous import WAYS, alone, asked, drawn, early_ends  # noqa: F401
from test_seq2seq_train import _fresh_accelerator, fit, parts  # noqa: F401
from tiny_models import TOKENS, add_diffusion, add_upsampler, captions, diffusion_model, save_bundle, token_model
from torch import Tensor
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from diffusion.model import DiffusionModel
from sampling import load
from sampling.decode import DelayedAll, Engine, Sampler
from sampling.denoiser_graph import with_graph_denoiser
from sampling.diffuse import denoiser, estimates, seeded_noise
from sampling.noise import gaussian, gumbel
from sampling.options import DiffusionOptions, SamplingOptions
from seq2seq.loss import token_loss
from seq2seq.model import null_caption
from training import ema

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]
GUIDED = SamplingOptions(guidance=2.0, guidance_until=0.6, temperature=0.9, parallel=0)


@pytest.mark.parametrize("make", [gumbel, gaussian])
def test_noise_has_the_values_of_a_cpu(make: Callable[..., Tensor]) -> None:
    """Its bits are integers; only logarithms and the error function may round differently."""
    seeds = torch.tensor([0, 1, 2**40 + 3, 2**62 - 1])
    here, there = (make(seeds.to(device), 7, 8193).cpu() for device in ("cpu", "cuda"))
    assert there.isfinite().all()
    torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ["plain", "graph"])
@pytest.mark.parametrize("options", [GUIDED, SamplingOptions(temperature=1.0, top_p=0.9, parallel=0)])
def test_float32_draws_what_a_cpu_draws(engine: Engine, options: SamplingOptions) -> None:
    sampler = Sampler(token_model().cuda(), engine)
    for batch in (3, 1, 3):
        text, seeds = captions(batch), torch.arange(batch)
        expected = Sampler(token_model(), "plain").draw(text, seeds, options)
        for a, b in zip(sampler.draw(text.cuda(), seeds.cuda(), options), expected, strict=True):
            assert torch.equal(a, b)


def test_a_picture_is_the_same_in_every_batch_of_a_size() -> None:
    """Five to eight pictures are drawn as eight rows, by the same kernels."""
    sampler = Sampler(token_model().to("cuda", torch.bfloat16), "graph")
    eight = sampler.draw(captions(8).cuda(), torch.arange(8).cuda(), GUIDED)
    five = sampler.draw(captions(8)[:5].cuda(), torch.arange(5).cuda(), GUIDED)
    assert all(torch.equal(a, b) for a, b in zip(five, eight, strict=False))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is no second GPU")
@pytest.mark.parametrize("engine", ["plain", "graph"])
def test_a_second_gpu_draws_the_same(engine: Engine) -> None:
    """Its streams, events and graphs are its own, though the current device is the first one."""
    text, seeds = captions(2), torch.arange(2)
    first, second = (
        Sampler(token_model().to(device), engine).draw(text.to(device), seeds.to(device), GUIDED)
        for device in ("cuda:0", "cuda:1")
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.usefixtures("early_ends")
@pytest.mark.parametrize("options", WAYS)
def test_continuous_batches_draw_what_a_cpu_draws_alone(options: SamplingOptions) -> None:
    """Rows that are free get the next captions while the other rows' graphs are replayed."""
    found = drawn(Sampler(token_model().cuda(), "graph"), asked(), options, rows=2)
    for here, expected in zip(found, alone(Sampler(token_model(), "plain"), options), strict=True):
        assert torch.equal(here.cpu(), expected.cpu())


def test_no_step_waits_for_the_device() -> None:
    """Nothing synchronises in a loop of replays, except the check for the end, two rows late."""
    sampler = Sampler(token_model().cuda(), "graph")
    text, seeds = captions(2).cuda(), torch.arange(2).cuda()
    sampler.draw(text, seeds, GUIDED)
    rows = sampler.rows(text, seeds, GUIDED)
    next(rows)  # reads the captions and options
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len([*rows]) == TOKENS.grid - 1
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_does_not_grow() -> None:
    sampler = Sampler(token_model().cuda(), "graph")

    def used() -> int:
        for batch in (1, 4):
            sampler.draw(captions(batch).cuda(), torch.arange(batch).cuda(), GUIDED)
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    used()
    assert used() == used()


def test_the_check_for_the_end_is_two_calls_late() -> None:
    check, yes = DelayedAll(torch.device("cuda")), torch.ones(3, dtype=torch.bool, device="cuda")
    assert [check(values) for values in (~yes, yes, yes, yes, yes)] == [False, False, False, True, True]


def latents_of(model: DiffusionModel, batch: int) -> Iterator[Tensor]:
    options, device = DiffusionOptions(steps=6, guidance=2.0, guidance_until=0.5), next(model.parameters()).device
    text, seeds = captions(4)[-batch:].to(device), torch.arange(batch, device=device)
    denoise = denoiser(model, text, null_caption(text[:1]).expand(1, text.shape[1]), options)
    return estimates(denoise, model.process, seeded_noise(seeds, model.latent_shape), options)


@pytest.mark.parametrize("engine", ["plain", "graph"])
def test_diffusion_draws_what_a_cpu_draws(engine: str) -> None:
    plain = diffusion_model().cuda()
    model = with_graph_denoiser(plain) if engine == "graph" else plain
    for batch in (3, 1, 3, 4):
        *_, there = latents_of(model, batch)
        *_, here = latents_of(diffusion_model(), batch)
        torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-3)


def test_no_step_of_diffusion_waits_for_the_device() -> None:
    model = with_graph_denoiser(diffusion_model().cuda())
    [*_] = latents_of(model, 2)  # records
    steps = latents_of(model, 2)
    next(steps)  # reads the captions
    torch.cuda.set_sync_debug_mode("error")
    try:
        [*_] = steps
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_bundle_draws_and_enlarges(tmp_path: Path) -> None:
    """With the default engine and dtype of each backend."""
    bundle = load(add_upsampler(add_diffusion(save_bundle(tmp_path))), device="cuda")
    for options in (SamplingOptions(best_of=2), DiffusionOptions(steps=3)):
        pictures = bundle.generate(["a fox", "a cat"], options=options, upscale=4)
        assert {(one.device.type, one.shape[2]) for one in pictures} == {("cpu", 48)}


def test_a_stopped_run_continues_with_the_same_weights(tmp_path: Path, parts: list[str]) -> None:  # noqa: F811
    """Two steps at once, against one step and another in a second run, with the average that is exported."""
    # without a warm-up, or two steps would move no weight further than rounding may
    flags = ("--device", "cuda", "--checkpoint_every", "1", "--optimizer.warmup", "0")

    def exported(name: str, *more: str) -> dict[str, Tensor]:
        fit(tmp_path / name, parts, *flags, *more)
        return load_file(tmp_path / name / "model" / "model.safetensors")

    whole, once = exported("whole"), exported("twice", "--steps", "1")
    shutil.rmtree(tmp_path / "twice" / "model")
    twice = exported("twice")
    moved = [name for name in whole if (whole[name].float() - once[name].float()).abs().max() > 2e-4]
    assert len(moved) > len(whole) / 2  # by the second step; gains are too near to 1 for bfloat16 to show it
    for name, weight in whole.items():
        torch.testing.assert_close(twice[name], weight, rtol=1e-2, atol=1e-4, msg=name)


def test_the_average_of_weights() -> None:
    here, there = token_model(), token_model().cuda()
    averages = [ema.averaged_copy(model) for model in (here, there)]
    for step in range(3):
        for model, average in zip((here, there), averages, strict=True):
            for parameter in model.parameters():
                parameter.data.mul_(1.1)
            ema.update(average, model, step, 0.1)
    for a, b in zip(*(average.parameters() for average in averages), strict=True):
        torch.testing.assert_close(a, b.cpu())


def test_a_model_sharded_block_by_block(tmp_path: Path) -> None:
    """On one GPU: sharding does not change a step of training."""
    init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        whole, sharded = token_model().cuda(), token_model().cuda()
        mesh = init_device_mesh("cuda", (1,))
        for block in [*sharded.encoder.blocks, *sharded.decoder.blocks, sharded]:
            fully_shard(block, mesh=mesh)  # type: ignore[call-overload]
        text, tokens = captions(4).cuda(), torch.randint(20, (4, 9), device="cuda")
        losses = []
        for model in (whole, sharded):
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
            for _ in range(2):
                loss, _ = token_loss(model(text, tokens), tokens, TOKENS.eos)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.detach())
        torch.testing.assert_close(*losses)
    finally:
        destroy_process_group()
