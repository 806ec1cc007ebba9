"""Scores sets of pictures under one protocol: networks, reference and gallery are fixed, pictures come and go."""

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
from evaluation.measure import MEASUREMENTS
from evaluation.metrics import Gallery, Metric
from evaluation.suites import Prompt
from tokenizer.features import RESIZER
from training.errors import BadInput


@dataclass(kw_only=True)
class Scores:
    """What a set of pictures scored."""

    metrics: dict[str, Metric] = field(default_factory=dict)
    categories: dict[str, dict[str, Metric]] = field(default_factory=dict)
    """The means over each category's pictures."""
    pictures: dict[str, Tensor] = field(default_factory=dict)
    """The values that the means are of, (N,), in the order of the pictures."""
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""


@dataclass(kw_only=True)
class Judge:
    """Networks and real pictures that sets of pictures are scored with."""

    networks: Sequence[Network]
    reference: Pictures
    """Real pictures that distributions are compared with."""
    reference_name: str
    gallery: RealGallery | None = None
    """Real pictures to find made ones among; None scores neither concepts nor styles."""
    gallery_size: int = 1000
    cache: Path
    batch_size: int = 32
    force: bool = False
    """Give Frechet distances of too few pictures, with their bias."""

    @cached_property
    def _order(self) -> list[int]:
        """The reference in an order of its pixels, so that the order they come in changes nothing."""
        keys = digests(self.reference)
        return sorted(range(len(keys)), key=keys.__getitem__)

    @cached_property
    def _sorted_reference(self) -> Pictures:
        return Subset(self.reference, self._order)  # type: ignore[arg-type] # it asks for no more than positions

    @cached_property
    def _real(self) -> dict[str, Features]:
        """Features of the sorted reference, by network."""
        return self._features(self._sorted_reference, "the reference")

    @cached_property
    def _shown(self) -> dict[str, Features]:
        """Features of the gallery, by network."""
        return self._features(torch.stack(list(self.gallery.pictures)), "the gallery") if self.gallery else {}

    @cached_property
    def _holding(self) -> dict[str, set[str]]:
        """What is left out for a picture that is known to the last pixel, by its digest."""
        found: dict[str, set[str]] = defaultdict(set)
        if self.gallery:
            found |= {digest: set(groups) for digest, groups in self.gallery.kin.items()}
            for digest, its in zip(digests(self.gallery.pictures), self.gallery.groups, strict=True):
                found[digest].add(its)
        return found

    def _features(self, pictures: Pictures, label: str) -> dict[str, Features]:
        return {
            network.name: cached(network, pictures, self.cache, batch_size=self.batch_size, label=label)
            for network in self.networks if network.name != "clip"
        }  # fmt: skip

    @property
    def protocol(self) -> dict[str, Any]:
        """What two results must share to be compared."""
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
        real: bool = False,
        paired: bool = False,
        label: str = "",
    ) -> Scores:
        """Scores pictures, uint8 (3, H, W) each, and their prompts if they have any.

        Pictures are taken in an order of their pixels, so that the order they come in changes nothing. Pictures that
        are `real` are the reference's own: every other one of them is then compared with the rest, and other pictures
        with that rest too, under names that end in `_halves`. Where they are
        `paired`, as many in a row were made of or for each picture of the reference that the judge was given. No
        picture, whoever handed it in, finds itself in the gallery, nor its like in another skin tone: the groups that
        its very pixels belong to are left out for it.
        """
        keys = digests(pictures)
        order = sorted(range(len(keys)), key=lambda i: (keys[i], prompts[i].text if prompts else ""))
        pictures = [pictures[i] for i in order]
        prompts = [prompts[i] for i in order] if prompts else []
        left_out = [
            {group(prompt.concept, prompt.style)} | self._holding.get(keys[i], set())
            for i, prompt in zip(order, prompts, strict=False)
        ]
        back = torch.tensor(order).argsort().tolist()
        scores = Scores()
        for network in self.networks:
            if isinstance(network, ClipFeatures) and not prompts:
                continue
            made = cached(network, pictures, self.cache, batch_size=self.batch_size, label=label)
            if isinstance(network, ClipFeatures):
                texts = network.texts([prompt.text for prompt in prompts])
                scores.pictures["clip_score"] = metrics.clip_score(made.pooled, texts)
                continue
            each = len(pictures) // len(self.reference)
            rows = list(range(len(pictures)))
            if paired:
                rows = [back[each * i + n] for i in self._order for n in range(each)]
            together = [prompts[i].text for i in rows] if prompts and not real else None
            self._distributions(scores, network.name, made.rows(rows), real, paired, together)
            if prompts and network.name in self._shown:
                self._answers(scores, network.name, made, prompts, left_out)
        if prompts and all(prompt.attribute for prompt in prompts):
            right = [MEASUREMENTS[p.attribute](x) == p.expected for x, p in zip(pictures, prompts, strict=True)]
            scores.pictures["attribute_accuracy"] = torch.tensor(right)
        self._means(scores, prompts)
        scores.pictures = {name: values[back] for name, values in scores.pictures.items()}
        return scores

    def _distributions(
        self, scores: Scores, network: str, features: Features, real: bool, paired: bool, together: Sequence[str] | None
    ) -> None:
        made, theirs, name = features.pooled, self._real[network].pooled, _namer(network)
        # Real pictures can only be compared with one another: every other one of the reference with the rest.
        each = len(made) // len(theirs) if paired else 1
        rows = [i for i in range(len(made)) if i // each % 2 == 0]
        halves = (theirs[0::2] if real else made[rows], theirs[1::2])
        texts = [together[i] for i in rows] if together else None
        if real:
            self._add(scores, [name("kid")], lambda: metrics.kernel_distance(*halves))
            scores.notes.append(f"{name('kid')} is of every other real picture with the rest")
        else:
            self._add(scores, [name("kid")], lambda: metrics.kernel_distance(
                made, theirs, paired=paired, together=together))  # fmt: skip
            self._compare(scores, name, "", made, theirs, together)
        # what depends on how many pictures there are, of such halves for everybody
        self._compare(scores, name, "_halves", *halves, texts)
        if features.probabilities is not None:  # which grows with the number of pictures, so that no half would do
            scores.metrics[name("class_score")] = metrics.inception_score(features.probabilities, together=together)

    def _compare(
        self,
        scores: Scores,
        name: Callable[..., str],
        suffix: str,
        made: Tensor,
        theirs: Tensor,
        together: Sequence[str] | None,
    ) -> None:
        """Adds how two sets of features, (N, D) and (M, D), lie to each other, under names that end in `suffix`."""
        sets = (made, theirs)
        self._add(scores, [name("precision", suffix), name("recall", suffix)],
                  lambda: metrics.precision_recall(*sets, together=together))  # fmt: skip
        self._add(scores, [name("density", suffix), name("coverage", suffix)],
                  lambda: metrics.density_coverage(*sets, together=together))  # fmt: skip
        self._add(scores, [name("fd", suffix)],
                  lambda: metrics.frechet_distance(*sets, force=self.force, together=together))  # fmt: skip

    def _add(self, scores: Scores, names: Sequence[str], compute: Callable[[], Any]) -> None:
        try:
            found = compute()
        except BadInput as error:  # too few pictures for this one
            scores.notes.append(f"{', '.join(names)} left out: {error}")
            return
        scores.metrics |= dict(zip(names, found if len(names) > 1 else (found,), strict=True))

    def _answers(
        self, scores: Scores, network: str, made: Features, prompts: Sequence[Prompt], left_out: Sequence[set[str]]
    ) -> None:
        """Whether each picture shows the concept and the style that it was asked for."""
        gallery, name = self.gallery, _namer(network)
        assert gallery is not None
        concepts = [prompt.concept for prompt in prompts]
        if not all(concepts):
            return
        features = self._shown[network].pooled
        ranks = metrics.retrieval(
            made.pooled, concepts, left_out,
            Gallery(features=features, concepts=gallery.concepts, groups=gallery.groups), self.gallery_size,
        )  # fmt: skip
        # the classifier of styles has seen none of the suite's families
        others = [i for i, concept in enumerate(gallery.concepts) if concept not in set(concepts)]
        probe = metrics.linear_probe(features[others], [gallery.styles[i] for i in others])
        wanted = [prompt.style for prompt in prompts]
        style = torch.tensor([a == b for a, b in zip(probe(made.pooled), wanted, strict=True)])
        scores.pictures |= {
            name("retrieval_top1"): ranks < 1,
            name("retrieval_top5"): ranks < 5,
            name("style_accuracy"): style,
            name("concept_and_style"): (ranks < 1) & style,
        }

    def _means(self, scores: Scores, prompts: Sequence[Prompt]) -> None:
        texts = [prompt.text for prompt in prompts] or None
        scores.metrics |= {name: metrics.mean(values, together=texts) for name, values in scores.pictures.items()}
        members: dict[str, list[int]] = defaultdict(list)
        for i, prompt in enumerate(prompts):
            for label in filter(None, (prompt.category, prompt.challenge and f"challenge: {prompt.challenge}")):
                members[label].append(i)
        for label, rows in sorted(members.items()):
            asked = [prompts[i].text for i in rows]
            means = {name: metrics.mean(values[rows], together=asked) for name, values in scores.pictures.items()}
            scores.categories |= {label: means} if means else {}


def _namer(network: str) -> Callable[..., str]:
    """Names of figures: those of Lite0 are plain, but its Frechet distance always says whose it is."""

    def name(metric: str, suffix: str = "") -> str:
        if network == "inception":
            own = {"fd": "fid", "class_score": "inception_score"}.get(metric)
            return f"{own}{suffix}" if own else f"{metric}{suffix}_inception"
        plain = network == "lite0" and metric not in {"fd", "class_score"}
        return f"{metric}{suffix}" if plain else f"{metric}{suffix}_{network}"

    return name
