"""The adversarial task of the image tokenizer: reconstructions shall look real to a discriminator that learns too.

Dimension names: B batch, H and W pixels, N logits of a picture.
"""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import reduce
from torch import Tensor, nn
from torch.nn import functional as F

from tokenizer.adaptive import adaptive_weight, keep_graphs, last_layer
from tokenizer.image_tokenizer import to_float
from tokenizer.losses import AdversarialConfig
from tokenizer.task import TokenizerTask
from training.batches import Batch
from training.task import Loss


class AdversarialTask(TokenizerTask):
    """Trains an image tokenizer and a discriminator in turn.

    The log says who wins. `real_right_discriminator` and `made_right_discriminator` are the shares of logits with the
    right sign. If both are near 1 and `adversarial` grows, the discriminator wins: lower its learning rate, or raise
    `r1` or `lecam`. If both are near 0.5, with the logits of real and made pictures alike, it sleeps: raise its
    learning rate.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        config = self.config.task
        assert isinstance(config, AdversarialConfig)
        self.options = config
        if config.adaptive:
            keep_graphs()
        self.judge = Judge(config.discriminator.build(self.config.model.image_size)).to(self.device)
        self.add("discriminator", self.judge, config.discriminator_optimizer)

    def losses(self, batch: Batch, step: int) -> Iterator[Loss]:
        """Yield the losses of a batch of `images`, uint8 (B, 3, H, W); from step `start` on, also those of the duel."""
        images = to_float(batch["images"])
        made = self.modules["model"](images)
        loss, scalars = self.reconstruction_loss(made, images)
        if step < self.options.start:
            yield from self.aligned(loss, scalars, made, images)
            return
        added, more = self.fooling(made.images, loss)
        yield from self.aligned(loss + added, {**scalars, **more}, made, images)
        yield self.judging(images, made.images.detach(), step)

    def fooling(self, made: Tensor, reference: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What the model loses to the discriminator: (B, 3, H, W) -> weighted scalar, and scalars for the log.

        An adaptive weight is in proportion to the gradient of the `reference` loss.
        """
        (logits,) = self.judge(made)  # itself, not the prepared one: see `Task.losses`
        loss = generator_loss(self.options.loss, logits)
        weight = torch.full_like(loss, self.options.adversarial)
        if self.options.adaptive:
            weight *= adaptive_weight(reference, loss, last_layer(self.model.decoder))
        return weight * loss, {"adversarial": loss, "adversarial_weight": weight}

    def judging(self, images: Tensor, made: Tensor, step: int) -> Loss:
        """The loss of the discriminator on real and made pictures, (B, 3, H, W) each."""
        options, scalars = self.options, {}
        # not in step 0, whose operations are counted for all steps
        regular = options.r1 > 0 and step % options.r1_every == options.r1_every - 1
        if regular:
            images = images.clone().requires_grad_().clone()  # no leaf: whose gradients stop the counter of FLOPs
        real, fake = self.modules["discriminator"](images, made)
        loss = discriminator_loss(options.loss, real, fake)
        if regular:
            scalars["r1"] = r1_penalty(real, images)
            loss = loss + options.r1 / 2 * options.r1_every * scalars["r1"]
        if options.lecam:
            scalars["lecam"] = lecam(real, fake, self.judge.real_mean, self.judge.made_mean)
            loss = loss + options.lecam * scalars["lecam"]
            self.judge.track(real, fake, options.lecam_decay)
        return Loss("discriminator", loss, {
            **scalars, "real_logit": real.mean(), "made_logit": fake.mean(),
            "real_right": (real > 0).float().mean(), "made_right": (fake < 0).float().mean(),
        })  # fmt: skip


class Judge(nn.Module):
    """A discriminator with the moving averages of its logits, which are part of its state."""

    real_mean: Tensor
    made_mean: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("real_mean", torch.zeros(()))
        self.register_buffer("made_mean", torch.zeros(()))

    def forward(self, *batches: Tensor) -> tuple[Tensor, ...]:
        """Batches of pictures (B, 3, H, W) in [-1, 1] -> the logits (B, N) of each batch, which do not mix."""
        # Convolutions are faster in this format, here and in the backward pass.
        return tuple(self.network(images.contiguous(memory_format=torch.channels_last)) for images in batches)

    @torch.no_grad()
    def track(self, real: Tensor, made: Tensor, decay: float) -> None:
        """Move the averages towards the mean logits (B, N) of all processes."""
        now = reduce(torch.stack([real.float().mean(), made.float().mean()]), "mean")
        for average, value in zip((self.real_mean, self.made_mean), now, strict=True):
            average.lerp_(value, 1 - decay)


def generator_loss(kind: str, made: Tensor) -> Tensor:
    """Logits (B, N) of made pictures -> scalar: how clearly they are judged made."""
    return -made.mean() if kind == "hinge" else F.softplus(-made).mean()


def discriminator_loss(kind: str, real: Tensor, made: Tensor) -> Tensor:
    """Logits (B, N) of real and of made pictures -> scalar: `hinge` or `non-saturating` (arXiv 1406.2661)."""
    if kind == "hinge":  # arXiv 1705.02894
        return F.relu(1 - real).mean() + F.relu(1 + made).mean()
    return F.softplus(-real).mean() + F.softplus(made).mean()


def r1_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Squared norm of the gradient of a real picture's mean logit, averaged over the batch (arXiv 1801.04406, eq. 9).

    Logits (B, N) and the images (B, ...) that they were computed from -> scalar, with a gradient for the weights.
    """
    (gradient,) = torch.autograd.grad(logits.mean(1).sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def lecam(real: Tensor, made: Tensor, real_mean: Tensor, made_mean: Tensor) -> Tensor:
    """Squared distance of logits (B, N) from the average logit of the other side (arXiv 2104.03310)."""
    return (real - made_mean).square().mean() + (made - real_mean).square().mean()
