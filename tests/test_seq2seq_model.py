"""The token model: cached decoding equals teacher forcing, attention is right, and probabilities add up to one."""

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
import torch
import yaml
from tiny_models import TOKENS, captions, token_model
from torch import Tensor

from seq2seq.cache import Positions
from seq2seq.layers import Attention
from seq2seq.loss import drop_tokens, log_likelihood, token_loss
from seq2seq.model import TokenModel, TokenModelConfig
from training.errors import BadInput


def test_cached_decoding_equals_teacher_forcing() -> None:
    model, text = token_model(), captions(5)
    cache, token, drawn, stepped = model.read(text), torch.full((5,), TOKENS.bos), [], []
    for position in range(TOKENS.length + 1):
        at = torch.full((5, 1), position)
        logits = model.extend(token[:, None], Positions(at, position + 1, together=True), cache)[:, 0]
        stepped.append(logits)
        token = logits[:, : TOKENS.codebook_size].argmax(-1)  # greedy, whole pictures
        drawn.append(token)
    tokens = torch.stack(drawn[:-1], dim=1)
    forced = model(text, tokens).log_softmax(-1)
    torch.testing.assert_close(torch.stack(stepped, dim=1).log_softmax(-1), forced, atol=1e-4, rtol=0)
    assert tokens.unique().numel() > 3  # a model with constant outputs would prove little


@torch.no_grad()
def test_pictures_of_a_batch_may_be_at_different_positions() -> None:
    """A pass over positions 6, 0 and 3 of three pictures gives the same logits as each alone, for any `until`."""
    model, text = token_model(), captions(3)
    tokens = torch.cat([torch.full((3, 1), TOKENS.bos), torch.randint(TOKENS.codebook_size, (3, 8))], dim=1)
    starts, cache = [6, 0, 3], model.read(text, guide=True)
    for position in range(6):  # fills earlier positions; each picture repeats its start, which is overwritten below
        at = torch.tensor([min(position, start) for start in starts])[:, None]
        model.extend(tokens.gather(1, at).repeat(2, 1), Positions(at.repeat(2, 1)), cache)
    at = torch.tensor(starts)[:, None]
    together = [
        model.extend(tokens.gather(1, at).repeat(2, 1), Positions(at.repeat(2, 1), until), cache)
        for until in (None, 7, 9)
    ]
    for i, start in enumerate(starts):
        alone = model.read(text[i : i + 1], guide=True)
        for position in range(start + 1):
            at = torch.full((2, 1), position)
            said = model.extend(tokens[[i, i], position, None], Positions(at, position + 1, together=True), alone)
        for found in together:
            torch.testing.assert_close(found[[i, i + 3]], said, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("key_heads", [3, 1])
def test_attention_agrees_with_the_formula(key_heads: int) -> None:
    """Compares the layer with softmax attention written out, with RMS-normalised queries and keys."""
    torch.manual_seed(0)
    layer, x, other = Attention(24, 3, key_heads), torch.randn(2, 5, 24), torch.randn(2, 7, 24)
    for norm in (layer.query_norm, layer.key_norm):
        torch.nn.init.normal_(norm.weight)
    mask = torch.rand(2, 1, 1, 7) < 0.7
    got = layer(x, other, mask=mask)

    def rms(v: Tensor, weight: Tensor) -> Tensor:
        return v / (v.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    heads = []
    key_weight, value_weight = layer.key_value.weight.chunk(2)
    for h in range(3):
        rows = slice(8 * h, 8 * h + 8)
        q = rms(x @ layer.query.weight[rows].T, layer.query_norm.weight)
        rows = rows if key_heads == 3 else slice(8)  # all heads share the first
        k = rms(other @ key_weight[rows].T, layer.key_norm.weight)
        weights = (q @ k.transpose(1, 2) / math.sqrt(8)).masked_fill(~mask[:, 0], -torch.inf).softmax(-1)
        heads.append(weights @ (other @ value_weight[rows].T))
    torch.testing.assert_close(got, torch.cat(heads, -1) @ layer.out.weight.T, atol=1e-5, rtol=1e-5)


def test_later_tokens_do_not_affect_earlier_predictions() -> None:
    model, text = token_model(), captions(1)
    tokens = torch.arange(TOKENS.length)[None]
    changed = tokens.clone()
    changed[0, 5] = 19
    before, after = model(text, tokens), model(text, changed)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6], after[:, 6])


def test_padding_of_the_caption_changes_nothing() -> None:
    model, text = token_model(), captions(1)  # three ids, the rest padding
    tokens = torch.arange(TOKENS.length)[None]
    torch.testing.assert_close(model(text, tokens), model(text[:, :3], tokens), atol=1e-4, rtol=1e-4)


def test_pictures_end_only_where_rows_end() -> None:
    model, text = token_model(), captions(2)
    logits = model(text, torch.zeros(2, TOKENS.length, dtype=torch.long))
    may_end = logits[0, :, TOKENS.eos].isfinite()
    assert may_end.tolist() == [t in (3, 6, 9) for t in range(10)]
    assert not logits[:, -1, : TOKENS.codebook_size].isfinite().any()  # only EOS is left after the last row


def test_probabilities_of_all_pictures_add_up_to_one() -> None:
    config = dataclasses.replace(TOKENS, codebook_size=3, grid=2)
    model, text = token_model(config), captions(1)
    total = 0.0
    for rows in (1, 2):
        tokens = torch.tensor(list(itertools.product(range(3), repeat=2 * rows)))
        logits = model(text.expand(len(tokens), -1), tokens)
        total += log_likelihood(logits, tokens, config.eos).exp().sum().item()
    assert total == pytest.approx(1, abs=1e-5)


def test_loss_is_the_mean_negative_log_likelihood() -> None:
    model, text = token_model(), captions(4)
    tokens = torch.randint(20, (4, TOKENS.length), generator=torch.Generator().manual_seed(2))
    logits = model(text, tokens)
    loss, scalars = token_loss(logits, tokens, TOKENS.eos)
    assert loss.item() == pytest.approx(-log_likelihood(logits, tokens, TOKENS.eos).mean().item() / TOKENS.length)
    assert scalars["loss"] == loss
    assert scalars["accuracy"].item() == pytest.approx((logits[:, :9].argmax(-1) == tokens).float().mean().item())


def test_what_follows_an_early_end_is_not_learned() -> None:
    """A picture of two rows of three codes is scored as such, whatever the model says below it."""
    model, text = token_model(), captions(2)
    tokens = torch.randint(20, (2, TOKENS.length), generator=torch.Generator().manual_seed(2))
    low = tokens.clone()
    low[1, 6:] = TOKENS.eos
    logits = model(text, low)
    alone = log_likelihood(model(text, tokens[:, :6]), tokens[:, :6], TOKENS.eos)[1]
    both = log_likelihood(logits, low, TOKENS.eos)
    torch.testing.assert_close(both[1], alone)
    changed = logits.clone()
    changed[1, 7:] += torch.randn(logits[1, 7:].shape)
    loss, scalars = token_loss(logits, low, TOKENS.eos)
    assert loss.item() == pytest.approx(-both.mean().item() / TOKENS.length)
    assert scalars["loss"].item() == pytest.approx(-both.sum().item() / (TOKENS.length + 6))
    assert token_loss(changed, low, TOKENS.eos)[0] == loss
    right = (logits[:, :9].argmax(-1) == low).sum() - (logits[1, 6:9].argmax(-1) == TOKENS.eos).sum()
    assert scalars["accuracy"].item() == pytest.approx(right.item() / (TOKENS.length + 6))


def test_the_loss_of_a_batch_is_the_mean_of_its_parts() -> None:
    """Two processes, or accumulated passes, did not follow one where pictures end early."""
    model, text = token_model(), captions(4)
    tokens = torch.randint(20, (4, TOKENS.length), generator=torch.Generator().manual_seed(2))
    tokens[0, 3:] = TOKENS.eos
    logits = model(text, tokens)
    parts = [token_loss(logits[part], tokens[part], TOKENS.eos)[0] for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(token_loss(logits, tokens, TOKENS.eos)[0], torch.stack(parts).mean())


def test_an_untrained_model_predicts_all_codes_equally() -> None:
    torch.manual_seed(0)
    model = TokenModel(TOKENS).eval()
    tokens = torch.randint(20, (8, TOKENS.length))
    loss, _ = token_loss(model(captions(6)[:1].expand(8, -1), tokens), tokens, TOKENS.eos)
    assert loss.item() == pytest.approx(math.log(20), abs=0.2)


# Parti, table 1. The published sizes leave out embeddings.
@pytest.mark.parametrize(("name", "millions"), [("350m", 350), ("750m", 750), ("3b", 3000), ("20b", 20000)])
def test_parti_presets_have_the_published_sizes(name: str, millions: int) -> None:
    values = yaml.safe_load((Path(__file__).parents[1] / "configs" / "seq2seq" / f"parti-{name}.yaml").read_text())
    config = TokenModelConfig(**values["model"])
    with torch.device("meta"):
        model = TokenModel(config)
    blocks = sum(p.numel() for part in (model.encoder, model.decoder) for b in part.blocks for p in b.parameters())
    assert blocks / 1e6 == pytest.approx(millions, rel=0.03)
    embeddings = sum(p.numel() for p in model.parameters()) - blocks
    ids = config.text_vocab_size + config.text_length + 2 * config.codebook_size + 3 + 2 * config.grid + 1
    assert embeddings == config.width * (ids + 2)  # and the two final norms


def test_config_out_of_range() -> None:
    with pytest.raises(BadInput, match=r"key_heads is 3: must be absent, or a divisor of heads 4"):
        TokenModelConfig(heads=4, key_heads=3)
    with pytest.raises(BadInput, match=r"width is 30: must be a multiple of heads 4"):
        TokenModelConfig(width=30)
    with pytest.raises(BadInput, match=r"dropout is 1\.5: must be from 0 to below 1"):
        TokenModelConfig(dropout=1.5)


def test_hidden_tokens() -> None:
    """Each picture hides a share of its tokens, uniform from 0 to `most`. The other tokens are unchanged."""
    tokens = torch.randint(20, (4000, 64), generator=torch.Generator().manual_seed(0))
    read = drop_tokens(tokens, 0.8, 99, torch.Generator().manual_seed(1))
    hidden = read == 99
    assert torch.equal(read[~hidden], tokens[~hidden])
    shares = hidden.double().mean(1)
    assert shares.mean() == pytest.approx(0.4, abs=0.01)  # of a uniform distribution on 0 to 0.8
    assert shares.std() == pytest.approx((0.8**2 / 12 + 0.4 * 0.6 / 64 - 0.8**2 / 12 / 64) ** 0.5, abs=0.005)
    assert torch.equal(drop_tokens(tokens, 0.0, 99, torch.Generator()), tokens)
