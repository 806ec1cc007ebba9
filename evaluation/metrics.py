"""Metrics: pure functions of uint8 pictures, codes or features, most with a direction and a bootstrap interval.

No function here knows which model made the pictures, or which network the features come from. Sets of features are
float tensors: `made` (N, D) of the pictures that are judged, `real` (M, D) of the reference.

Intervals come from the bootstrap. Where several pictures have one prompt, `clusters` names the prompt of each picture,
and whole clusters are resampled (cluster bootstrap): four pictures of each prompt say less than four times as many
prompts.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training.errors import BadInput, needing

VERSION = 7
"""Version of all definitions in this file; raise it when any value would change."""

ENOUGH_FOR_FRECHET = 5000
"""Pictures that a Frechet distance in about a thousand dimensions needs; with fewer, most of the value is bias."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A value with its 95 % interval; `low` and `high` are None where there is no interval."""

    value: float
    low: float | None = None
    high: float | None = None
    higher_is_better: bool = True
    bias: float | None = None
    """Estimated difference from the value for infinitely many pictures, where that is known."""

    def to_dict(self) -> dict[str, float | bool | None]:
        """The metric as JSON values of a result file."""
        return {name: value for name, value in asdict(self).items() if name != "bias" or value is not None}


# ---------------------------------------------------------------------------------------------------------------------
# Pictures and their originals


def psnr(made: Tensor, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture: uint8 (B, 3, H, W) twice -> (B,); at most 100."""
    error = (made.float() - images.float()).square().flatten(1).mean(1)
    return (10 * torch.log10(255**2 / error)).clamp(max=100)


def ssim(made: Tensor, images: Tensor) -> Tensor:
    """Structural similarity of each picture (Wang et al. 2004, Gaussian window, reflected edges): as `psnr`."""
    with needing("eval"):
        from torchmetrics.functional.image import structural_similarity_index_measure
    values = structural_similarity_index_measure(made.float(), images.float(), data_range=255.0, reduction="none")
    assert isinstance(values, Tensor)
    return values


def lpips(made: Tensor, images: Tensor) -> Tensor:
    """LPIPS, the learned perceptual distance (arXiv 1801.03924, SqueezeNet): uint8 (B, 3, H, W) twice -> (B,).

    Raises `BadInput` without torchvision and its weights, which are not installed by default.
    """
    with torch.no_grad():
        return _squeeze()(made / 127.5 - 1, images / 127.5 - 1).flatten()


@cache
def _squeeze() -> Any:
    try:
        from torchmetrics.functional.image.lpips import _NoTrainLpips

        return _NoTrainLpips(net="squeeze")
    except (ImportError, ModuleNotFoundError, OSError) as error:
        raise BadInput(
            f"LPIPS needs torchvision and its SqueezeNet weights, on disk or downloadable ({error})"
        ) from None


# ---------------------------------------------------------------------------------------------------------------------
# Codes


def usage(codes: Tensor, codebook_size: int) -> float:
    """Fraction of the codebook that occurs in `codes` (any shape, int64)."""
    return int((torch.bincount(codes.flatten(), minlength=codebook_size) > 0).sum()) / codebook_size


def perplexity(codes: Tensor, codebook_size: int) -> float:
    """Perplexity of the code frequencies, exp of their entropy, for `codes` (any shape, int64)."""
    p = torch.bincount(codes.flatten(), minlength=codebook_size).double()
    return float(torch.special.entr(p / p.sum()).sum().exp())


# ---------------------------------------------------------------------------------------------------------------------
# Means over pictures


def mean(
    values: Tensor, *, clusters: Sequence[str] | None = None, higher_is_better: bool = True, resamples: int = 1000
) -> Metric:
    """Mean of one value for each picture, (B,), with the percentile interval of the bootstrap over clusters.

    Clusters are sorted before they are resampled, so the interval does not depend on the order of the pictures. One
    cluster alone has no interval. If all values are True, or all False, every sample is the same; the interval is then
    Wilson's, with one trial for each cluster.
    """
    array = values.double().numpy()
    _, of = np.unique(clusters or np.arange(len(array)), return_inverse=True)
    counts, sums = np.bincount(of), np.bincount(of, weights=array)
    if len(counts) == 1:
        return Metric(value=float(array.mean()), higher_is_better=higher_is_better)
    if values.dtype == torch.bool and values.all() == values.any():
        with needing("eval"):
            from scipy.stats import binomtest
        trials = binomtest(len(counts) if values.all() else 0, len(counts)).proportion_ci(method="wilson")
        return Metric(value=float(array.mean()), low=float(trials.low), high=float(trials.high),
                      higher_is_better=higher_is_better)  # fmt: skip
    order = np.lexsort((counts, sums))
    samples = order[np.random.default_rng(0).integers(len(order), size=(resamples, len(order)))]
    means = sums[samples].sum(1) / counts[samples].sum(1)
    return _with_interval(float(array.mean()), means, higher_is_better)


def clip_score(images: Tensor, texts: Tensor) -> Tensor:
    """CLIP score, 100 max(cos, 0), of each picture and its prompt: features (N, D) twice -> (N,).

    From arXiv 2104.08718, with the factor of torchmetrics.
    """
    return 100 * F.cosine_similarity(images.double(), texts.double()).clamp(min=0)


# ---------------------------------------------------------------------------------------------------------------------
# Distances between two sets of features


def frechet_distance(
    made: Tensor, real: Tensor, *, force: bool = False, clusters: Sequence[str] | None = None, resamples: int = 20
) -> Metric:
    """Frechet distance of the Gaussians fitted to two sets of features (arXiv 1706.08500, equation 6).

    For fewer than 5,000 pictures on either side it raises `BadInput`; with `force` it returns the metric with its
    estimated bias. The interval is the value +- 1.96 standard deviations over bootstrap samples of both sets.
    """
    count = min(len(made), len(real))
    if count < ENOUGH_FOR_FRECHET and not force:
        raise BadInput(
            f"a Frechet distance of {count:,} pictures is mostly bias: give {ENOUGH_FOR_FRECHET:,}, "
            "use KID instead, or force it"
        )
    _require_two(made, real)
    value = _frechet(made, real)
    rng = np.random.default_rng(0)
    samples = [_frechet(_resampled(made, rng, clusters), _resampled(real, rng)) for _ in range(resamples)]
    spread = 1.96 * float(np.std(samples, ddof=1))
    bias = _frechet_bias(value, made, real) if count < ENOUGH_FOR_FRECHET else None
    return Metric(value=value, low=value - spread, high=value + spread, higher_is_better=False, bias=bias)


def _frechet(made: Tensor, real: Tensor) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    Let X be the centred features divided by sqrt(n - 1), and Y likewise. The trace of (S1 S2)^(1/2) is the sum of the
    singular values of X Y^T. This avoids the square root of a matrix that rounding may make slightly indefinite.
    """
    (mu_x, root_x), (mu_y, root_y) = _moments(made), _moments(real)
    cross = torch.linalg.svdvals(root_x @ root_y.T).sum()
    distance = (mu_x - mu_y).square().sum() + root_x.square().sum() + root_y.square().sum() - 2 * cross
    return max(float(distance), 0.0)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and a root R (min(N, D), D) of the covariance: R^T R = S."""
    x = features.double()
    mu = x.mean(0)
    root = (x - mu) / (len(x) - 1) ** 0.5
    if len(x) > x.shape[1]:
        values, vectors = torch.linalg.eigh(root.T @ root)
        root = values.clamp(min=0).sqrt()[:, None] * vectors.T
    return mu, root


def _frechet_bias(value: float, made: Tensor, real: Tensor) -> float:
    """The bias b / N of a distance that is about d + b / N for N pictures (arXiv 1911.07023).

    Half as many pictures add b / N to the distance, so it is the difference to the mean over two halves.
    """
    halves = [_frechet(made[part::2], real[part::2]) for part in (0, 1)]
    return float(np.mean(halves)) - value


def kernel_distance(
    made: Tensor, real: Tensor, *, paired: bool = False, clusters: Sequence[str] | None = None, resamples: int = 200
) -> Metric:
    """KID: unbiased squared maximum mean discrepancy, kernel (x.y / D + 1)^3 (arXiv 1801.01401, equation 4).

    It uses all pairs instead of random subsets, so it is deterministic. Two samples of one distribution score about 0,
    sometimes below.

    `paired` means that `made` has N / M pictures in a row for each real one, made from it or for its caption. Pictures
    of one prompt are then not compared with each other, nor with its real picture (Gretton et al. 2012, lemma 6,
    equation 4). Otherwise pictures that resemble their own originals would score below 0, nearer than a sample of the
    same distribution. A set paired with itself scores 0.

    Raises `BadInput` for fewer than two pictures in a set, or two prompts with `paired`; `ValueError` if M does not
    divide N with `paired`.
    """
    _require_two(made, real)
    each, left = divmod(len(made), len(real))
    if paired and (left or not each):
        raise ValueError(f"{len(made)} made pictures are not equally many for each of {len(real)} real ones")
    # two pictures are compared unless they have the same number here
    of_x, of_y = torch.arange(len(made)), len(made) + torch.arange(len(real))
    groups: Sequence[str] | Sequence[int] | None = clusters
    if paired:
        groups = clusters or [i // each for i in range(len(made))]
        of_x = torch.from_numpy(np.unique(np.array(groups), return_inverse=True)[1])
        of_y = of_x[::each]
        if not of_x.any():  # all have number 0
            raise BadInput("a distance between pairs needs two prompts")
    rng = np.random.default_rng(0)
    # row 0 weights all pictures alike, the others are bootstrap samples
    w_x = torch.cat([torch.ones(1, len(made)).double(), _weights(len(made), resamples, rng, groups)])
    sampled_y = w_x[1:, ::each] if paired else _weights(len(real), resamples, rng)
    w_y = torch.cat([torch.ones(1, len(real)).double(), sampled_y])
    within = _mean_kernel(made, made, w_x, w_x, of_x, of_x) + _mean_kernel(real, real, w_y, w_y, of_y, of_y)
    value, *samples = (within - 2 * _mean_kernel(made, real, w_x, w_y, of_x, of_y)).tolist()
    return _with_interval(value, np.array(samples), higher_is_better=False)


def _mean_kernel(x: Tensor, y: Tensor, w_x: Tensor, w_y: Tensor, of_x: Tensor, of_y: Tensor) -> Tensor:
    """Weighted mean of the kernel over all pairs with `of_x` != `of_y`, for each row of weights: (R,).

    Features x (N, D) and y (M, D), weights (R, N) and (R, M), `of_x` (N,) and `of_y` (M,). Computes 1,024 rows of the
    kernel at a time, because the whole kernel of 30,000 pictures takes 7 GB.
    """
    with needing("eval"):
        from torchmetrics.image.kid import poly_kernel
    y = y.double()
    total, pairs = torch.zeros(len(w_x)).double(), w_x.sum(1) * w_y.sum(1)
    for rows in torch.split(torch.arange(len(x)), 1024):
        same = of_x[rows, None] == of_y
        kernel = poly_kernel(x[rows].double(), y).masked_fill(same, 0.0)
        total += ((w_x[:, rows] @ kernel) * w_y).sum(1)
        pairs -= w_x[:, rows].square() @ same.sum(1).double()  # pictures with equal numbers have equal weights
    return total / pairs


def inception_score(probabilities: Tensor, *, clusters: Sequence[str] | None = None, resamples: int = 200) -> Metric:
    """exp of the mean divergence KL(p(y|x) || p(y)) (arXiv 1606.03498) of class probabilities (N, C), in one split.

    It compares with published scores only if the probabilities are those of Inception.
    """
    p = probabilities.double()
    entropies = torch.special.entr(p).sum(1)

    def score(weights: Tensor) -> Tensor:
        share = weights / weights.sum(1, keepdim=True)
        return (torch.special.entr(share @ p).sum(1) - share @ entropies).exp()

    value = float(score(torch.ones(1, len(p), dtype=torch.double)))
    samples = score(_weights(len(p), resamples, np.random.default_rng(0), clusters))
    return _with_interval(value, samples.numpy(), higher_is_better=True)


# ---------------------------------------------------------------------------------------------------------------------
# Nearest neighbours

_ROWS = 512


def precision_recall(
    made: Tensor, real: Tensor, k: int = 3, *, clusters: Sequence[str] | None = None
) -> tuple[Metric, Metric]:
    """Fraction of made pictures in the real manifold, and of real ones in the made manifold (arXiv 1904.06991, eq. 2).

    Raises `BadInput` for `k` pictures or fewer in a set.
    """
    _require_neighbours(made, real, k)
    return mean(_within_any(made, real, k), clusters=clusters), mean(_within_any(real, made, k))


def density_coverage(
    made: Tensor, real: Tensor, k: int = 5, *, clusters: Sequence[str] | None = None
) -> tuple[Metric, Metric]:
    """Mean number of real neighbourhoods that a made picture lies in, over k; and the fraction of real neighbourhoods
    that contain a made picture (arXiv 2002.09797). Raises `BadInput` for `k` pictures or fewer in a set."""
    _require_neighbours(made, real, k)
    radii = _radii(real, k)
    counts = torch.cat([(distances <= radii).sum(1) for distances in _distances(made, real)])
    blocks = zip(_distances(real, made), torch.split(radii, _ROWS), strict=True)
    covered = torch.cat([(distances <= radius[:, None]).any(1) for distances, radius in blocks])
    return mean(counts.double() / k, clusters=clusters), mean(covered)


def _within_any(queries: Tensor, manifold: Tensor, k: int) -> Tensor:
    """Whether each query is at most as far from a point of the manifold as that point's k-th neighbour: bool (N,)."""
    radii = _radii(manifold, k)
    return torch.cat([(distances <= radii).any(1) for distances in _distances(queries, manifold)])


def _radii(features: Tensor, k: int) -> Tensor:
    """Squared distance of each point to its k-th nearest other point, (N,)."""
    return torch.cat([distances.kthvalue(k + 1, dim=1).values for distances in _distances(features, features)])


def _distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Squared Euclidean distances, `_ROWS` rows of `a` at a time: (`_ROWS`, M). Equal points have distance 0."""
    b = b.double()
    norms = b.square().sum(1)
    for part in torch.split(a.double(), _ROWS):
        squared = part.square().sum(1, keepdim=True) + norms - 2 * part @ b.T
        # rounding leaves a small distance between equal points
        yield torch.where(squared < 1e-9 * norms.mean(), 0.0, squared)


def _require_two(made: Tensor, real: Tensor) -> None:
    if min(len(made), len(real)) < 2:
        raise BadInput("a distance between sets needs at least two pictures in each set")


def _require_neighbours(made: Tensor, real: Tensor, k: int) -> None:
    if min(len(made), len(real)) <= k:
        raise BadInput(f"{min(len(made), len(real))} pictures have no {k} nearest neighbours: give at least {k + 1}")


# ---------------------------------------------------------------------------------------------------------------------
# Whether a picture shows what its prompt asks for


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Real pictures for retrieval. A query of fixed size takes the first ones, in this order."""

    features: Tensor
    """(M, D)."""
    concepts: Sequence[str]
    """What each picture shows. All pictures of one concept, such as its skin tones, are right answers."""
    groups: Sequence[str]
    """The group of each picture. Groups are the unit in which pictures are left out of a query."""


def retrieval(
    made: Tensor, concepts: Sequence[str], left_out: Sequence[Collection[str]], gallery: Gallery, size: int
) -> Tensor:
    """Rank of the first right answer among `size` real pictures sorted by cosine similarity: (N, D) -> (N,), from 0.

    Each query searches all pictures of its concept, and as many of other concepts, in the gallery's order, as make
    `size`. Groups in its `left_out` are skipped: that of the prompt's own picture, and those of the query picture if
    it is in the gallery, so that it does not find itself. `rank < k` is top-k retrieval. A query with no right answer
    left gets the rank after all others.

    Raises `BadInput` if the gallery lacks a concept, or has too few pictures.
    """
    answers = np.array([[shown == asked for shown in gallery.concepts] for asked in concepts])
    out = np.array([[group in groups for group in gallery.groups] for groups in left_out])
    right = answers & ~out
    other = ~answers & ~out
    others = other & (np.cumsum(other, 1) <= size - right.sum(1, keepdims=True))
    unknown = ~answers.any(1)
    if unknown.any():
        raise BadInput(f"no picture of the gallery shows {concepts[int(unknown.argmax())]!r}")
    lacking = size - int((right | others).sum(1).min())
    if lacking > 0:
        raise BadInput(f"the gallery has {lacking} pictures too few for queries of {size}: lower --gallery_size")
    similarity = F.normalize(made.double(), dim=1) @ F.normalize(gallery.features.double(), dim=1).T
    best = similarity.masked_fill(~torch.from_numpy(right), -torch.inf).amax(1, keepdim=True)
    return ((similarity > best) & torch.from_numpy(others)).sum(1)


def linear_probe(features: Tensor, labels: Sequence[str]) -> Callable[[Tensor], list[str]]:
    """Fit a ridge classifier (one-hot targets) to standardised features (N, D); returns a function to labels.

    Of 11 penalties it takes the one with the least generalised cross-validation error (Golub, Heath and Wahba, 1979,
    eq. 1.4) on these features, so the choice does not depend on the pictures that are judged.
    """
    names = sorted(set(labels))
    mu, sigma = features.double().mean(0), features.double().std(0).clamp_min(1e-6)
    x = F.pad((features.double() - mu) / sigma, (0, 1), value=1.0)
    targets = F.one_hot(torch.tensor([names.index(label) for label in labels]), len(names)).double()
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    projected = u.T @ targets

    def error(penalty: Tensor) -> Tensor:
        kept = s**2 / (s**2 + penalty)
        residual = targets - u @ (kept[:, None] * projected)
        return residual.square().sum() / (1 - kept.sum() / len(x)) ** 2

    penalties = len(x) * torch.logspace(-4, 1, 11, dtype=torch.double)
    best = min(penalties, key=error)
    weights = vh.T @ ((s / (s**2 + best))[:, None] * projected)

    def classify(others: Tensor) -> list[str]:
        scores = F.pad((others.double() - mu) / sigma, (0, 1), value=1.0) @ weights
        return [names[i] for i in scores.argmax(1).tolist()]

    return classify


# ---------------------------------------------------------------------------------------------------------------------
# The bootstrap


def _with_interval(value: float, samples: NDArray[np.float64], higher_is_better: bool) -> Metric:
    """A metric with the percentile interval of its values on bootstrap samples."""
    # a sample may consist of one picture alone, which has no distance
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return Metric(value=value, higher_is_better=higher_is_better)
    low, high = np.percentile(samples, [2.5, 97.5])
    return Metric(value=value, low=float(low), high=float(high), higher_is_better=higher_is_better)


def _resampled(features: Tensor, rng: np.random.Generator, clusters: Sequence[str] | None = None) -> Tensor:
    return features.repeat_interleave(_weights(len(features), 1, rng, clusters)[0].long(), dim=0)


def _weights(
    count: int, resamples: int, rng: np.random.Generator, clusters: Sequence[str] | Sequence[int] | None = None
) -> Tensor:
    """How often each bootstrap sample has each of `count` pictures: (R, count) float64."""
    _, of = np.unique(clusters or np.arange(count), return_inverse=True)
    groups = int(of.max()) + 1
    return torch.from_numpy(rng.multinomial(groups, np.full(groups, 1 / groups), size=resamples)[:, of]).double()
