"""The training task of the image tokenizer: to reconstruct a picture."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from data.captioned import CaptionedImages
from data.grid import grid
from tokenizer.adaptive import adaptive_weight, keep_graphs, last_layer
from tokenizer.alignment import STRIDES, FrozenFeatures, cosine_loss, distance_loss
from tokenizer.decoder_only import export_decoder, start_decoder
from tokenizer.image_tokenizer import ImageTokenizer, Reconstruction, to_float
from tokenizer.kl import nats_per_dimension
from tokenizer.losses import ReconstructionConfig, TokenizerLoss, psnr
from tokenizer.options import TokenizerTrainingConfig
from training.batches import Batch
from training.errors import BadInput
from training.pretrained import exported, start_from
from training.task import Loss, Task


class TokenizerTask(Task):
    """Trains an image tokenizer on pictures. Validation pictures are reconstructed from time to time."""

    def __init__(
        self, config: TokenizerTrainingConfig, pictures: CaptionedImages, validation: CaptionedImages,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.config, self.pictures, self.device = config, pictures, device
        self.shown = torch.stack([validation[i] for i in range(len(validation))]).to(device)
        self.model = ImageTokenizer(config.model)
        if config.init and config.decoder_only:
            start_decoder(self.model, config.init)
        elif config.init:
            start_from(self.model, config.init)
        self.objective = TokenizerLoss(config.task, config.model.quantizer).to(device)
        super().__init__(self.model, config.optimizer, tokens=config.model.grid**2)
        if config.task.min_usage and "usage" not in self.model.quantizer.health():
            raise BadInput(
                f"task.min_usage: quantizer {config.model.quantizer.kind!r} does not tell the usage of codes"
            )
        if config.task.alignment:
            self.add_projection(config.task)

    def add_projection(self, options: ReconstructionConfig) -> None:
        """Add the projection from the encoder's vectors to features, a module of its own that is not exported."""
        config = self.config.model
        if options.alignment_adaptive:
            keep_graphs()
        self.features = FrozenFeatures(config.grid, options.alignment_stride).to(self.device)
        self.projection = nn.Linear(config.backbone.width, STRIDES[options.alignment_stride]).to(self.device)
        self.add("projection", self.projection, self.config.optimizer)

    def losses(self, batch: Batch, step: int) -> Iterator[Loss]:
        """Yield the loss of a batch of `images`, uint8 (B, 3, H, W)."""
        images = to_float(batch["images"])
        made = self.modules["model"](images)
        yield from self.aligned(*self.reconstruction_loss(made, images), made, images)

    def aligned(self, loss: Tensor, scalars: dict[str, Tensor], made: Reconstruction, images: Tensor) -> Iterator[Loss]:
        """Yield the loss of the model, with the alignment of its vectors, and the loss of the projection.

        Without alignment, yield the given loss alone.
        """
        options = self.config.task
        if not options.alignment:
            yield Loss("model", loss, scalars)
            return
        features = self.features(images)
        # the projection itself and not the prepared one: see `Task.losses`
        alignment = cosine_loss(self.projection(made.z), features) + distance_loss(made.z, features)
        weight = torch.full_like(alignment, options.alignment)
        if options.alignment_adaptive:
            weight *= adaptive_weight(loss, alignment, last_layer(self.model.encoder))
        total = loss + weight * alignment
        yield Loss("model", total, {**scalars, "alignment": alignment, "alignment_weight": weight})
        yield Loss("projection", cosine_loss(self.modules["projection"](made.z.detach()), features), {})

    def require_healthy(self, step: int, means: dict[str, float]) -> None:
        """Stop a run whose codebook has collapsed: most pictures would then share a few codes."""
        options = self.config.task
        if step >= options.min_usage_after and means.get("usage", 1.0) < options.min_usage:
            raise BadInput(
                f"by step {step} only {means['usage']:.2%} of the codes are in use, less than task.min_usage "
                f"{options.min_usage:.2%}: start a new run in another --out with a smaller model.quantizer.size, a "
                "lower optimizer.learning_rate or a larger batch_size"
            )

    def reconstruction_loss(self, made: Reconstruction, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction and original, (B, 3, H, W) in [-1, 1] -> scalar loss, and scalars for the log by name."""
        total, terms = self.objective(made, images)
        scalars = {**terms, "psnr": psnr(made.images, images), **self.model.quantizer.health()}
        if "kl" in made.losses:
            latents = self.config.model.quantizer.dim * self.config.model.grid**2
            scalars["nats_per_dimension"] = nats_per_dimension(made.images, images, made.losses["kl"], latents)
        return total, scalars

    def evaluate(self, average: ImageTokenizer, file: Path) -> dict[str, float]:
        """Write an image file with validation pictures above their reconstructions; return their PSNR.

        With continuous latents, a third row has pictures drawn from the prior.
        """
        rebuilt = torch.cat([average.reconstruct(part) for _, part in self.parts(self.shown)])
        columns = min(16, len(self.shown))
        pictures = [*self.shown[:columns], *rebuilt[:columns]]
        if not average.has_codes:
            pictures += average.decode_prior(columns, torch.Generator().manual_seed(0))
        grid(pictures, columns=columns).save(file, format="PNG")
        return {"validation_psnr": psnr(to_float(rebuilt), to_float(self.shown)).item()}

    def export(self, average: ImageTokenizer, folder: Path) -> None:
        """Standardise latents again, for the exported weights, and then export as the base class does.

        If only the decoder was trained, all else stays as it is, also the mean and standard deviation of latents.
        """
        if self.config.decoder_only:
            export_decoder(average, folder)
            return
        average.load_state_dict(exported(average))
        sample = range(0, len(self.pictures), max(1, len(self.pictures) // 1024))
        average.calibrate([self.pictures[i][None].to(self.device) for i in sample])
        super().export(average, folder)
