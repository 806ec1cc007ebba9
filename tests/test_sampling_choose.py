"""Best-of-N sampling: the likelihood against its formula, and the seeds of candidates."""

import torch
from tiny_models import TOKENS, captions, token_model
from torch import Tensor

from sampling.choose import candidate_seeds, likelihoods


def log_probability(text: Tensor, codes: Tensor) -> float:
    """Token by token, EOS included."""
    model, tokens = token_model(), [*codes.flatten().tolist(), TOKENS.eos]
    with torch.no_grad():
        logits = model(text, codes.flatten()[None])[0].double()
    return sum((logits[t] - logits[t].logsumexp(0))[token].item() for t, token in enumerate(tokens))


def test_the_likelihood_is_the_product_over_tokens() -> None:
    """For pictures of several heights."""
    generator = torch.Generator().manual_seed(0)
    codes = [torch.randint(20, (height, 3), generator=generator) for height in (3, 1, 3, 2)]
    text = captions(4)
    found = likelihoods(token_model(), text, codes)
    expected = [log_probability(text[i : i + 1], codes[i]) for i in range(4)]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_candidates_differ_and_the_first_has_the_original_seed() -> None:
    seeds = torch.tensor([0, 5, 2**62 - 1])
    assert torch.equal(candidate_seeds(seeds, 0), seeds)
    assert torch.unique(torch.cat([candidate_seeds(seeds, n) for n in range(1024)])).numel() == 3 * 1024
