"""Metrics: pure functions of uint8 batches, codes or features, each with a direction and a bootstrap interval.

No function here knows which model made the pictures, or even which network the features come from. Sets of features
are float tensors (N, D); `made` are those of the pictures judged, `real` those of the reference.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image.kid import poly_kernel

from training.errors import BadInput

VERSION = 6
"""Of all definitions in this file; raise it when any figure would change."""

ENOUGH_FOR_FRECHET = 5000
"""Pictures that a Frechet distance in some thousand dimensions needs; with fewer it is mostly bias."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure with its 95 % interval."""

    value: float
    low: float | None = None
    high: float | None = None
    higher_is_better: bool = True
    bias: float | None = None
    """How far the value is expected to lie above that of infinitely many pictures, where that is known."""

    def to_dict(self) -> dict[str, float | bool | None]:
        """As it stands in a result file."""
        return {name: value for name, value in asdict(self).items() if name != "bias" or value is not None}


# ---------------------------------------------------------------------------------------------------------------------
# Pictures beside their originals


def psnr(made: Tensor, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture: uint8 (B, 3, H, W) twice -> (B,); at most 100."""
    error = (made.float() - images.float()).square().flatten(1).mean(1)
    return (10 * torch.log10(255**2 / error)).clamp(max=100)


def ssim(made: Tensor, images: Tensor) -> Tensor:
    """Structural similarity of each picture (Wang et al. 2004, Gaussian, edges reflected): uint8 twice -> (B,)."""
    values = structural_similarity_index_measure(made.float(), images.float(), data_range=255.0, reduction="none")
    assert isinstance(values, Tensor)
    return values


def lpips(made: Tensor, images: Tensor) -> Tensor:
    """Learned perceptual distance of each picture (arXiv 1801.03924, SqueezeNet): uint8 (B, 3, H, W) twice -> (B,).

    Needs torchvision and its weights, which are not installed by default; raises `BadInput` without them.
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
    """Share of the codebook that occurs in `codes` (any shape, int64)."""
    return int((torch.bincount(codes.flatten(), minlength=codebook_size) > 0).sum()) / codebook_size


def perplexity(codes: Tensor, codebook_size: int) -> float:
    """exp of the entropy of how often each code occurs: the size of a uniform codebook as varied as this one."""
    p = torch.bincount(codes.flatten(), minlength=codebook_size).double()
    return float(torch.special.entr(p / p.sum()).sum().exp())


# ---------------------------------------------------------------------------------------------------------------------
# Means over pictures


def mean(
    values: Tensor, *, together: Sequence[str] | None = None, higher_is_better: bool = True, resamples: int = 1000
) -> Metric:
    """Mean of a value a picture, (B,), with the percentile interval of the bootstrap over pictures.

    Pictures of one prompt are alike, and four of each are no four times as many prompts: those that are `together`,
    (B,), are drawn together. Whatever order the pictures come in, the interval is the same: what is drawn from is
    sorted. Of one prompt alone there is none. Where bool values are all alike, all draws are too, and the interval is
    Wilson's of as many trials as there are prompts.
    """
    array = values.double().numpy()
    _, of = np.unique(together or np.arange(len(array)), return_inverse=True)
    counts, sums = np.bincount(of), np.bincount(of, weights=array)
    if len(counts) == 1:
        return Metric(value=float(array.mean()), higher_is_better=higher_is_better)
    if values.dtype == torch.bool and values.all() == values.any():
        trials = binomtest(len(counts) if values.all() else 0, len(counts)).proportion_ci(method="wilson")
        return Metric(value=float(array.mean()), low=float(trials.low), high=float(trials.high),
                      higher_is_better=higher_is_better)  # fmt: skip
    order = np.lexsort((counts, sums))
    draws = order[np.random.default_rng(0).integers(len(order), size=(resamples, len(order)))]
    drawn = sums[draws].sum(1) / counts[draws].sum(1)
    return _with_interval(float(array.mean()), drawn, higher_is_better)


def clip_score(images: Tensor, texts: Tensor) -> Tensor:
    """100 max(cos, 0) of each picture and its prompt (arXiv 2104.08718, weighted as torchmetrics does): -> (N,)."""
    return 100 * F.cosine_similarity(images.double(), texts.double()).clamp(min=0)


# ---------------------------------------------------------------------------------------------------------------------
# Distances between two sets of features


def frechet_distance(
    made: Tensor, real: Tensor, *, force: bool = False, together: Sequence[str] | None = None, resamples: int = 20
) -> Metric:
    """Frechet distance of the Gaussians fitted to two sets of features (arXiv 1706.08500, equation 6).

    Raises `BadInput` for fewer than 5,000 pictures on either side; with `force` the metric carries its estimated bias.
    The interval is the value +- 1.96 standard deviations over bootstrap samples of both sets; made pictures that are
    `together` are drawn together, as in `mean`, here and below.
    """
    count = min(len(made), len(real))
    if count < ENOUGH_FOR_FRECHET and not force:
        raise BadInput(
            f"a Frechet distance of {count:,} pictures is mostly bias: give {ENOUGH_FOR_FRECHET:,}, "
            "read KID instead, or force it"
        )
    _require_two(made, real)
    value = _frechet(made, real)
    rng = np.random.default_rng(0)
    drawn = [_frechet(_resampled(made, rng, together), _resampled(real, rng)) for _ in range(resamples)]
    spread = 1.96 * float(np.std(drawn, ddof=1))
    bias = _frechet_bias(value, made, real) if count < ENOUGH_FOR_FRECHET else None
    return Metric(value=value, low=value - spread, high=value + spread, higher_is_better=False, bias=bias)


def _frechet(made: Tensor, real: Tensor) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    With centred features X / sqrt(n - 1) and Y / sqrt(m - 1) the last trace is the sum of the singular values of X Y^T,
    which are those of S1^(1/2) S2^(1/2): no square root of a matrix that is only nearly positive is needed.
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
    """The distance at N pictures is about d + b / N (arXiv 1911.07023); half as many pictures add b / N to it."""
    halves = [_frechet(made[part::2], real[part::2]) for part in (0, 1)]
    return float(np.mean(halves)) - value


def kernel_distance(
    made: Tensor, real: Tensor, *, paired: bool = False, together: Sequence[str] | None = None, resamples: int = 200
) -> Metric:
    """KID: unbiased squared maximum mean discrepancy, kernel (x.y / D + 1)^3 (arXiv 1801.01401, equation 4).

    Over all pairs rather than random subsets, so that nothing depends on a draw; two samples of one distribution score
    about 0 and can fall below. With `paired`, as many made pictures in a row were made of or for each real one, and
    none of a prompt is compared with any of it, made or real (Gretton et al. 2012, lemma 6, equation 4): else what is
    like its own original would look nearer than the same distribution, below 0. A set paired with itself gives 0.
    """
    _require_two(made, real)
    each, left = divmod(len(made), len(real))
    if paired and (left or not each):
        raise ValueError(f"{len(made)} made pictures are not equally many for each of {len(real)} real ones")
    of_x, of_y = torch.arange(len(made)), len(made) + torch.arange(len(real))
    asked: Sequence[str] | Sequence[int] | None = together
    if paired:
        asked = together or [i // each for i in range(len(made))]
        of_x = torch.from_numpy(np.unique(np.array(asked), return_inverse=True)[1])
        of_y = of_x[::each]
        if not of_x.any():  # all of the first
            raise BadInput("a distance between pairs needs two prompts")
    rng = np.random.default_rng(0)
    w_x = torch.cat([torch.ones(1, len(made)).double(), _weights(len(made), resamples, rng, asked)])
    drawn_y = w_x[1:, ::each] if paired else _weights(len(real), resamples, rng)
    w_y = torch.cat([torch.ones(1, len(real)).double(), drawn_y])
    within = _mean_kernel(made, made, w_x, w_x, of_x, of_x) + _mean_kernel(real, real, w_y, w_y, of_y, of_y)
    value, *drawn = (within - 2 * _mean_kernel(made, real, w_x, w_y, of_x, of_y)).tolist()
    return _with_interval(value, np.array(drawn), higher_is_better=False)


def _mean_kernel(x: Tensor, y: Tensor, w_x: Tensor, w_y: Tensor, of_x: Tensor, of_y: Tensor) -> Tensor:
    """Mean kernel over all pairs that are not of the same, for each row of weights: (R, N) and (R, M) -> (R,).

    Some rows of the kernel at a time: whole, that of 30,000 pictures is 7 GB.
    """
    y = y.double()
    total, pairs = torch.zeros(len(w_x)).double(), w_x.sum(1) * w_y.sum(1)
    for rows in torch.split(torch.arange(len(x)), 1024):
        same = of_x[rows, None] == of_y
        kernel = poly_kernel(x[rows].double(), y).masked_fill(same, 0.0)
        total += ((w_x[:, rows] @ kernel) * w_y).sum(1)
        pairs -= w_x[:, rows].square() @ same.sum(1).double()  # pictures of the same have the same weight
    return total / pairs


def inception_score(probabilities: Tensor, *, together: Sequence[str] | None = None, resamples: int = 200) -> Metric:
    """exp of the mean divergence KL(p(y|x) || p(y)) (arXiv 1606.03498): class probabilities (N, C); one split.

    With another classifier than Inception it is a score of that classifier's, and not comparable with published ones.
    """
    p = probabilities.double()
    entropies = torch.special.entr(p).sum(1)

    def score(weights: Tensor) -> Tensor:
        share = weights / weights.sum(1, keepdim=True)
        return (torch.special.entr(share @ p).sum(1) - share @ entropies).exp()

    value = float(score(torch.ones(1, len(p), dtype=torch.double)))
    drawn = score(_weights(len(p), resamples, np.random.default_rng(0), together))
    return _with_interval(value, drawn.numpy(), higher_is_better=True)


# ---------------------------------------------------------------------------------------------------------------------
# Manifolds of nearest neighbours

_ROWS = 512


def precision_recall(
    made: Tensor, real: Tensor, k: int = 3, *, together: Sequence[str] | None = None
) -> tuple[Metric, Metric]:
    """Share of made pictures within the real manifold, and of real ones within the made (arXiv 1904.06991, eq. 2)."""
    _require_neighbours(made, real, k)
    return mean(_within_any(made, real, k), together=together), mean(_within_any(real, made, k))


def density_coverage(
    made: Tensor, real: Tensor, k: int = 5, *, together: Sequence[str] | None = None
) -> tuple[Metric, Metric]:
    """How many real neighbourhoods hold a made picture, and the share of them that hold any (arXiv 2002.09797)."""
    _require_neighbours(made, real, k)
    radii = _radii(real, k)
    counts = torch.cat([(distances <= radii).sum(1) for distances in _distances(made, real)])
    pairs = zip(_distances(real, made), torch.split(radii, _ROWS), strict=True)
    covered = torch.cat([(distances <= its[:, None]).any(1) for distances, its in pairs])
    return mean(counts.double() / k, together=together), mean(covered)


def _within_any(queries: Tensor, manifold: Tensor, k: int) -> Tensor:
    """True where a query is nearer to some point of the manifold than that point's k-th neighbour: (N,)."""
    radii = _radii(manifold, k)
    return torch.cat([(distances <= radii).any(1) for distances in _distances(queries, manifold)])


def _radii(features: Tensor, k: int) -> Tensor:
    """Distance of each point to its k-th nearest other point, (N,)."""
    return torch.cat([distances.kthvalue(k + 1, dim=1).values for distances in _distances(features, features)])


def _distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Squared Euclidean distances, some rows of `a` at a time: (`_ROWS`, M). Equal points are exactly 0 apart."""
    b = b.double()
    norms = b.square().sum(1)
    for part in torch.split(a.double(), _ROWS):
        squared = part.square().sum(1, keepdim=True) + norms - 2 * part @ b.T
        # what is left of two equal points after cancellation
        yield torch.where(squared < 1e-9 * norms.mean(), 0.0, squared)


def _require_two(made: Tensor, real: Tensor) -> None:
    if min(len(made), len(real)) < 2:
        raise BadInput("a distance between sets needs two pictures in each")


def _require_neighbours(made: Tensor, real: Tensor, k: int) -> None:
    if min(len(made), len(real)) <= k:
        raise BadInput(f"{min(len(made), len(real))} pictures have no {k} nearest neighbours: give at least {k + 1}")


# ---------------------------------------------------------------------------------------------------------------------
# Does the picture show what was asked for?


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Real pictures to find a made one among; the order decides which of them a query of fixed size takes."""

    features: Tensor
    """(M, D)."""
    concepts: Sequence[str]
    """What each picture shows; those of one concept, such as its skin tones, are all right answers."""
    groups: Sequence[str]
    """What is left out together with the prompt's own picture."""


def retrieval(
    made: Tensor, concepts: Sequence[str], left_out: Sequence[Collection[str]], gallery: Gallery, size: int
) -> Tensor:
    """Rank of the first right answer among `size` real pictures ordered by cosine similarity: (N, D) -> (N,), from 0.

    For each query the gallery is all pictures of its concept and as many of other concepts, in the gallery's order, as
    make `size`, but for the groups that it leaves out: that of the prompt's own picture, and those of the picture
    itself if it is there, which would find itself. `rank < k` is top-k retrieval; a query with no right answer left
    finds none.
    """
    answers = np.array([[theirs == mine for theirs in gallery.concepts] for mine in concepts])
    out = np.array([[theirs in groups for theirs in gallery.groups] for groups in left_out])
    right = answers & ~out
    other = ~answers & ~out
    others = other & (np.cumsum(other, 1) <= size - right.sum(1, keepdims=True))
    unheard = ~answers.any(1)
    if unheard.any():
        raise BadInput(f"no picture of the gallery shows {concepts[int(unheard.argmax())]!r}")
    short = size - int((right | others).sum(1).min())
    if short > 0:
        raise BadInput(f"the gallery has {short} pictures too few for queries of {size}: lower --gallery_size")
    similarity = F.normalize(made.double(), dim=1) @ F.normalize(gallery.features.double(), dim=1).T
    best = similarity.masked_fill(~torch.from_numpy(right), -torch.inf).amax(1, keepdim=True)
    return ((similarity > best) & torch.from_numpy(others)).sum(1)


def linear_probe(features: Tensor, labels: Sequence[str]) -> Callable[[Tensor], list[str]]:
    """A ridge classifier (one-hot targets) of features (N, D), standardised; returns one from features to labels.

    Its penalty is the one of a fixed set with the least generalised cross-validation error (Golub, Heath and Wahba,
    1979, eq. 1.4) on these very features: nothing that is judged has a say in it.
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


def _with_interval(value: float, drawn: NDArray[np.float64], higher_is_better: bool) -> Metric:
    drawn = drawn[np.isfinite(drawn)]  # a sample of few pictures can be one drawn every time, which has no distance
    if not len(drawn):
        return Metric(value=value, higher_is_better=higher_is_better)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Metric(value=value, low=float(low), high=float(high), higher_is_better=higher_is_better)


def _resampled(features: Tensor, rng: np.random.Generator, together: Sequence[str] | None = None) -> Tensor:
    return features.repeat_interleave(_weights(len(features), 1, rng, together)[0].long(), dim=0)


def _weights(
    count: int, resamples: int, rng: np.random.Generator, together: Sequence[str] | Sequence[int] | None = None
) -> Tensor:
    """How often each of `count` pictures is in each bootstrap sample, (R, count)."""
    _, of = np.unique(together or np.arange(count), return_inverse=True)
    groups = int(of.max()) + 1
    return torch.from_numpy(rng.multinomial(groups, np.full(groups, 1 / groups), size=resamples)[:, of]).double()
