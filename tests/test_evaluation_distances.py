"""Distances between sets of features against scipy, torchmetrics, closed forms and brute force."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from evaluation.metrics import (
    Gallery,
    Metric,
    clip_score,
    density_coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
    linear_probe,
    precision_recall,
    retrieval,
)
from training.errors import BadInput


def features(seed: int, count: int = 80, width: int = 12, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * scale + shift


@pytest.mark.parametrize("counts", [(80, 70), (9, 8), (9, 70)], ids=["tall", "wide", "mixed"])
def test_frechet_distance_agrees_with_scipy_and_torchmetrics(counts: tuple[int, int]) -> None:
    x, y = features(0, counts[0]).double(), features(1, counts[1], shift=0.3, scale=1.4).double()
    mu_x, mu_y, s_x, s_y = x.mean(0), y.mean(0), x.T.cov(), y.T.cov()
    root = scipy.linalg.sqrtm(s_x.numpy() @ s_y.numpy())
    expected = float((mu_x - mu_y).square().sum() + s_x.trace() + s_y.trace()) - 2 * np.trace(root).real
    found = frechet_distance(x, y, force=True, resamples=2).value
    assert found == pytest.approx(expected, rel=1e-4)
    assert found == pytest.approx(float(_compute_fid(mu_x, s_x, mu_y, s_y)), rel=1e-4)


def test_frechet_distance_of_known_gaussians() -> None:
    """Diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2. Samples are whitened, so their moments are exact."""
    x = features(2, 200, 5).double()
    x = x - x.mean(0)
    white = x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T
    s1, s2 = torch.tensor([1.0, 2, 3, 4, 5]).double(), torch.tensor([2.0, 2, 1, 4, 0.5]).double()
    expected = 5 * 0.7**2 + float((s1 - s2).square().sum())
    assert frechet_distance(white * s1, white * s2 + 0.7, force=True, resamples=2).value == pytest.approx(expected)


def test_a_frechet_distance_of_few_pictures_is_refused_or_has_its_bias() -> None:
    x, y = features(3, 60), features(4, 60)
    with pytest.raises(BadInput, match=r"of 60 pictures is mostly bias: give 5,000"):
        frechet_distance(x, y)
    forced = frechet_distance(x, y, force=True)
    assert forced.bias is not None
    assert "bias" in forced.to_dict()
    # both are samples of one distribution, so the whole value is bias
    assert forced.bias == pytest.approx(forced.value, rel=0.6)
    many = frechet_distance(features(5, 5000, 2), features(6, 5000, 2), resamples=2)
    assert many.bias is None
    assert "bias" not in many.to_dict()


def test_kernel_distance_agrees_with_torchmetrics_and_brute_force() -> None:
    x, y = features(7, 30), features(8, 30, shift=0.4)
    found = kernel_distance(x, y).value
    assert found == pytest.approx(float(poly_mmd(x.double(), y.double())), rel=1e-4)

    def kernel(a: Tensor, b: Tensor) -> float:
        return (float(a.double() @ b.double()) / 12 + 1) ** 3

    y = y[:20]  # of unequal counts, written out
    within = [
        sum(kernel(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) / (len(s) * (len(s) - 1))
        for s in (x, y)
    ]
    across = sum(kernel(a, b) for a in x for b in y) / (30 * 20)
    assert kernel_distance(x, y).value == pytest.approx(sum(within) - 2 * across, rel=1e-4)


def test_the_interval_of_kernel_distance_covers_its_spread_over_samples() -> None:
    values = [
        kernel_distance(features(2 * s, 60), features(2 * s + 1, 60, shift=0.3), resamples=2).value for s in range(60)
    ]
    metric = kernel_distance(features(900, 60), features(901, 60, shift=0.3))
    assert metric.low is not None
    assert metric.high is not None
    assert (metric.high - metric.low) / (2 * 1.96) == pytest.approx(float(np.std(values)), rel=0.5)


def test_pairing_keeps_copies_of_originals_from_scoring_below_zero() -> None:
    """Without pairing, originals with a little noise scored -0.14, less than equal sets."""
    x, noise = features(10, 100), features(11, 100)
    assert kernel_distance(x + 0.5 * noise, x).value < 0
    assert kernel_distance(x + 0.5 * noise, x, paired=True).value > 0
    x, y = features(20, 25).double(), features(21, 25, shift=0.3).double()
    kernel = lambda a, b: (float(a @ b) / 12 + 1) ** 3  # noqa: E731
    terms = [
        kernel(x[i], x[j]) + kernel(y[i], y[j]) - kernel(x[i], y[j]) - kernel(x[j], y[i])
        for i in range(25) for j in range(25) if i != j
    ]  # fmt: skip
    assert kernel_distance(x, y, paired=True).value == pytest.approx(np.mean(terms), rel=1e-4)


def test_several_pictures_for_each_original_are_paired_too() -> None:
    """Against brute force: all pictures of one prompt with all of others. Without pairing, copies fell below 0."""
    y, noise = features(21, 8).double(), features(22, 24).double()
    x = y.repeat_interleave(3, dim=0) + 0.3 * noise
    asked = [str(i // 3 // 2) for i in range(24)]  # two originals have one caption
    kernel = lambda a, b: (float(a @ b) / 12 + 1) ** 3  # noqa: E731

    def apart(a: Tensor, b: Tensor, of_a: list[str], of_b: list[str]) -> float:
        values = [kernel(v, w) for v, p in zip(a, of_a, strict=True) for w, q in zip(b, of_b, strict=True) if p != q]
        return float(np.mean(values))

    for together, of_x in ((None, [str(i // 3) for i in range(24)]), (asked, asked)):
        of_y = of_x[::3]
        expected = apart(x, x, of_x, of_x) + apart(y, y, of_y, of_y) - 2 * apart(x, y, of_x, of_y)
        found = kernel_distance(x, y, paired=True, clusters=together)
        assert found.value == pytest.approx(expected, rel=1e-6)
        assert found.low is not None
        assert found.low < found.value
    copies = kernel_distance(y.repeat_interleave(3, dim=0), y, paired=True)
    assert copies.value == pytest.approx(0, abs=1e-9)
    assert kernel_distance(y.repeat_interleave(3, dim=0), y).value < -0.1
    with pytest.raises(ValueError, match="not equally many for each"):
        kernel_distance(x[:23], y, paired=True)
    with pytest.raises(BadInput, match="a distance between pairs needs two prompts"):
        kernel_distance(x[:6], y[:2], paired=True, clusters=["a"] * 6)


def test_kernels_are_computed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole kernel of 30,000 pictures does not fit into memory."""
    seen = []

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        seen.append(len(a))
        return (a @ b.T / a.shape[1] + 1) ** 3

    monkeypatch.setattr("torchmetrics.image.kid.poly_kernel", kernel)
    x, y = features(23, 1500, 4).double(), features(24, 1100, 4, shift=0.2).double()
    k_x, k_y = kernel(x, x), kernel(y, y)
    within = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (k_x, k_y)]
    expected = float(sum(within) - 2 * kernel(x, y).mean())
    seen.clear()
    assert kernel_distance(x, y, resamples=3).value == pytest.approx(expected, rel=1e-6)
    assert max(seen) == 1024


def test_identical_sets_have_distance_zero() -> None:
    x = features(9)
    assert frechet_distance(x, x.clone(), force=True, resamples=2).value == pytest.approx(0, abs=1e-9)
    assert kernel_distance(x, x.clone(), paired=True).to_dict() == pytest.approx(
        {"value": 0, "low": 0, "high": 0, "higher_is_better": False}, abs=1e-9
    )
    for metric in (*precision_recall(x, x.clone()), density_coverage(x, x.clone())[1]):
        assert metric.value == 1


def test_growing_noise_grows_the_distance() -> None:
    x, noise = features(10, 100), features(11, 100)
    sets = [x + level * noise for level in (0.0, 0.5, 1.0, 3.0)]
    frechet = [frechet_distance(made, x, force=True, resamples=2) for made in sets]
    kernel = [kernel_distance(made, x, paired=True) for made in sets]
    for found in (frechet, kernel):
        values = [metric.value for metric in found]
        assert values == sorted(values)
        assert values[0] == pytest.approx(0, abs=1e-9)
        assert values[-1] > 1
        assert not any(metric.higher_is_better for metric in found)
    precise = [precision_recall(made, x)[0].value for made in sets]
    assert precise == sorted(precise, reverse=True)
    covered = [density_coverage(made, x)[1].value for made in sets]
    assert covered == sorted(covered, reverse=True)


def test_precision_recall_density_and_coverage_by_brute_force() -> None:
    made, real = features(12, 25, 4, shift=0.5), features(13, 31, 4)

    def radius(points: Tensor, i: int, k: int) -> float:
        return sorted(math.dist(points[i], points[j]) for j in range(len(points)))[k]

    def inside(query: Tensor, points: Tensor, k: int) -> list[bool]:
        return [math.dist(query, points[i]) <= radius(points, i, k) for i in range(len(points))]

    precision, recall = precision_recall(made, real, k=3)
    assert precision.value == pytest.approx(np.mean([any(inside(q, real, 3)) for q in made]))
    assert recall.value == pytest.approx(np.mean([any(inside(q, made, 3)) for q in real]))
    density, coverage = density_coverage(made, real, k=5)
    holds = np.array([inside(q, real, 5) for q in made])
    assert density.value == pytest.approx(holds.sum() / (5 * len(made)))
    assert coverage.value == pytest.approx(holds.any(0).mean())
    with pytest.raises(BadInput, match="needs at least two pictures in each set"):
        kernel_distance(made[:1], real)
    few = kernel_distance(made[:2], real[:2])
    assert few.low is not None
    assert math.isfinite(few.low)  # some bootstrap samples of two pictures are one picture twice
    with pytest.raises(BadInput, match="3 pictures have no 3 nearest neighbours: give at least 4"):
        precision_recall(made[:3], real)


def test_inception_score() -> None:
    assert inception_score(torch.eye(7)).value == pytest.approx(7)  # sure of each, and all are different
    assert inception_score(torch.full((9, 7), 1 / 7)).value == pytest.approx(1)
    p = features(14, 20, 5).double().softmax(1)
    expected = np.exp(np.mean([(row * (row / p.mean(0)).log()).sum() for row in p]))
    assert inception_score(p).value == pytest.approx(expected, rel=1e-4)


def test_clip_score() -> None:
    a = torch.tensor([[1.0, 0], [1, 1], [1, 0]])
    b = torch.tensor([[2.0, 0], [1, 0], [-1, 0]])
    torch.testing.assert_close(clip_score(a, b), torch.tensor([100, 50 * 2**0.5, 0]).double())


def test_distances_do_not_depend_on_the_order() -> None:
    x, y = features(15), features(16, shift=0.2)
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert kernel_distance(x[shuffled], y).value == pytest.approx(kernel_distance(x, y).value, rel=1e-9)
    for a, b in zip(precision_recall(x[shuffled], y), precision_recall(x, y), strict=True):
        assert a == b  # the interval, too


GALLERY = Gallery(
    features=torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [-1, 0], [-0.9, -0.1], [0, -1.0]]),
    concepts=["fox", "fox", "cat", "cat", "dog", "dog", "owl"],
    groups=["fox/a", "fox/b", "cat/a", "cat/b", "dog/a", "dog/b", "owl/a"],
)


def test_retrieval_leaves_out_the_prompt_s_own_picture() -> None:
    made = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    ranks = retrieval(made, ["fox", "cat", "dog"], [{"fox/a"}, {"cat/b"}, {"dog/a"}], GALLERY, 5)
    # the third looks like a fox: all four others in its gallery (fox, fox, cat, cat) rank before a dog
    assert ranks.tolist() == [0, 0, 4]


def test_every_query_searches_a_gallery_of_one_size() -> None:
    made = torch.tensor([[0.0, -1.0]])
    # with 4 pictures, (dog/b and the first three others), the owl, which is nearest, is not among them
    assert retrieval(made, ["dog"], [{"dog/a"}], GALLERY, 4).tolist() == [0]
    assert retrieval(made, ["dog"], [{"dog/a"}], GALLERY, 6).tolist() == [1]
    with pytest.raises(BadInput, match="gallery has 94 pictures too few for queries of 100"):
        retrieval(made, ["dog"], [{"dog/a"}], GALLERY, 100)
    with pytest.raises(BadInput, match="no picture of the gallery shows 'bee'"):
        retrieval(made, ["bee"], [{"bee/a"}], GALLERY, 4)


def test_a_real_picture_does_not_find_itself() -> None:
    """Once, a copied training picture found itself in the gallery: top-1 0.91, where real pictures reached 0.26."""
    copies = GALLERY.features[[1, 5, 6]]  # fox/b for the prompt fox/a, and so on
    alone = retrieval(copies, ["fox", "dog", "owl"], [{"fox/a"}, {"dog/a"}, set()], GALLERY, 4)
    assert alone.tolist() == [0, 0, 0]
    left_out = [{"fox/a", "fox/b"}, {"dog/a", "dog/b"}, {"owl/a"}]
    assert retrieval(copies, ["fox", "dog", "owl"], left_out, GALLERY, 4).tolist() == [
        4,
        4,
        4,
    ]  # none is left
    # leaving out a picture of another concept does not make the gallery smaller
    ranks = retrieval(copies[:1], ["cat"], [{"cat/a", "fox/b"}], GALLERY, 4)
    assert ranks.tolist() == [1]  # fox/a, then cat/b; dog/a and dog/b fill it up


def test_a_linear_probe_separates_linear_classes() -> None:
    x = features(17, 200, 6)
    labels = ["left" if row[0] + 0.5 * row[1] < 0 else "right" for row in x]
    classify = linear_probe(x[:150], labels[:150])
    right = np.mean([a == b for a, b in zip(classify(x[150:]), labels[150:], strict=True)])
    assert right > 0.9


@pytest.mark.parametrize("count", [30, 120], ids=["wide", "tall"])
def test_a_linear_probe_agrees_with_its_equations(count: int) -> None:
    """(X'X + p I)^-1 X'Y, p by N |Y - H Y|^2 / tr(I - H)^2 of the hat matrix H = X (X'X + p I)^-1 X'."""
    x = features(18, count, 40).double()
    labels = [
        "abc"[int(value)] for value in (x[:, 0] + x[:, 1] + features(19, count, 1)[:, 0]).clamp(-1, 1).round() + 1
    ]
    mu, sigma = x.mean(0), x.std(0)

    def design(rows: Tensor) -> Tensor:
        return torch.cat([(rows.double() - mu) / sigma, torch.ones(len(rows), 1)], dim=1)

    targets = torch.tensor([[float(label == name) for name in "abc"] for label in labels]).double()
    errors = {}
    for power in np.linspace(-4, 1, 11):
        inverse = torch.linalg.inv(design(x).T @ design(x) + count * 10**power * torch.eye(41).double())
        left = torch.eye(count).double() - design(x) @ inverse @ design(x).T
        weights = inverse @ design(x).T @ targets
        errors[float((left @ targets).square().sum() / left.trace() ** 2)] = weights
    others = features(20, 300, 40)
    expected = (design(others) @ errors[min(errors)]).argmax(1)
    assert linear_probe(x.float(), labels)(others) == ["abc"[i] for i in expected]


def test_a_linear_probe_with_more_features_than_pictures_is_regularised() -> None:
    """40 pictures and 200 features, of which one matters: without a penalty, noise would weigh as much."""
    x = features(3, 440, 200)
    labels = ["left" if row[0] < 0 else "right" for row in x]
    x[:, 0] *= 3
    classify = linear_probe(x[:40], labels[:40])
    assert np.mean([a == b for a, b in zip(classify(x[40:]), labels[40:], strict=True)]) > 0.6


def test_pictures_of_one_prompt_are_resampled_together() -> None:
    """Each picture four times says no more than once: with `clusters` the interval does not get narrower."""
    x, y = features(1, 40), features(2, 400, shift=0.5)
    asked = [str(i) for i in range(40) for _ in range(4)]
    four = x.repeat_interleave(4, dim=0)

    def width(metric: Metric) -> float:
        assert metric.low is not None
        assert metric.high is not None
        return metric.high - metric.low

    probabilities = torch.rand(40, 7).softmax(1).repeat_interleave(4, dim=0)
    for apart, together in (
        (kernel_distance(four, y), kernel_distance(four, y, clusters=asked)),
        (frechet_distance(four, y, force=True), frechet_distance(four, y, force=True, clusters=asked)),
        (inception_score(probabilities), inception_score(probabilities, clusters=asked)),
        (density_coverage(four, y)[0], density_coverage(four, y, clusters=asked)[0]),
    ):
        assert together.value == apart.value
        assert width(together) > 1.2 * width(apart)
