"""The token model as a backend."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
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
from seq2seq.loss import log_likelihood
from seq2seq.model import TokenModel
from seq2seq.packed import named
from tokenizer.image_tokenizer import ImageTokenizer
from training.errors import BadInput

ROWS = 64
"""Candidates of `best_of` that are drawn at a time, or one for each picture where there are more pictures."""


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

    def draw(
        self, captions: Sequence[str], seeds: Tensor, options: SamplingOptions, start: Start | None
    ) -> list[Tensor]:
        """As `Backend`. Of `best_of` candidates it keeps the most likely one, or the one that `scorer` scores highest.

        A model may end a picture early: H is then less than W.
        """
        text = self.text.encode(captions).to(self.device)
        known = known_tokens(start, self.tokenizer).to(seeds.device).expand(len(seeds), -1) if start else None
        self._require_scorer(options)
        candidates = self._candidates(text, seeds, options, known)
        if options.best_of == 1:
            return self._pixels(candidates[0])
        scores = [self._scores(captions, text, codes, options) for codes in candidates]
        best = torch.stack(scores).argmax(0).tolist()
        return self._pixels([candidates[n][i] for i, n in enumerate(best)])

    def draw_jobs(
        self, more: Callable[[int], Sequence[Job]], options: SamplingOptions, start: Start | None, rows: int
    ) -> Iterator[Progress]:
        """As `Backend`: a row whose picture has ended is given to the next one. Candidates of `best_of` are rows.

        Unfinished pictures are yielded after each row of tokens; with `best_of`, those of the first candidate.
        """
        if self.prepared.window(rows, options):
            yield from super().draw_jobs(more, options, start, rows)
            return
        self._require_scorer(options)
        known = known_tokens(start, self.tokenizer).to(self.device) if start else None
        waiting: deque[Picture] = deque()

        def more_pictures(free: int) -> list[Picture]:
            jobs = more(-(-(free - len(waiting)) // options.best_of)) if free > len(waiting) else []
            for job, text in zip(jobs, self.text.encode([job.caption for job in jobs]), strict=True):
                seeds = [candidate_seeds(torch.tensor(job.seed), n) for n in range(options.best_of)]
                drawn: dict[int, Tensor] = {}
                waiting.extend(
                    Picture(job=job, text=text, seed=int(s), number=n, drawn=drawn) for n, s in enumerate(seeds)
                )
            return [waiting.popleft() for _ in range(min(free, len(waiting)))]

        rows = rows if options.best_of == 1 else max(ROWS, rows)
        for picture, tokens in self.prepared.continuously(more_pictures, options, rows, known):
            if picture.ended:
                picture.drawn[picture.number] = tokens
                if len(picture.drawn) == options.best_of:
                    yield Progress(picture.job, partial(self._best, picture, options), finished=True)
            elif picture.number == 0:
                yield Progress(picture.job, partial(self._picture, tokens), finished=False)

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

    def _candidates(
        self, text: Tensor, seeds: Tensor, options: SamplingOptions, known: Tensor | None
    ) -> list[list[Tensor]]:
        """`best_of` lists of the codes of each picture. Candidates are drawn together, as rows of a batch."""
        count, pictures = options.best_of, len(seeds)
        rows = [text.repeat(count, 1), torch.cat([candidate_seeds(seeds, n) for n in range(count)])]
        rows += [] if known is None else [known.repeat(count, 1)]
        parts = zip(*(torch.split(tensor, max(ROWS, pictures)) for tensor in rows), strict=True)
        codes = [one for text, seeds, *known in parts for one in self.prepared.draw(text, seeds, options, *known)]
        return [codes[start : start + pictures] for start in range(0, len(codes), pictures)]

    def stream(self, captions: Sequence[str], seeds: Tensor, options: SamplingOptions) -> Iterator[list[Tensor]]:
        """Yield pictures, uint8 (3, H so far, W), after each row of tokens; with `best_of`, the first candidates."""
        text = self.text.encode(captions).to(self.device)
        for tokens in self.prepared.rows(text, seeds, options):
            yield self._pixels(self.prepared.pictures(tokens))

    @torch.no_grad()
    def likelihood(self, captions: Sequence[str], images: Tensor) -> Tensor:
        """-log2 p(tokens of the picture, EOS included | caption) of each picture, in bits, (N,)."""
        bits = []
        for start in range(0, len(images), 32):
            tokens = self.tokenizer.encode(images[start : start + 32].to(self.device)).flatten(1)
            text = self.text.encode(captions[start : start + 32]).to(self.device)
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
        """Passes of the decoder for each batch, and tokens drawn a pass."""
        passes, length = [*self.prepared.passes], self.model.config.length
        return {"passes_by_batch": passes, "tokens_a_pass": [round(length / count, 2) for count in passes]}

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
        codes[:, round((1 - start.strength) * codes.shape[1]) :] = -1
    else:
        redrawn = F.max_pool2d(start.mask[None].float(), tokenizer.config.backbone.factor)[0].bool()
        codes[:, redrawn.repeat_interleave(tokenizer.depth, 1).to(codes.device)] = -1
    return codes.flatten(1)
