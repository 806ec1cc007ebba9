"""The judge, suites and controls: equal pictures score the same from any source, and copying does not win."""

import hashlib
import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from fake_network import FakeNetwork
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional as F

from data.emoji import Emoji, emojis
from data.emoji.art import render_emoji
from data.grid import from_pil, to_pil
from data.source import open_source
from evaluation import features, measure
from evaluation.controls import nearest_captions
from evaluation.features import ClipFeatures, Features, Inception, Lite, cached, digests, extract, fingerprint
from evaluation.gallery import RealGallery, emoji_gallery
from evaluation.harness import JudgeOptions, open_networks, require_reference
from evaluation.judge import Judge
from evaluation.measure import MEASUREMENTS
from evaluation.pictures import Folder, list_pictures, list_prompted, padded, read_heights, read_pictures
from evaluation.result import differences
from evaluation.suites import SUITES, Prompt, Suite, open_suite
from training.errors import BadInput


def pictures(seed: int, count: int = 24, size: int = 16) -> Tensor:
    return torch.randint(
        0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def judge(tmp_path: Path, batch_size: int = 8) -> Judge:
    return Judge(
        networks=[FakeNetwork("lite0"), FakeNetwork("lite1 ")], reference=pictures(0), reference_name="noise",
        cache=tmp_path, batch_size=batch_size,
    )  # fmt: skip


def test_source_order_and_batch_size_do_not_change_scores(tmp_path: Path) -> None:
    made = pictures(1)
    expected = judge(tmp_path / "a").score(made)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    for i, picture in enumerate(made[order]):
        to_pil(picture).save(tmp_path / f"{i:02d}.png")
    read = read_pictures(sorted(tmp_path.glob("*.png")))
    found = judge(tmp_path / "b", batch_size=5).score(read)
    assert found.metrics.keys() == expected.metrics.keys() >= {"kid", "precision", "coverage", "class_score_lite0"}
    for name, metric in expected.metrics.items():
        assert found.metrics[name].to_dict() == pytest.approx(metric.to_dict(), rel=1e-5, abs=1e-9), name
    assert any("mostly bias" in note for note in found.notes)
    assert "fd_lite0" not in found.metrics


def test_features_are_cached_by_content(tmp_path: Path) -> None:
    network, images = FakeNetwork(), pictures(3)
    first = cached(network, images, tmp_path)
    assert network.calls == 24
    again = cached(network, [image.clone() for image in images], tmp_path)
    assert network.calls == 24
    torch.testing.assert_close(first.pooled, again.pooled)
    images[0, 0, 0, 0] ^= 1
    cached(network, images, tmp_path)
    assert network.calls == 48
    assert fingerprint(images) != fingerprint(images.flip(0))


def test_damaged_features_are_computed_again(tmp_path: Path) -> None:
    network, images = FakeNetwork(), pictures(3)
    first = cached(network, images, tmp_path)
    (file,) = (tmp_path / "features").iterdir()
    file.write_bytes(file.read_bytes()[:50])
    torch.testing.assert_close(cached(network, images, tmp_path).pooled, first.pooled)
    assert network.calls == 48


def test_scoring_again_uses_cached_features(tmp_path: Path) -> None:
    fair = judge(tmp_path)
    fair.score(pictures(1))
    calls = [network.calls for network in fair.networks]  # type: ignore[attr-defined]
    fair.score(pictures(1))
    assert [network.calls for network in fair.networks] == calls  # type: ignore[attr-defined]


def test_features_of_a_gpu_are_not_those_of_a_cpu(tmp_path: Path) -> None:
    """They may differ in the last bits."""
    network, images = FakeNetwork(), pictures(0, 2)
    cached(network, images, tmp_path)
    network.device = torch.device("cuda:1")
    cached(network, images, tmp_path)
    network.device = torch.device("cuda:0")
    cached(network, images, tmp_path)
    assert network.calls == 4


class FakeClip(ClipFeatures, FakeNetwork):
    def __init__(self) -> None:
        FakeNetwork.__init__(self, "clip")

    def __call__(self, images: Tensor) -> Features:
        return FakeNetwork.__call__(self, images)

    def texts(self, prompts: object) -> Tensor:
        return torch.ones(1, 16)


def test_clip_sees_only_pictures_with_prompts(tmp_path: Path) -> None:
    clip = FakeClip()
    fair = Judge(networks=[clip], reference=pictures(0), reference_name="noise", cache=tmp_path)
    fair.score(pictures(1))
    assert clip.calls == 0
    assert fair.score(pictures(1, 3), [Prompt(text="noise")] * 3).pictures.keys() == {"clip_score"}
    assert clip.calls == 3


class TinyInception(nn.Module):
    """Has the interface of the published TorchScript file."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(12, 5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, img: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        self.calls += 1
        features = F.adaptive_avg_pool2d(img.float() / 255, 2).flatten(1)
        if return_features:
            return features
        logits = F.linear(features, self.output.weight)
        return (logits if no_output_bias else logits + self.output.bias).softmax(1)


def test_inception_runs_once_for_each_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.jit.script(TinyInception()).save(str(tmp_path / "inception.pt"))  # type: ignore[no-untyped-call]
    digest = hashlib.sha256((tmp_path / "inception.pt").read_bytes()).hexdigest()
    monkeypatch.setattr(features, "INCEPTION_SHA256", digest)
    network, images = Inception(tmp_path / "inception.pt"), pictures(6, 4)
    found = network(images)
    assert network._network.calls == 1
    torch.testing.assert_close(found.pooled, network._network(images, return_features=True))
    torch.testing.assert_close(found.probabilities, network._network(images, no_output_bias=True))


@pytest.mark.parametrize("kind", ["another program", "no program", "pipe", "folder", "nothing"])
def test_no_other_program_is_run_as_inception(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, any TorchScript file was loaded, and so its code ran, which can read and write files."""
    file = tmp_path / "inception.pt"
    if kind == "another program":
        torch.jit.script(TinyInception()).save(str(file))  # type: ignore[no-untyped-call]
    elif kind == "no program":
        file.write_bytes(b"PK")
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("was loaded"))
    with pytest.raises(BadInput, match=r"a TorchScript file is a program|not a regular file|no such file"):
        Inception(file)


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_lite_features_do_not_depend_on_the_batch_size(variant: int) -> None:
    network = Lite(variant)
    images = pictures(4, 3, 24)
    one, all_ = extract(network, images, batch_size=1), extract(network, images, batch_size=3)
    torch.testing.assert_close(one.pooled, all_.pooled, rtol=1e-4, atol=1e-5)
    assert one.pooled.shape == (3, 1280)
    assert one.probabilities is not None
    torch.testing.assert_close(one.probabilities.sum(1), torch.ones(3))


def test_the_class_score_of_real_pictures_uses_all_of_them(tmp_path: Path) -> None:
    """The score grows with the number of pictures. Once, that of one half was shown beside that of a whole set."""
    real = judge(tmp_path)
    found = real.score(pictures(0), real=True).metrics["class_score_lite0"]
    assert found.value == pytest.approx(real.score(pictures(0)).metrics["class_score_lite0"].value)


def test_another_gallery_is_another_protocol(tmp_path: Path) -> None:
    def protocol(seed: int) -> dict[str, object]:
        gallery = RealGallery(pictures=list(pictures(seed, 12)), concepts=["a"] * 12, styles=["b"] * 12)
        fair = Judge(
            networks=[], reference=pictures(0), reference_name="noise", gallery=gallery, gallery_size=10, cache=tmp_path
        )
        return fair.protocol

    assert protocol(1) == protocol(1)
    assert [line.partition(":")[0] for line in differences(protocol(1), protocol(2))] == ["gallery.fingerprint"]


class PlaceAndColour(FakeNetwork):
    """Features of where the foreground is and, ten times weaker, of its colour."""

    def __call__(self, images: Tensor) -> Features:
        ink = (255 - images.float()) / 255
        places = F.adaptive_avg_pool2d(ink, 4).sum(1).flatten(1)
        return Features(pooled=torch.cat([places, ink.sum((2, 3)) / 160], dim=1))


def test_copying_does_not_win_on_a_held_out_style(tmp_path: Path) -> None:
    """A concept is a place, a style a colour. The copy has only the right concept; the real picture has both."""

    def picture(concept: int, style: int, jitter: int) -> Tensor:
        image = torch.full((3, 16, 16), 255, dtype=torch.uint8)
        y, x = divmod(concept, 4)
        image[:, y * 4 : y * 4 + 4, x * 4 : x * 4 + 4] = 8 * jitter
        image[style, y * 4 : y * 4 + 4, x * 4 : x * 4 + 4] = 200
        return image

    cells = [(c, s) for c in range(16) for s in range(3)]
    gallery = RealGallery(
        pictures=[picture(c, s, 0) for c, s in cells], concepts=[str(c) for c, _ in cells],
        styles=["rgb"[s] for _, s in cells],
    )  # fmt: skip
    prompts = [Prompt(text=f"{c}", concept=str(c), style="b", category="c") for c in range(4)]
    fair = Judge(
        networks=[PlaceAndColour()], reference=pictures(0), reference_name="noise", cache=tmp_path, gallery=gallery,
        gallery_size=40,
    )  # fmt: skip
    real = fair.score([picture(c, 2, 1) for c in range(4)], prompts).metrics
    copy = fair.score([picture(c, 0, 0) for c in range(4)], prompts).metrics
    assert copy["retrieval_top1"].value == 1  # the concept is right: another style's picture of it is found
    assert copy["style_accuracy"].value == 0
    assert copy["concept_and_style"].value == 0
    assert real["concept_and_style"].value == 1
    wrong = fair.score([picture(c + 5, 2, 1) for c in range(4)], prompts)
    assert wrong.metrics["retrieval_top1"].value == 0
    assert wrong.categories["c"]["retrieval_top1"].value == 0


def test_a_picture_of_the_gallery_does_not_find_itself(tmp_path: Path) -> None:
    """Once, real pictures that were scored found themselves in the gallery.

    Each concept has one picture, or two with the same pixels, and so no other right answer. The gallery has the last
    two only in another skin tone.
    """
    shown = pictures(5, 20)
    shown[7] = shown[3]
    concepts = [str(i) for i in range(20)]
    concepts[7] = "3"
    toned = shown[10:12].clone()
    toned[:, 0, 0, 0] ^= 1
    groups = dict(zip(digests(toned), ({"10/a"}, {"11/b"}), strict=True))
    gallery = RealGallery(pictures=list(shown), concepts=concepts, styles=["a", "b"] * 10, groups_by_digest=groups)
    strict = Judge(
        networks=[FakeNetwork()], reference=pictures(0), reference_name="noise", cache=tmp_path, gallery=gallery,
        gallery_size=15,
    )  # fmt: skip
    prompts = [Prompt(text=concept, concept=concept, style="c") for concept in concepts[:12]]
    assert strict.score(shown[:12], prompts).metrics["retrieval_top5"].value == 0
    assert strict.score(toned, prompts[10:]).metrics["retrieval_top5"].value == 0
    touched = shown[:12].clone()
    touched[:, 0, 0, 0] ^= 2
    assert strict.score(touched, prompts).metrics["retrieval_top1"].value == 1


class FakeCorpus:
    """The emoji corpus, each picture in its own shade of grey."""

    def __init__(self) -> None:
        self.emojis = emojis()

    def __len__(self) -> int:
        return len(self.emojis)

    def key(self, i: int) -> str:
        return self.emojis[i].key

    def __getitem__(self, i: int) -> Tensor:
        return torch.full((3, 2, 2), i % 251, dtype=torch.uint8)


def test_the_emoji_gallery_has_one_picture_for_each_family_and_style() -> None:
    prompts = open_suite("emoji/heldout-style", 20).prompts
    gallery = emoji_gallery(FakeCorpus(), prompts, 60)  # type: ignore[arg-type]
    assert len(set(gallery.groups)) == len(gallery.groups)
    assert {prompt.concept for prompt in prompts} <= set(gallery.concepts)
    more = emoji_gallery(FakeCorpus(), prompts[:1], 60)  # type: ignore[arg-type]
    assert more.groups_by_digest.keys() == set(digests(FakeCorpus()))  # of the whole corpus
    assert gallery.concepts[:60] == more.concepts[:60]  # others to find it among do not depend on the suite


def test_nearest_captions_weigh_rare_words_more() -> None:
    captions = ["a noto emoji of a cat", "a noto emoji of a fox", "a twemoji emoji of a fox", "a noto emoji of a cat"]
    assert nearest_captions(["an openmoji emoji of a fox", "a noto emoji of a cat"], captions) == [1, 0]
    assert nearest_captions(["quite different"], captions) == [0]


def test_the_contents_of_suites() -> None:
    splits = {emoji.key: emoji.split for emoji in emojis()}
    for name in ("train-sample", "train-tuning", "validation", "validation-style", "heldout-style"):
        suite = open_suite(f"emoji/{name}")
        split = "train" if name.startswith("train") else name
        assert {splits[prompt.key] for prompt in suite.prompts} == {split}
        assert open_suite(f"emoji/{name}", 7).prompts == open_suite(f"emoji/{name}", 7).prompts
        assert len(open_suite(f"emoji/{name}", 7).prompts) == 7
    sample, tuning = (
        {prompt.key for prompt in open_suite(f"emoji/{name}").prompts} for name in ("train-sample", "train-tuning")
    )
    assert not sample & tuning
    assert len(open_suite("lab").prompts) == 6
    assert len({open_suite(name).hash for name in SUITES}) == len(SUITES)
    assert all(prompt.expected for prompt in open_suite("attributes").prompts)
    with pytest.raises(BadInput, match="no suite 'none': give one of emoji/train-sample"):
        open_suite("none")


def test_the_hash_of_a_suite_does_not_depend_on_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, the hash had a path in it, and results of the same prompts on two machines did not compare."""
    prompts = [Prompt(text="a quilt", key="0.png")]
    here = Suite(name="photos", source="photos", prompts=prompts)
    assert here.hash == Suite(name="others", source="/elsewhere/photos", prompts=prompts).hash
    assert here.hash != Suite(name="photos", source="photos", prompts=[Prompt(text="a quilt", key="1.png")]).hash
    monkeypatch.chdir(tmp_path)
    require_reference(here, JudgeOptions(reference=f"{tmp_path}/photos/"))
    with pytest.raises(BadInput, match="the reference is of another corpus: 'emoji'"):
        require_reference(here, JudgeOptions(reference="emoji"))
    with pytest.raises(BadInput, match="the reference is of another corpus"):
        require_reference(open_suite("emoji/validation", 1), JudgeOptions(reference="./emoji"))


def test_captions_of_a_source_are_prepared_in_the_given_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluation.suites import opening

    def refuse(source: str, cache: Path) -> None:
        raise BadInput(f"{source} in {cache}")

    monkeypatch.setattr(opening, "open_corpus", refuse)
    with pytest.raises(BadInput, match=f"photos in {tmp_path}"):
        open_suite("photos@validation", cache=tmp_path)


def test_prompt_files_of_every_layout(tmp_path: Path) -> None:
    def suite(name: str, text: str) -> list[tuple[str, str, str]]:
        (tmp_path / name).write_text(text)
        return [(p.text, p.category, p.challenge) for p in open_suite(str(tmp_path / name)).prompts]

    parti = 'Prompt\tCategory\tChallenge\tNote\na sign that says "Hi\tArtifacts\tWriting & Symbols\t\n'
    assert suite("p.tsv", parti) == [('a sign that says "Hi', "Artifacts", "Writing & Symbols")]
    assert suite("d.csv", 'Prompts,Category\n"A red, big car",Colors\n') == [("A red, big car", "Colors", "")]
    assert suite("p.jsonl", '{"prompt": "a cat"}\n\n{"caption": "a dog"}\n') == [("a cat", "", ""), ("a dog", "", "")]
    assert suite("p.txt", "animals\ta cat\na dog\n") == [("a cat", "animals", ""), ("a dog", "", "")]
    coco = {"annotations": [{"id": i, "image_id": 9, "caption": f"a cat {i}\n"} for i in range(3)]}
    assert {text for text, *_ in suite("c.json", json.dumps(coco))} == {"a cat 0", "a cat 1", "a cat 2"}
    for name, text, says in (
        ("a.csv", "Name\nx\n", "a.csv, row 1: no column of prompts"),
        ("b.jsonl", "{oops\n", "b.jsonl, line 1: not valid JSON"),
        ("c.tsv", "Prompt\n", "there is no prompt"),
        ("d.json", "{}", "not COCO captions"),
        ("e.xml", "", "not a suite of prompts"),
        ("f.csv", f"Prompt\n{'x' * 200_000}\n", "f.csv: not a table .field larger than field limit"),
    ):
        with pytest.raises(BadInput, match=says):
            suite(name, text)


def test_captions_of_a_source_are_a_suite(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    suite = open_suite(f"{photos}@validation")
    assert [prompt.text for prompt in suite.prompts] == [f"a quilt, number {i}" for i in (0, 6, 12, 18)]
    assert suite.source == str(photos)
    with pytest.raises(BadInput, match="no split 'dev'; there are"):
        open_suite(f"{photos}@dev")


def drawn(*shapes: tuple[str, tuple[int, ...], str]) -> Tensor:
    image = Image.new("RGB", (64, 64), "white")
    for kind, box, fill in shapes:
        getattr(ImageDraw.Draw(image), kind)(box, fill=fill)
    return from_pil(image)


def test_measurements_of_simple_shapes() -> None:
    fills = {
        "red": "#dd2233", "green": "#44aa44", "blue": "#3366cc", "black": "#222222", "brown": "#8b5a2b",
        "yellow": "#ffd83c", "orange": "#ff8800", "purple": "#8844bb",
    }  # fmt: skip
    for name, fill in fills.items():
        assert MEASUREMENTS["colour"](drawn(("ellipse", (10, 10, 50, 50), fill))) == name
    dots = [("ellipse", (5 + 20 * i, 20, 17 + 20 * i, 32), "teal") for i in range(3)]
    for number in (1, 2, 3):
        assert MEASUREMENTS["count"](drawn(*dots[:number])) == str(number)
    arrow = drawn(("rectangle", (8, 28, 40, 36), "black"), ("polygon", (40, 12, 58, 32, 40, 52), "black"))
    hand = drawn(("rectangle", (6, 20, 34, 56), "orange"), ("rectangle", (34, 24, 60, 33), "orange"))
    for shape in (arrow, hand):
        for turns, name in enumerate(("right", "up", "left", "down")):
            assert MEASUREMENTS["direction"](shape.rot90(turns, (1, 2))) == name
    for name, fill in (("light", "#f7dece"), ("medium", "#bf8f68"), ("dark", "#5c4033")):
        assert MEASUREMENTS["skin tone"](drawn(("ellipse", (10, 10, 50, 50), fill))) == name
    blank = torch.full((3, 64, 64), 255, dtype=torch.uint8)
    assert all(isinstance(measure(blank), str) for measure in MEASUREMENTS.values())


def test_measurements_of_real_pictures(tmp_path: Path) -> None:
    """The scores of a few real pictures of the suite; rendering all would take long."""
    from data.emoji import find
    from data.emoji.art import render_emoji

    prompts = [prompt for i, prompt in enumerate(open_suite("attributes").prompts) if i % 6 == 0]
    right = []
    for prompt in prompts:
        emoji = find(prompt.key)
        picture = torch.from_numpy(render_emoji(emoji.codepoints, emoji.style, 64).copy())
        right.append(MEASUREMENTS[prompt.attribute](picture) == prompt.expected)
    assert sum(right) >= 0.95 * len(right)


KNOWN = {
    "red": ("red apple", "red envelope", "red paper lantern", "red triangle pointed up"),
    "orange": ("orange book", "large orange diamond", "carrot", "jack-o-lantern", "tangerine", "basketball"),
    "yellow": ("face without mouth", "slightly smiling face", "banana", "lemon"),
    "green": ("green apple", "leafy green", "green salad", "four leaf clover", "cucumber"),
    "blue": ("blue book", "large blue diamond", "jeans", "blueberries"),
    "purple": ("eggplant", "grapes", "alien monster", "crystal ball", "Ophiuchus"),
    "brown": ("brown mushroom", "pile of poo", "bear"),
    "black": ("black cat", "black flag", "black medium square", "black small square"),
}  # what everyone knows the colour of, and no attribute prompt asks for


def fewest_errors(low: list[float], high: list[float]) -> float:
    """The integer threshold with the fewest values on the wrong side; the middle one of several."""
    cuts = torch.arange(-30, 400)
    errors = (torch.tensor(low) > cuts[:, None]).sum(1) + (torch.tensor(high) <= cuts[:, None]).sum(1)
    return float(cuts[errors == errors.min()].double().mean())


def test_thresholds_of_measurements_come_from_other_pictures() -> None:
    """Once, they were fitted to the attribute suite's own pictures, whose score is the upper bound for models."""
    asked = {prompt.concept for prompt in open_suite("attributes").prompts}
    free = [e for e in emojis() if e.family not in asked and e.split in ("train", "validation")]

    def drawn(emoji: Emoji) -> Tensor:
        return torch.from_numpy(render_emoji(emoji.codepoints, emoji.style, 64).copy())

    tones: dict[str, list[float]] = {word: [] for _, word in measure._TONES}
    for emoji in free:
        word = emoji.name.partition(": ")[2].removesuffix(" skin tone")
        if word in tones and emoji.split == "validation":
            tones[word].append(measure.lightness_of_skin(drawn(emoji)))
    for (least, word), (_, darker) in pairwise(measure._TONES):
        assert least == fewest_errors(tones[darker], tones[word]), word

    hues: dict[str, list[float]] = {}
    lights: dict[str, list[float]] = {}
    for word, names in KNOWN.items():
        for hue, light in (measure.hue_and_brightest(drawn(emoji)) for emoji in free if emoji.name in names):
            hues.setdefault(word, []).append(hue - 360 if word != "purple" and hue > 330 else hue)
            lights.setdefault(word, []).append(light)
    following = [word for _, word in measure._HUES[1:]]
    for (end, word), after in zip(measure._HUES[:-1], following, strict=True):
        above = [hue + 360 * (word == "purple") for hue in hues[after]]
        assert end == fewest_errors(hues[word], above), word
    assert fewest_errors(lights["black"], lights["brown"]) == measure._BLACK
    assert fewest_errors(lights["brown"], lights["red"] + lights["orange"]) == measure._BROWN
    dark = {
        word: [hue for hue, light in zip(hues[word], lights[word], strict=True) if light < 200]
        for word in ("red", "yellow")
    }
    ends = fewest_errors(dark["red"], hues["brown"]), fewest_errors(hues["brown"], dark["yellow"])
    assert ends == measure._BROWN_HUES


def test_unusable_pictures_give_one_line(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (9, 8)).save(tmp_path / "b.png")
    with pytest.raises(BadInput, match=r"b.png: 9x8 pixels, but a.png has 8x8"):
        read_pictures(sorted(tmp_path.glob("*.png")))
    (tmp_path / "c.png").write_text("nonsense")
    with pytest.raises(BadInput, match=r"c.png: cannot be read"):
        read_pictures([tmp_path / "c.png"])
    with pytest.raises(BadInput, match="mixed sizes: 16x16 and 8x16"):
        extract(FakeNetwork(), [pictures(0)[0], pictures(0)[0][:, :, :8]])


def test_pictures_are_in_natural_order(tmp_path: Path) -> None:
    """Once, 10.png came before 2.png and so got the wrong prompt, and pictures in subfolders were scored too."""
    for name in ("10.png", "2.png", "1.png", "a-1.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert [file.name for file in list_pictures(tmp_path)] == ["1.png", "2.png", "10.png", "a-1.png"]
    (tmp_path / "controls").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "controls" / "0.png")
    with pytest.raises(BadInput, match=r"its pictures lie in 2 folders, such as .* and .*controls; give one of them"):
        list_pictures(tmp_path)
    assert len(Folder(tmp_path, 8)) == 5  # what real pictures are sorted into is not asked


def test_unreadable_lists_of_pictures_give_one_line(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_bytes(b'{"file_name": "\xff"}')
    with pytest.raises(BadInput, match=r"metadata.jsonl, line 1: not valid JSON"):
        list_prompted(tmp_path)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}')
    with pytest.raises(BadInput, match=r"metadata.jsonl, line 1: a.png is not a file"):
        list_prompted(tmp_path)
    for images in ([{"file": "a.png"}], ["a.png"], {"a.png": {}}, 3):
        (tmp_path / "generation.json").write_text(json.dumps({"images": images}))
        with pytest.raises(BadInput, match=r"generation.json: must give the file and the prompt of each picture"):
            list_prompted(tmp_path)


@pytest.mark.parametrize("name", ["../secret.png", "/secret.png", "link.png"])
def test_a_list_may_not_name_a_picture_outside_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "a"}))
    if name != "link.png":  # people's own metadata lead to shared disks
        with pytest.raises(BadInput, match="is not a file in"):
            list_prompted(folder)
    (folder / "generation.json").write_text(json.dumps({"images": [{"file": name, "prompt": "a"}]}))
    with pytest.raises(BadInput, match="folder: names the file"):
        list_prompted(folder)


def test_a_missing_device_gives_one_line() -> None:
    with pytest.raises(BadInput, match="device 'cuda:99' cannot be used here"):
        open_networks(JudgeOptions(device="cuda:99"))


def test_a_picture_that_ended_early_is_padded_with_white() -> None:
    square = padded(torch.zeros(3, 4, 12, dtype=torch.uint8))
    assert square.shape == (3, 12, 12)
    assert square[:, :4].max() == 0
    assert square[:, 4:].min() == 255


def test_a_low_picture_in_a_square_has_its_own_height(tmp_path: Path) -> None:
    """Pictures of several heights were refused, so the suite `scenes/low` could not be scored."""
    low, heights = [padded(picture[:, : 8 * (i % 8 + 1)]) for i, picture in enumerate(pictures(1, size=64))], []
    for i, picture in enumerate(low):
        heights.append(8 * (i % 8 + 1))
        to_pil(picture[:, : heights[-1]]).save(tmp_path / f"{i:02d}.png")
    prompts = [Prompt(text="a", attribute="height", expected=str(i % 8 + 1)) for i in range(len(low))]
    files = sorted(tmp_path.glob("*.png"))
    assert read_heights(files) == heights
    assert torch.equal(read_pictures(files, ended_early=True), torch.stack(low))
    for given, right in ((heights, 1), (None, 1 / 8)):
        scores = judge(tmp_path / "cache").score(low, prompts, heights=given)
        assert scores.metrics["attribute_accuracy"].value == right


def test_a_missing_source_gives_one_line() -> None:
    with pytest.raises(BadInput):
        open_source("nowhere", size=16)


def test_all_sets_are_also_scored_on_halves_like_the_real_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Precision and recall depend on the number of pictures. Once, values of half of the reference were shown beside
    values of whole sets, and later beside values of several pictures a prompt."""
    one = judge(tmp_path)
    real = one.score(list(one.reference), real=True)
    made = one.score(pictures(1))
    whole = {"precision", "recall", "density", "coverage"}
    halves = {f"{name}_halves" for name in whole}
    assert not whole & real.metrics.keys() and halves <= real.metrics.keys()
    assert whole | halves <= made.metrics.keys()
    assert "kid" in real.metrics and "kid compares every other real picture with the rest" in real.notes
    # the same pictures in the same halves: what a perfect copy of the reference scores
    again = one.score(list(one.reference), paired=True)
    for name in halves:
        assert again.metrics[name].value == pytest.approx(real.metrics[name].value), name
    thrice = one.score([picture for picture in one.reference for _ in range(3)], paired=True)
    for name in halves:
        assert thrice.metrics[name].value == pytest.approx(real.metrics[name].value), name
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr(one, "_compare", lambda *given: sizes.append((len(given[3]), len(given[4]))))
    one.score(torch.cat([pictures(2), pictures(3)]))
    assert sizes == [(48, 24), (12, 12)] * len(one.networks)


def test_a_judge_computes_nothing_before_it_is_needed(tmp_path: Path) -> None:
    class Broken(FakeNetwork):
        def __call__(self, images: Tensor) -> Features:
            raise AssertionError

    assert (
        len(Judge(networks=[Broken("lite0")], reference=pictures(0), reference_name="r", cache=tmp_path).reference)
        == 24
    )
