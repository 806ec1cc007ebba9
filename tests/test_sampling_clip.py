"""CLIP as a scorer of candidates and as a feature network, with a tiny untrained CLIP."""

import dataclasses
from pathlib import Path

import pytest
import torch
from tiny_models import save_bundle
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from evaluation.features import ClipFeatures
from sampling import SamplingOptions, TokenBackend, load
from sampling.choose import candidate_seeds
from sampling.clip import Clip, clip_similarity
from training.errors import BadInput

CAPTION = "a noto emoji of a fox"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CLIP of 30 px pictures and at most 6 words."""
    out = str(tmp_path_factory.mktemp("clip"))
    names = ["<pad>", "<end>", "a", "noto", "emoji", "of", "fox", "cat"]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<pad>").save_pretrained(out)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 8, "max_position_embeddings": 6, "eos_token_id": 1, "bos_token_id": 0}
    torch.manual_seed(0)
    shape = CLIPConfig(text_config=text, vision_config={**tower, "image_size": 30, "patch_size": 10}, projection_dim=12)
    CLIPModel(shape).save_pretrained(out)
    return out


def test_it_agrees_with_the_logits_of_transformers(folder: str) -> None:
    """Pictures of the network's size, normalised as its processor does."""
    pictures = torch.randint(0, 256, (3, 3, 30, 30), dtype=torch.uint8)
    prompts = ["a fox", "a cat", "a noto emoji"]
    clip = Clip(folder)
    x = (pictures / 255 - torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)) / torch.tensor(
        [0.26862954, 0.26130258, 0.27577711]
    ).view(3, 1, 1)
    ids = clip._tokenizer(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = clip.model(**ids, pixel_values=x)
    expected = (out.logits_per_image / clip.model.logit_scale.exp()).diagonal()
    torch.testing.assert_close(clip_similarity(clip, prompts, list(pictures)), expected, atol=1e-5, rtol=1e-5)


def test_pictures_of_any_size_and_captions_of_any_length(folder: str) -> None:
    clip = Clip(folder)
    found = clip.images([torch.zeros(3, 64, 64, dtype=torch.uint8), torch.zeros(3, 16, 64, dtype=torch.uint8)])
    assert found.shape == (2, 12)
    assert torch.equal(clip.texts(["a " * 50, "a " * 6])[0], clip.texts(["a " * 50, "a " * 6])[1])


def test_it_chooses_among_candidates(folder: str, tmp_path: Path) -> None:
    loaded = load(save_bundle(tmp_path))
    options = SamplingOptions(temperature=5.0, guidance=1.0)
    text, seeds, backend = loaded.text.encode([CAPTION] * 4), torch.arange(4), loaded.backend("autoregressive")
    assert isinstance(backend, TokenBackend)
    candidates = [
        [loaded.tokenizer.decode(codes[None])[0] for codes in backend.prepared.draw(text, those, options)]
        for those in (candidate_seeds(seeds, n) for n in range(3))
    ]
    clip = Clip(folder)
    best = torch.stack([clip_similarity(clip, [CAPTION] * 4, pictures) for pictures in candidates]).argmax(0).tolist()
    assert len({*best}) > 1  # else nothing would be shown
    chosen = loaded.generate([CAPTION], num_images=4, options=dataclasses.replace(options, best_of=3, scorer=folder))
    for i, picture in enumerate(chosen):
        assert torch.equal(picture, candidates[best[i]][i])


def test_its_features_do_not_depend_on_the_batch(folder: str) -> None:
    network, pictures = ClipFeatures(folder), torch.randint(0, 256, (4, 3, 20, 20), dtype=torch.uint8)
    apart = torch.cat([network(picture[None]).pooled for picture in pictures])
    torch.testing.assert_close(network(pictures).pooled, apart, atol=1e-5, rtol=1e-5)
    assert network.hash == ClipFeatures(folder).hash


def test_a_missing_clip_and_a_scorer_without_candidates_are_refused() -> None:
    with pytest.raises(BadInput, match="/nowhere/clip: no such folder; a model on the Hub is given as hf://owner/name"):
        Clip("/nowhere/clip")
    with pytest.raises(BadInput, match=r"scorer is 'clip': must be absent unless best_of is 2 or more"):
        SamplingOptions(scorer="clip")
