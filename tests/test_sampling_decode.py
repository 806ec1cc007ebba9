"""The decode loop: the right distribution, the same picture in any batch, an end where the model says so."""

import dataclasses
import itertools
from types import SimpleNamespace

import torch
from tiny_models import TOKENS, captions, token_model
from torch import Tensor

from sampling.decode import decode
from sampling.logits import guided, scores
from sampling.noise import gumbel
from sampling.options import SamplingOptions
from seq2seq.loss import log_likelihood
from seq2seq.model import TokenModel
from tokenizer.text import NULL, PAD

NULL_CAPTION = torch.tensor([[NULL, *[PAD] * (TOKENS.text_length - 1)]])
PLAIN = SamplingOptions(guidance=1.0, temperature=1.0)


def one_by_one(model: TokenModel, text: Tensor, seed: int, options: SamplingOptions) -> list[int]:
    """The sampler without cache, batch or shared passes: the whole sequence again for every token, guidance in two."""
    tokens = torch.zeros(1, 0, dtype=torch.long)
    while tokens.shape[1] < model.config.length:
        bos = torch.full((1, 1), model.config.bos)
        sequence = torch.cat([bos, tokens], dim=1)
        passes = []
        for caption in (text, NULL_CAPTION[:, : text.shape[1]]):
            mask = (caption != PAD)[:, None, None]
            passes.append(model.decoder(sequence, model.encoder(caption, mask), mask)[:, -1])
        logits = guided(torch.cat(passes), options.guidance)
        noise = gumbel(torch.tensor([seed]), tokens.shape[1], logits.shape[-1])
        token = (scores(logits, options) + noise).argmax(-1)
        if token == model.config.eos:
            break
        tokens = torch.cat([tokens, token[None]], dim=1)
    return tokens[0].tolist()


@torch.no_grad()
def test_it_draws_what_the_slow_way_draws() -> None:
    """Cached, batched and doubled for guidance, against none of that; guidance 1 skips its second pass."""
    model, text, seeds = token_model(), captions(4), torch.tensor([3, 1, 4, 1])
    for options in (PLAIN, SamplingOptions(guidance=2.5, temperature=0.8, top_k=10, top_p=0.95)):
        codes = decode(model, text, NULL_CAPTION, seeds, options)
        for i in range(4):
            expected = one_by_one(model, text[i : i + 1], int(seeds[i]), options)
            assert codes[i].flatten().tolist() == expected


def test_batch_size_and_order_leave_a_picture_unchanged() -> None:
    model, text, seeds = token_model(), captions(6), torch.arange(6)
    options = SamplingOptions(guidance=2.0, temperature=1.0)
    together = decode(model, text, NULL_CAPTION, seeds, options)
    alone = [decode(model, text[i : i + 1], NULL_CAPTION, seeds[i : i + 1], options)[0] for i in range(6)]
    backwards = decode(model, text.flip(0), NULL_CAPTION, seeds.flip(0), options)[::-1]
    for a, b, c in zip(together, alone, backwards, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_batched_guidance_equals_two_passes() -> None:
    model, text = token_model(), captions(3)
    token = torch.full((3,), TOKENS.bos)
    null = NULL_CAPTION.expand_as(text)
    both = model.step(token.repeat(2), 0, model.cache(torch.cat([text, null])))
    apart = torch.cat([model.step(token, 0, model.cache(text)), model.step(token, 0, model.cache(null))])
    torch.testing.assert_close(both, apart, atol=1e-5, rtol=1e-5)


def test_samples_follow_the_model_s_distribution() -> None:
    """Every picture of a model with 2x2 grids and 2 codes, its frequency in 8,000 draws against its probability."""
    config = dataclasses.replace(TOKENS, codebook_size=2, grid=2)
    model, text = token_model(config, seed=3), captions(1)
    draws = decode(model, text.expand(8000, -1), NULL_CAPTION, torch.arange(8000), PLAIN)
    found: dict[tuple[int, ...], int] = {}
    for codes in draws:
        key = tuple(codes.flatten().tolist())
        found[key] = found.get(key, 0) + 1
    chi2, cells = 0.0, 0
    for rows in (1, 2):
        tokens = torch.tensor(list(itertools.product(range(2), repeat=2 * rows)))
        p = log_likelihood(model(text.expand(len(tokens), -1), tokens), tokens, config.eos).exp()
        for row, expected in zip(tokens.tolist(), (8000 * p).tolist(), strict=True):
            if expected >= 5:
                chi2 += (found.get(tuple(row), 0) - expected) ** 2 / expected
                cells += 1
    assert cells >= 8
    assert chi2 < cells + 5 * (2 * cells) ** 0.5


def test_each_picture_ends_at_its_own_eos() -> None:
    """A model that ends picture i after i + 1 rows, whatever it is asked for."""

    def step(token: Tensor, position: int, cache: Tensor) -> Tensor:
        asked.append(position)
        logits = torch.zeros(len(token), TOKENS.codebook_size + 1)
        if position == 0 or position % TOKENS.grid:
            logits[:, TOKENS.eos] = -torch.inf
        else:
            logits[cache < position // TOKENS.grid, TOKENS.eos] = 100.0
        return logits

    asked: list[int] = []
    model = SimpleNamespace(config=TOKENS, step=step, cache=lambda text: torch.arange(len(text)))
    codes = decode(model, captions(2), NULL_CAPTION, torch.arange(2), PLAIN)  # type: ignore[arg-type]
    assert [tuple(grid.shape) for grid in codes] == [(1, 3), (2, 3)]
    assert asked[-1] == 6  # all had ended: the third row is not drawn
    assert all(grid.max() < TOKENS.codebook_size for grid in codes)
