"""Denoisers as CUDA graphs, shown without a GPU: the same latents, and nothing is copied between host and device."""

from collections.abc import Callable

import pytest
import torch
from test_diffusion_traced import model
from test_sampling_decode import Traffic, graphs  # noqa: F401
from tiny_models import captions, diffusion_model

from diffusion.model import DiffusionModel
from diffusion.process import ProcessConfig
from sampling.denoiser_graph import GraphDenoiser, with_graph_denoiser
from sampling.diffuse import denoiser, estimates, sample, seeded_noise
from sampling.options import DiffusionOptions
from seq2seq.model import null_caption

GUIDED = DiffusionOptions(steps=4, guidance=2.0, guidance_from=0.5)


def draw(by: DiffusionModel, batch: int, ids: int, options: DiffusionOptions) -> torch.Tensor:
    text = captions(6)[batch : 2 * batch, :ids]
    noise = seeded_noise(torch.arange(batch), by.latent_shape)
    return sample(denoiser(by, text, null_caption(text[:1]).expand(1, ids), options), by.process, noise, options)


def test_graphs_draw_what_the_plain_engine_draws(graphs: list[Callable[[], None]]) -> None:  # noqa: F811
    """A graph serves all captions, and all batches that are padded to its size."""
    plain = diffusion_model()
    by_graph = with_graph_denoiser(plain)
    for batch, ids, options in ((3, 9, GUIDED), (3, 5, GUIDED), (2, 9, GUIDED), (3, 9, DiffusionOptions(steps=4))):
        torch.testing.assert_close(
            draw(by_graph, batch, ids, options), draw(plain, batch, ids, options), atol=1e-4, rtol=1e-4
        )
    assert isinstance(by_graph.denoiser, GraphDenoiser)
    assert len(graphs) == len(by_graph.denoiser._by_rows) == 3  # of 2, 4 and 8 rows


@pytest.mark.parametrize("denoiser_kind", ["dit", "unet"])
def test_the_tensors_of_a_graph_stay_where_they_are(graphs: list[Callable[[], None]], denoiser_kind: str) -> None:  # noqa: F811
    by_graph = with_graph_denoiser(model(denoiser_kind))

    def places() -> list[int]:
        draw(by_graph, 2, 9, DiffusionOptions(steps=3))
        (buffers,) = by_graph.denoiser._by_rows.values()  # type: ignore[union-attr]
        kept = [tensor for pair in buffers.caption.keys_values.values() for tensor in pair]
        tensors = [buffers.x, buffers.t, buffers.output, buffers.caption.mask, buffers.caption.pooled, *kept]
        return [tensor.data_ptr() for tensor in tensors]

    assert places() == places()
    assert len(graphs) == 1


@pytest.mark.parametrize(
    ("process", "scheduler"),
    [({}, "dpm"), ({}, "ddpm"), *(({"schedule": "flow", "target": "velocity"}, x) for x in ("dpm", "euler", "heun"))],
)
@torch.no_grad()
def test_a_step_copies_nothing_between_host_and_device(
    process: dict[str, str],
    scheduler: str,
    graphs: list[Callable[[], None]],  # noqa: F811
) -> None:
    """Neither the denoiser nor guidance, solver and noise. The meta device has no values to read."""
    options = DiffusionOptions(steps=5, guidance=2.0, threshold=0.9, scheduler=scheduler)  # type: ignore[arg-type]
    by_graph = with_graph_denoiser(diffusion_model(ProcessConfig(steps=100, **process)).to("meta"))  # type: ignore[arg-type]
    text = captions(2).to("meta")
    noise = seeded_noise(torch.arange(2, device="meta"), by_graph.latent_shape)
    steps = estimates(denoiser(by_graph, text, text[:1], options), by_graph.process, noise, options)
    for _ in range(2):
        next(steps)  # the first pass reads the captions, the second makes the buffers
    with Traffic() as traffic:
        assert all(x.is_meta for x in steps)
    assert traffic.bytes
    assert traffic.copies == 0
    with traffic:
        torch.ones(2).to("meta")
    assert traffic.copies == 1
