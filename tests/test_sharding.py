"""Models train and sample alike whether or not each block, and the rest of the model, is sharded."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
import torch.multiprocessing
from tiny_models import IMAGES, TOKENS, captions, diffusion_model, token_model
from torch import Tensor, nn
from torch.distributed import all_reduce, destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from diffusion.dit import Block
from diffusion.model import DiffusionModel
from sampling.decode import Sampler
from sampling.diffuse import denoiser, sample, seeded_noise
from sampling.options import DiffusionOptions, SamplingOptions
from seq2seq.layers import DecoderBlock, EncoderBlock
from seq2seq.loss import token_loss
from seq2seq.model import TokenModel, null_caption
from training import ema

Loss = Callable[[nn.Module, slice], Tensor]


def of_tokens(rank: int) -> None:
    models = [token_model(dataclasses.replace(TOKENS, dropout=0.0)) for _ in range(2)]
    text, tokens = captions(4), torch.randint(20, (4, 9), generator=torch.Generator().manual_seed(3))
    learn(models, lambda model, part: token_loss(model(text[part], tokens[part]), tokens[part], TOKENS.eos)[0], rank)
    for window in (0, 4):
        options = SamplingOptions(guidance=2.0, guidance_until=0.5, parallel=window)
        whole, sharded = (Sampler(model, "plain").draw(text, torch.arange(4), options) for model in models)
        assert all(torch.equal(a, b) for a, b in zip(sharded, whole, strict=True))


def of_diffusion(rank: int) -> None:
    models = [diffusion_model() for _ in range(2)]
    text, generator = captions(4), torch.Generator().manual_seed(3)
    x, y = torch.randn(2, 4, IMAGES.quantizer.dim, 3, 3, generator=generator)
    t = torch.tensor([1.0, 20.0, 50.0, 90.0])
    learn(models, lambda model, part: (model(x[part], t[part], text[part]) - y[part]).square().mean(), rank)
    options = DiffusionOptions(steps=4)
    whole, sharded = (
        sample(
            denoiser(model, text, null_caption(text[:1]), options), model.process,
            seeded_noise(torch.arange(4), model.latent_shape), options,
        )
        for model in models
    )  # fmt: skip
    torch.testing.assert_close(sharded, whole, atol=1e-5, rtol=0)


def learn(models: list[TokenModel] | list[DiffusionModel], loss: Loss, rank: int) -> None:
    """Two steps of both models: the first unsharded, the second sharded, with half of the batch per process."""
    whole, sharded = models
    averages = [ema.averaged_copy(model) for model in models]
    mesh = init_device_mesh("cpu", (2,))
    for block in [module for module in sharded.modules() if isinstance(module, EncoderBlock | DecoderBlock | Block)]:
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-3) for model in models]
    for step in range(2):
        losses = [loss(whole, slice(0, 4)), loss(sharded, slice(2 * rank, 2 * rank + 2))]
        for made, optimizer in zip(losses, optimizers, strict=True):
            made.backward()
            optimizer.step()
            optimizer.zero_grad()
        mean = losses[1].detach()
        all_reduce(mean)
        torch.testing.assert_close(mean / 2, losses[0].detach(), atol=1e-6, rtol=1e-6)
        for model, average in zip(models, averages, strict=True):
            ema.update(average, model, step, 0.1)
    for one, other in zip(*(average.parameters() for average in averages), strict=True):  # both are whole
        torch.testing.assert_close(other, one, atol=1e-5, rtol=0)


def worker(rank: int, store: Path) -> None:
    torch.set_num_threads(1)
    init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    of_tokens(rank)
    of_diffusion(rank)
    destroy_process_group()


def test_sharded_block_by_block(tmp_path: Path) -> None:
    """Two gloo processes. A failed check in one fails the test."""
    torch.multiprocessing.spawn(worker, (tmp_path / "store",), nprocs=2)
