"""The token model as a backend."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from math import log
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sampling.backend import Backend, Job, Progress, Start, backend
from sampling.choose import candidate_seeds, likelihoods
from sampling.clip import clip_at, clip_similarity
from sampling.continuous import Picture
from sampling.decode import Sampler
from sampling.options import SamplingOptions
from seq2seq.frozen_text import caption_ids
from seq2seq.loss import log_likelihood
from seq2seq.model import TokenModel
from seq2seq.packed import named
from tokenizer.image_tokenizer import ImageTokenizer
from training.errors import BadInput

ROWS = 64
"""In at most this many rows are candidates of `best_of` drawn, or in one for each picture where there are more."""


@backend("autoregressive")
class TokenBackend(Backend[TokenModel, SamplingOptions]):
    """Draws image tokens one after another."""

    title = "token model"
    loss_unit = "nats an image token"
    likelihood_name = "bits_per_image"
    recipe = (
        "accelerate launch seq2seq/train.py --config configs/seq2seq/emoji.yaml --data emoji "
        "--tokenizer BUNDLE/tokenizer --text BUNDLE/text --out RUN"
    )
    options_class = SamplingOptions
    model_class = TokenModel

    @classmethod
    def dtype_on(cls, device: str) -> torch.dtype:
        """Bfloat16 on a GPU; float32 on a CPU, whose packed engine needs it."""
        return torch.bfloat16 if device == "cuda" else torch.float32

    def prepare(self) -> Sampler:
        """The sampler of the model."""
        self.require_engine("plain", "packed", "graph")
        return Sampler(self.model, self.engine)  # type: ignore[arg-type] # it is one of these

    def ids(self, captions: Sequence[str]) -> Tensor:
        """Caption ids (B, S) int64 that the model reads, on the CPU."""
        return caption_ids(self.model.config.text_source, self.text, captions)

    def draw(
        self, captions: Sequence[str], seeds: Tensor, options: SamplingOptions, start: Start | None
    ) -> list[Tensor]:
        """As `Backend`. A model may end a picture early: H is then less than W."""
        jobs = [Job(caption=caption, seed=seed) for caption, seed in zip(captions, seeds.tolist(), strict=True)]
        waiting = iter(jobs)
        drawn = self.draw_jobs(lambda free: [*islice(waiting, free)], options, start, len(jobs))
        pictures = {job: picture() for job, picture, finished in drawn if finished}
        return [pictures[job] for job in jobs]

    def draw_jobs(
        self, more: Callable[[int], Sequence[Job]], options: SamplingOptions, start: Start | None, batch_size: int
    ) -> Iterator[Progress]:
        """As `Backend`: a row whose picture has ended is given to the next one.

        Of `best_of` candidates, each in a row of its own, it keeps the most likely one, or the one that `scorer` scores
        highest. Unfinished pictures are yielded after each row of tokens; with `best_of`, those of the first candidate.
        """
        self._require_scorer(options)
        known = known_tokens(start, self.tokenizer).to(self.device) if start else None
        rows = min(batch_size * options.best_of, max(ROWS, batch_size))
        for picture, tokens in self._drawn(self._candidates(more, options), options, rows, known):
            if picture.ended:
                picture.drawn[picture.number] = tokens
                if len(picture.drawn) == options.best_of:
                    yield Progress(picture.job, partial(self._best, picture, options), finished=True)
            elif picture.number == 0:
                yield Progress(picture.job, partial(self._picture, tokens), finished=False)

    def _candidates(
        self, more: Callable[[int], Sequence[Job]], options: SamplingOptions
    ) -> Callable[[int], list[Picture]]:
        """The function that returns candidates for the jobs of `more`, at most as many as it is asked for."""
        waiting: list[Picture] = []

        def candidates(free: int) -> list[Picture]:
            waiting[:] = [picture for picture in waiting if not picture.job.cancelled]
            jobs = more(-(-(free - len(waiting)) // options.best_of)) if free > len(waiting) else []
            for job, text in zip(jobs, self.ids([job.caption for job in jobs]), strict=True):
                seeds = [candidate_seeds(torch.tensor(job.seed), n) for n in range(options.best_of)]
                drawn: dict[int, Tensor] = {}
                waiting.extend(
                    Picture(job=job, text=text, seed=int(s), number=n, drawn=drawn) for n, s in enumerate(seeds)
                )
            taken, waiting[:] = waiting[:free], waiting[free:]
            return taken

        return candidates

    def _drawn(
        self, more: Callable[[int], Sequence[Picture]], options: SamplingOptions, rows: int, known: Tensor | None
    ) -> Iterator[tuple[Picture, Tensor]]:
        """As `Sampler.continuously`; but batch by batch, and only ended pictures, where windows are drawn."""
        if not self.prepared.window(rows, options):
            yield from self.prepared.continuously(more, options, rows, known)
            return
        while pictures := more(rows):
            text = torch.stack([picture.text for picture in pictures]).to(self.device)
            seeds = torch.tensor([picture.seed for picture in pictures], device=self.device)
            kept = None if known is None else known.expand(len(pictures), -1)
            for picture, codes in zip(pictures, self.prepared.draw(text, seeds, options, kept), strict=True):
                picture.ended = True
                yield picture, codes.flatten()

    def _picture(self, tokens: Tensor) -> Tensor:
        """Tokens so far (T,) -> uint8 (3, H, W)."""
        return self._pixels(self.prepared.pictures(tokens[None]))[0]

    def _best(self, picture: Picture, options: SamplingOptions) -> Tensor:
        """The best of the drawn candidates of one job."""
        candidates = [picture.drawn[n] for n in range(options.best_of)]
        if len(candidates) == 1:
            return self._picture(candidates[0])
        codes = [self.prepared.pictures(tokens[None])[0] for tokens in candidates]
        text = picture.text.to(self.device).expand(len(codes), -1)
        scores = self._scores([picture.job.caption] * len(codes), text, codes, options)
        return self._pixels([codes[int(scores.argmax())]])[0]

    def _scores(
        self, captions: Sequence[str], text: Tensor, codes: Sequence[Tensor], options: SamplingOptions
    ) -> Tensor:
        """How good a candidate for its caption each picture is, (N,)."""
        if options.scorer:
            return clip_similarity(clip_at(options.scorer, str(self.device)), captions, self._pixels(codes))
        return likelihoods(self.model, text, codes)

    def _require_scorer(self, options: SamplingOptions) -> None:
        """Raise `BadInput` if the scorer cannot be loaded. Drawing may take long."""
        if options.scorer:
            clip_at(options.scorer, str(self.device))

    def stream(self, captions: Sequence[str], seeds: Tensor, options: SamplingOptions) -> Iterator[list[Tensor]]:
        """Yield pictures, uint8 (3, H so far, W), after each row of tokens; with `best_of`, the first candidates."""
        text = self.ids(captions).to(self.device)
        for tokens in self.prepared.rows(text, seeds, options):
            yield self._pixels(self.prepared.pictures(tokens))

    @torch.no_grad()
    def likelihood(self, captions: Sequence[str], images: Tensor) -> Tensor:
        """-log2 p(tokens of the picture, EOS included | caption) of each picture, in bits, (N,)."""
        bits = []
        for start in range(0, len(images), 32):
            tokens = self.tokenizer.encode(images[start : start + 32].to(self.device)).flatten(1)
            text = self.ids(captions[start : start + 32]).to(self.device)
            nats = log_likelihood(self.model(text, tokens), tokens, self.model.config.eos)
            bits.append(-nats.cpu() / log(2))
        return torch.cat(bits)

    def compute_settings(self) -> dict[str, str]:
        """As `Backend`."""
        return {"engine": self.prepared.engine, "dtype": named(self.prepared.dtypes)}

    def check(self, start: Start | None) -> None:
        """As `Backend`."""
        if start and start.mask is None and start.strength == 1:
            raise BadInput("at strength 1 nothing of init_image is left: give a smaller strength, or a mask")

    def drawing_stats(self) -> dict[str, Any]:
        """Passes of the decoder over a picture, and tokens that one of them drew: means of the last 10,000 pictures."""
        drawn = self.prepared.drawn
        if not drawn:
            return {}
        tokens, passes = (sum(column) for column in zip(*drawn, strict=True))
        return {"passes_a_picture": round(passes / len(drawn), 2), "tokens_a_pass": round(tokens / passes, 2)}

    def _pixels(self, codes: Sequence[Tensor]) -> list[Tensor]:
        """Codes (h, n) -> uint8 (3, H, W) each; one at a time, because in a batch a pixel may round differently.

        On a CPU with AVX-512, two threads gave other pixels from three pictures at a time on. One thread gave the same
        ones, but was no faster: 7.8 ms a picture alone, 7.1 in a batch of 4, 8.6 in one of 16.
        """
        return [self.tokenizer.decode(one[None].to(self.device))[0].cpu() for one in codes]


def known_tokens(start: Start, tokenizer: ImageTokenizer) -> Tensor:
    """The tokens that are kept of the picture to start from, (1, T) int64, -1 where the model is to draw."""
    codes = tokenizer.encode(start.image[None].to(tokenizer.latent_mean.device)).clone()
    if start.mask is None:
        rows = codes.shape[1]
        kept = round((1 - start.strength) * rows)
        codes[:, sorted((1, kept, rows - 1))[1] :] = -1  # at least one row is kept, and one is drawn
    else:
        redrawn = F.max_pool2d(start.mask[None].float(), tokenizer.config.backbone.factor)[0].bool()
        codes[:, redrawn.repeat_interleave(tokenizer.depth, 1).to(codes.device)] = -1
    return codes.flatten(1)
