"""Descriptions of units: which text do a unit's exemplars say, beyond what any image says? (MILAN)

    d = argmax_d  log p(d | E) - lam log p(d)

`E` are the exemplars of a unit, the images that it fires on most. MILAN (Hernandez et al. 2022) trains a
network that looks at 15 regions jointly; here a model that looks at one image at a time is asked of each, and

    log p(d | E) = mean over x in E of log p(d | x)

is a product of experts. The prior `p(d)` is the mean of `p(d | x)` over images that have nothing to do with
the unit. With `lam = 0` what is left is the likelihood; with `lam = 1` the score is the pointwise mutual
information of text and exemplars under the model.

The model is an image-text encoder that chooses among given phrases (`PhraseModel`), or a captioner that
writes (`beam_search`, `forced`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional._blocks import spans
from concept_monitor_cli.functional.calibration import random_top_images
from concept_monitor_cli.functional.groups import ImageGroups

#: Exemplars of a unit (MILAN, section 3).
EXEMPLARS = 15
#: Random sets of exemplars in a null distribution.
DRAWS = 1000

_BLOCK = 1 << 24


def description_scores(given: Tensor, prior: Tensor, lam: float) -> Tensor:
    """`log p(d | E) - lam log p(d)`.

    Args:
        given: `log p(d | E)`, `(..., M)`.
        prior: `log p(d)`, `(M,)`.
        lam: weight of the prior; 0 leaves the likelihood.

    Returns:
        as `given`.

    Example:
        >>> given, prior = torch.tensor([[-1.0, -2.0]]), torch.tensor([-1.0, -4.0])
        >>> description_scores(given, prior, 0.0).argmax().item(), description_scores(
        ...     given, prior, 1.0
        ... ).argmax().item()
        (0, 1)
    """
    if not 0 <= lam < float("inf"):
        raise InputError(f"a weight of the prior of {lam}: it must be 0 or more")
    return given - lam * prior if lam else given.clone()


@dataclass(frozen=True)
class PhraseModel:
    """A model that says one of `M` phrases of an image: `p(d | x) = softmax over d of a cos(x, d)`.

    Attributes:
        images: `I`, `(N, D)` float32, rows of unit length.
        phrases: `T`, `(M, D)` float32, rows of unit length.
        scale: `a`, the encoder's logit scale.
        log_norm: `(N,)` float64, `log sum_d exp(a cos(x, d))`.
        log_prior: `(M,)` float64, `log p(d)`: over images, each group of which counts as one.
    """

    images: Tensor
    phrases: Tensor
    scale: float
    log_norm: Tensor
    log_prior: Tensor

    @classmethod
    @torch.no_grad()
    def fit(cls, images: Tensor, phrases: Tensor, scale: float, groups: ImageGroups) -> PhraseModel:
        """The model of some phrases, and how often it says each of the images at hand.

        Args:
            images: `(N, D)`, rows of unit length.
            phrases: `(M, D)`, rows of unit length.
            scale: `a > 0`.
            groups: of the images.
        """
        if not scale > 0:
            raise InputError(f"a logit scale of {scale}: it must be above 0")
        weight = torch.from_numpy(1.0 / (groups.n_groups * groups.sizes[groups.of])).to(images.device)
        norms, total = [], torch.zeros(len(phrases), dtype=torch.float64, device=images.device)
        for some in spans(len(images), max(1, _BLOCK // len(phrases))):
            logits = (scale * (images[some] @ phrases.T)).double()
            norm = logits.logsumexp(1)
            total += weight[some] @ (logits - norm[:, None]).exp()
            norms.append(norm)
        return cls(images, phrases, scale, torch.cat(norms), total.log())

    @torch.no_grad()
    def given(self, sets: Tensor) -> Tensor:
        """`log p(d | E)` of sets of images: the mean over their images of `log p(d | x)`.

        Args:
            sets: `(C, E)` int64, images; -1 for none.

        Returns:
            `(C, M)` float64; NaN for an empty set.
        """
        counted = (sets >= 0).double()
        chosen = sets.clamp_min(0)
        total = counted.sum(1, keepdim=True)
        # A mean of logarithms is linear in the images: one product for a whole set.
        mean = (self.images[chosen].double() * counted[:, :, None]).sum(1) / total
        norm = (self.log_norm[chosen] * counted).sum(1, keepdim=True) / total
        return self.scale * (mean @ self.phrases.double().T) - norm

    @torch.no_grad()
    def best_of_chance(
        self, groups: ImageGroups, sizes: Sequence[int], lam: float, *, draws: int = DRAWS, seed: int = 0
    ) -> dict[int, Tensor]:
        """The score of the best description of random sets of images, one image of each group.

        Args:
            groups: of the images.
            sizes: of the sets; each is drawn for itself, as a mean over fewer images varies more.
            lam: see `description_scores`.
            draws: `R`.
            seed: of the draws.

        Returns:
            size -> `(R,)` float64.
        """
        device = self.images.device
        sets = random_top_images(groups, max(sizes), draws, seed=seed, device=device).T
        found = {}
        for size in sorted(set(sizes)):
            best = []
            for some in spans(draws, max(1, _BLOCK // len(self.phrases))):
                given = self.given(sets[some, :size])
                best.append(description_scores(given, self.log_prior, lam).amax(1))
            found[size] = torch.cat(best)
        return found


def chosen_exemplars(
    top: Tensor, values: Tensor, lowest: Tensor, groups: ImageGroups, most: int = EXEMPLARS
) -> Tensor:
    """The places of a unit's exemplars among its top images: those that excite it, one of each group.

    Args:
        top: `(C, K)` int64, images, the most exciting first; -1 for none.
        values: `(C, K)`, what they excite.
        lowest: `(C,)`, the lowest value over all images: an image no higher than that is none of the unit's.
        groups: of the images.
        most: how many at most.

    Returns:
        `(C, most)` int64, places in `0..K-1`; -1 where there are fewer.
    """
    of = torch.from_numpy(groups.of).to(top.device)
    group = torch.where(top >= 0, of[top.clamp_min(0)], -1)
    # A place counts where no earlier one is of the same group.
    same = group[:, :, None] == group[:, None, :]
    first = ~same.tril(-1).any(2)
    kept = first & (top >= 0) & (values > lowest[:, None])
    places = torch.full((len(top), most), -1, dtype=torch.int64, device=top.device)
    rank = kept.cumsum(1) - 1
    rows, columns = torch.nonzero(kept & (rank < most), as_tuple=True)
    places[rows, rank[rows, columns]] = columns
    return places


# -- captioners ------------------------------------------------------------------------------------

#: From token sequences `(B, L)`, each begun with the start token, to the logarithms of the probabilities of
#: the token after every one of them, `(B, L, V)`.
NextTokens = Callable[[Tensor], Tensor]


@torch.no_grad()
def beam_search(
    following: NextTokens, start: int, end: int, *, beams: int, tokens: int, never: Sequence[int] = ()
) -> list[tuple[tuple[int, ...], float]]:
    """The most probable texts, by a beam over whole texts, without a norm by length.

    Every step keeps the `beams` most probable texts, ended or not; it is over when all of them have ended.
    One that has not ended after `tokens` tokens is ended there.

    Args:
        following: the captioner, looking at one image.
        start: begins every text.
        end: ends it.
        beams: texts that are kept.
        tokens: of a text, without start and end.
        never: tokens that no text has, such as padding.

    Returns:
        `(tokens without start and end, log p)` with the end's own probability in it, best first; ties go to
        the lower tokens.
    """
    if beams < 1 or tokens < 1:
        raise InputError(f"{beams} beams of {tokens} tokens: each must be at least 1")
    alive: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    done: list[tuple[tuple[int, ...], float]] = []
    for length in range(tokens + 1):
        rows = torch.tensor([[start, *text] for text, _ in alive])
        steps = following(rows)[:, -1].double().cpu()
        steps[:, [start, *never]] = -torch.inf
        so_far = torch.tensor([score for _, score in alive], dtype=torch.float64)
        done += [
            (text, score)
            for (text, _), score in zip(alive, (so_far + steps[:, end]).tolist(), strict=True)
            if score > -torch.inf
        ]
        done = sorted(done, key=lambda each: (-each[1], each[0]))[:beams]
        if length == tokens:
            break
        steps[:, end] = -torch.inf
        total = so_far[:, None] + steps
        best = total.flatten().topk(min(beams, total.numel()))
        # A text that is longer is less probable: what is below the last of the ended ones can be dropped.
        worst = done[-1][1] if len(done) == beams else -torch.inf
        vocabulary = total.shape[1]
        alive = [
            ((*alive[place // vocabulary][0], place % vocabulary), score)
            for place, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            if score > worst
        ]
        if not alive:
            break
    return done


@torch.no_grad()
def forced(following: NextTokens, start: int, end: int, texts: Sequence[Sequence[int]]) -> Tensor:
    """`log p(d | x)` of given texts: the captioner is made to say each, the end included.

    Args:
        following: the captioner, looking at one image.
        start: begins every text.
        end: ends it.
        texts: `M` sequences of tokens, without start and end.

    Returns:
        `(M,)` float64, on the host.
    """
    if not texts:
        return torch.zeros(0, dtype=torch.float64)
    longest = max(map(len, texts)) + 1
    targets = torch.full((len(texts), longest), end)
    inside = torch.zeros(len(texts), longest, dtype=torch.bool)
    for row, text in enumerate(texts):
        targets[row, : len(text)] = torch.tensor(list(text), dtype=torch.int64)
        inside[row, : len(text) + 1] = True
    # What stands after the end is never read: a text's probabilities do not look ahead.
    said = torch.cat([torch.full((len(texts), 1), start), targets[:, :-1]], 1)
    found = following(said).double().cpu().gather(2, targets[:, :, None])[:, :, 0]
    return torch.where(inside, found, 0.0).sum(1)


@torch.no_grad()
def best_of_subsets(
    log_p: Tensor, own: Tensor, size: int, lam: float, *, draws: int = DRAWS, seed: int = 0
) -> Tensor:
    """The score of the best description of random sets of images, for a captioner.

    The images are drawn with replacement, and the texts of a set are those that the captioner proposes for
    its own images, as for a unit. The prior of a set is the mean over the images that are not in it: a unit's
    own images have no part in the prior either.

    Args:
        log_p: `log p(d | x)`, `(B, M)`, of all texts that were proposed for any of `B` images.
        own: `(B, M)` bool, which texts were proposed for which image.
        size: images of a set.
        lam: see `description_scores`.
        draws: `R`.
        seed: of the sets.

    Returns:
        `(R,)` float64.
    """
    images = len(log_p)
    if not 1 <= size < images:
        raise InputError(f"sets of {size} of {images} images: one must be left for the prior")
    generator = torch.Generator().manual_seed(seed)
    values, best = log_p.double(), []
    for _ in range(draws):
        chosen = torch.randint(images, (size,), generator=generator)
        others = torch.ones(images, dtype=torch.bool)
        others[chosen] = False
        scores = description_scores(values[chosen].mean(0), log_mean(values[others]), lam)
        best.append(scores.masked_fill(~own[chosen].any(0), -torch.inf).max())
    return torch.stack(best)


def log_mean(log_p: Tensor) -> Tensor:
    """`log mean_x p(d | x)` of `log p(d | x)`, `(B, M)`: the prior of each text, `(M,)`."""
    return log_p.logsumexp(0) - float(torch.tensor(float(len(log_p))).double().log())
