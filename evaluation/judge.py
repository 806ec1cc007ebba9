"""Scores sets of pictures under one protocol.

A `Judge` holds what is the same for all sets: feature networks, a reference of real pictures that distributions are
compared with, and a gallery of real pictures for retrieval. `Judge.score` takes pictures with their prompts and returns
their `Scores`, of two kinds:

- metrics of the set: distances between its features and those of the reference, and the class score. They have the
  suffix `_halves` where half a set is compared with half the reference, so that real pictures can be scored too;
- values of single pictures and their means: whether a picture shows the concept and the style of its prompt, by
  retrieval from the gallery; its CLIP score; and, measured without a network, whether it has the attribute that its
  prompt asks for.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from evaluation import metrics
from evaluation.features import ClipFeatures, Features, Network, Pictures, cached, digests, fingerprint
from evaluation.gallery import RealGallery, group
from evaluation.measure import is_right
from evaluation.metrics import Gallery, Metric
from evaluation.suites import Prompt
from tokenizer.features import RESIZER
from training.errors import BadInput


@dataclass(kw_only=True)
class Scores:
    """The scores of a set of N pictures."""

    metrics: dict[str, Metric] = field(default_factory=dict)
    categories: dict[str, dict[str, Metric]] = field(default_factory=dict)
    """Means over the pictures of each category."""
    pictures: dict[str, Tensor] = field(default_factory=dict)
    """The values of single pictures behind the means, (N,), in the order in which the pictures were given."""
    notes: list[str] = field(default_factory=list)
    """What was left out or computed in another way, and why."""


@dataclass(kw_only=True)
class Judge:
    """Scores sets of pictures by the same networks and real pictures. Nothing is computed before it is needed."""

    networks: Sequence[Network]
    reference: Pictures
    """Real pictures that distributions are compared with."""
    reference_name: str
    gallery: RealGallery | None = None
    """Real pictures for retrieval. Without them concepts and styles are not scored."""
    gallery_size: int = 1000
    """Real pictures that each retrieval searches."""
    cache: Path
    """Folder for features."""
    batch_size: int = 32
    force: bool = False
    """Compute Frechet distances of too few pictures as well, with their bias."""

    @property
    def protocol(self) -> dict[str, Any]:
        """What two results must have in common to be comparable."""
        return {
            "metrics_version": metrics.VERSION,
            "reference": {
                "name": self.reference_name, "fingerprint": fingerprint(self._sorted_reference),
                "count": len(self.reference),
            },
            "networks": {network.name: network.hash for network in self.networks},
            "resizer": RESIZER,
            "gallery": self.gallery and {
                "fingerprint": fingerprint(self.gallery.pictures), "count": self.gallery_size
            },
        }  # fmt: skip

    def score(
        self,
        pictures: Pictures,
        prompts: Sequence[Prompt] = (),
        *,
        heights: Sequence[int] | None = None,
        real: bool = False,
        paired: bool = False,
        label: str = "",
    ) -> Scores:
        """Score pictures, uint8 (3, H, W) each, with a prompt each or none at all.

        The order of the pictures does not matter: they are sorted by their pixels first.

        Args:
            pictures: N pictures.
            prompts: N prompts, or none.
            heights: their heights in pixels, N, if below them the pictures are filled with white; by default H.
            real: the pictures are the reference itself. Its two halves are then compared with each other; metrics that
                depend on the number of pictures get names that end in `_halves`. Other sets get these metrics too,
                of as many pictures against the second half, so that they can be read beside the reference's own.
            paired: the pictures are N / M in a row for each of the M pictures of the reference, made from it or for its
                caption.
            label: name of the pictures, for progress bars.
        """
        keys = digests(pictures)
        order = sorted(range(len(keys)), key=lambda i: (keys[i], prompts[i].text if prompts else ""))
        pictures = [pictures[i] for i in order]
        prompts = [prompts[i] for i in order] if prompts else []
        # A picture must not find itself, nor its prompt's own picture, nor either of them in another skin tone.
        excluded = [
            {group(prompt.concept, prompt.style)} | self._groups_by_digest.get(keys[i], set())
            for i, prompt in zip(order, prompts, strict=False)
        ]
        place = torch.tensor(order).argsort().tolist()  # where each given picture is now
        rows = self._pairs(place) if paired else list(range(len(pictures)))
        texts = [prompts[i].text for i in rows] if prompts and not real else None
        scores = Scores()
        for network in self.networks:
            if isinstance(network, ClipFeatures) and not prompts:
                continue
            features = cached(network, pictures, self.cache, batch_size=self.batch_size, label=label)
            if isinstance(network, ClipFeatures):
                embedded = network.texts([prompt.text for prompt in prompts])
                scores.pictures["clip_score"] = metrics.clip_score(features.pooled, embedded)
                continue
            self._distributions(scores, network.name, features.rows(rows), real, paired, texts)
            if prompts and network.name in self._gallery_features:
                self._retrieve(scores, network.name, features, prompts, excluded)
        if prompts and all(prompt.attribute for prompt in prompts):
            own = [heights[i] if heights else None for i in order]
            right = [
                is_right(p.attribute, p.expected, x[:, :height])
                for x, p, height in zip(pictures, prompts, own, strict=True)
            ]
            scores.pictures["attribute_accuracy"] = torch.tensor(right)
        _add_means(scores, prompts)
        scores.pictures = {name: values[place] for name, values in scores.pictures.items()}
        return scores

    # -----------------------------------------------------------------------------------------------------------------
    # Real pictures

    @cached_property
    def _reference_order(self) -> list[int]:
        """The positions of the reference's pictures, sorted by their pixels."""
        keys = digests(self.reference)
        return sorted(range(len(keys)), key=keys.__getitem__)

    @cached_property
    def _sorted_reference(self) -> Pictures:
        return Subset(self.reference, self._reference_order)  # type: ignore[arg-type] # it needs only positions

    @cached_property
    def _reference_features(self) -> dict[str, Features]:
        """Features of the sorted reference, by network."""
        return self._features(self._sorted_reference, "the reference")

    @cached_property
    def _gallery_features(self) -> dict[str, Features]:
        """Features of the gallery, by network; empty without a gallery."""
        return self._features(torch.stack(list(self.gallery.pictures)), "the gallery") if self.gallery else {}

    @cached_property
    def _groups_by_digest(self) -> dict[str, set[str]]:
        """The gallery groups that a known picture belongs to, by the digest of its pixels."""
        found: dict[str, set[str]] = defaultdict(set)
        if self.gallery:
            found |= {digest: set(groups) for digest, groups in self.gallery.groups_by_digest.items()}
            for digest, name in zip(digests(self.gallery.pictures), self.gallery.groups, strict=True):
                found[digest].add(name)
        return found

    def compute_real_features(self) -> None:
        """Compute the features of reference and gallery now, and keep them, instead of at the first use."""
        _ = self._reference_features, self._gallery_features

    def _features(self, pictures: Pictures, label: str) -> dict[str, Features]:
        return {
            network.name: cached(network, pictures, self.cache, batch_size=self.batch_size, label=label)
            for network in self.networks if network.name != "clip"
        }  # fmt: skip

    def _pairs(self, place: Sequence[int]) -> list[int]:
        """Positions of paired pictures in the order of the sorted reference, given where each picture is now."""
        each = len(place) // len(self.reference)
        return [place[each * i + n] for i in self._reference_order for n in range(each)]

    # -----------------------------------------------------------------------------------------------------------------
    # Metrics of one network, which these methods add to `scores`

    def _distributions(
        self, scores: Scores, network: str, features: Features, real: bool, paired: bool, texts: Sequence[str] | None
    ) -> None:
        """Distances between the pictures and the reference. `texts` are prompts, for the bootstrap."""
        made, reference = features.pooled, self._reference_features[network].pooled
        kid = metric_name("kid", network)
        # Real pictures can only be compared with each other: the first half is every other picture of the reference.
        # That of other sets has as many pictures, one for each of these, or fewer if there are no more.
        each = len(made) // len(reference) if paired else 1
        rows = [*range(0, len(made), 2 * each)][: len(reference[0::2])]
        halves = (reference[0::2] if real else made[rows], reference[1::2])
        half_texts = [texts[i] for i in rows] if texts else None
        if real:
            self._add(scores, [kid], lambda: metrics.kernel_distance(*halves))
            scores.notes.append(f"{kid} compares every other real picture with the rest")
        else:
            self._add(scores, [kid], lambda: metrics.kernel_distance(made, reference, paired=paired, clusters=texts))
            self._compare(scores, network, "", made, reference, texts)
        # these depend on the number of pictures, so all sets get them for equal halves too
        self._compare(scores, network, "_halves", *halves, half_texts)
        if features.probabilities is not None:  # grows with the number of pictures, and so is of all of them
            scores.metrics[metric_name("class_score", network)] = metrics.inception_score(
                features.probabilities, clusters=texts
            )

    def _compare(
        self,
        scores: Scores,
        network: str,
        suffix: str,
        made: Tensor,
        reference: Tensor,
        texts: Sequence[str] | None,
    ) -> None:
        """Precision, recall, density, coverage and Frechet distance of features (N, D) and (M, D)."""
        sets = (made, reference)

        def names(*found: str) -> list[str]:
            return [metric_name(name, network, suffix) for name in found]

        self._add(scores, names("precision", "recall"), lambda: metrics.precision_recall(*sets, clusters=texts))
        self._add(scores, names("density", "coverage"), lambda: metrics.density_coverage(*sets, clusters=texts))
        self._add(scores, names("fd"), lambda: metrics.frechet_distance(*sets, force=self.force, clusters=texts))

    def _add(self, scores: Scores, names: Sequence[str], compute: Callable[[], Any]) -> None:
        """Add the metrics of these names, or a note if there are too few pictures for them."""
        try:
            found = compute()
        except BadInput as error:
            scores.notes.append(f"{', '.join(names)} left out: {error}")
            return
        scores.metrics |= dict(zip(names, found if len(names) > 1 else (found,), strict=True))

    def _retrieve(
        self, scores: Scores, network: str, features: Features, prompts: Sequence[Prompt], excluded: Sequence[set[str]]
    ) -> None:
        """Whether each picture shows the concept and the style of its prompt; nothing if a prompt has no concept.

        `excluded` are the groups of the gallery that are left out for each picture.
        """
        gallery = self.gallery
        assert gallery is not None
        concepts = [prompt.concept for prompt in prompts]
        if not all(concepts):
            return
        shown = self._gallery_features[network].pooled
        ranks = metrics.retrieval(
            features.pooled, concepts, excluded,
            Gallery(features=shown, concepts=gallery.concepts, groups=gallery.groups), self.gallery_size,
        )  # fmt: skip
        # the style classifier is trained without the concepts that the prompts ask for
        others = [i for i, concept in enumerate(gallery.concepts) if concept not in set(concepts)]
        classify = metrics.linear_probe(shown[others], [gallery.styles[i] for i in others])
        styles = [prompt.style for prompt in prompts]
        right_style = torch.tensor([a == b for a, b in zip(classify(features.pooled), styles, strict=True)])
        scores.pictures |= {
            metric_name("retrieval_top1", network): ranks < 1,
            metric_name("retrieval_top5", network): ranks < 5,
            metric_name("style_accuracy", network): right_style,
            metric_name("concept_and_style", network): (ranks < 1) & right_style,
        }


def _add_means(scores: Scores, prompts: Sequence[Prompt]) -> None:
    """Add the means of the pictures' values, over all pictures and over each category and challenge."""
    texts = [prompt.text for prompt in prompts] or None
    scores.metrics |= {name: metrics.mean(values, clusters=texts) for name, values in scores.pictures.items()}
    members: dict[str, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        for label in filter(None, (prompt.category, prompt.challenge and f"challenge: {prompt.challenge}")):
            members[label].append(i)
    for label, rows in sorted(members.items()):
        some = [prompts[i].text for i in rows]
        means = {name: metrics.mean(values[rows], clusters=some) for name, values in scores.pictures.items()}
        scores.categories |= {label: means} if means else {}


def metric_name(metric: str, network: str, suffix: str = "") -> str:
    """The name of a metric in a result, such as `kid` or `kid_halves_lite1`.

    Metrics of Inception have their published names, `fid` and `inception_score`. Those of Lite0 do not name the
    network, except for the two that would be mistaken for published ones: `fd_lite0` and `class_score_lite0`.
    """
    if network == "inception" and metric in ("fd", "class_score"):
        return {"fd": "fid", "class_score": "inception_score"}[metric] + suffix
    if network == "lite0" and metric not in ("fd", "class_score"):
        return metric + suffix
    return f"{metric}{suffix}_{network}"
