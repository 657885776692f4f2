"""Train the small image-text encoder that comes with the package, on the package's own renderings.

    python scripts/train_builtin_encoder.py --out concept_monitor_cli/builtin/weights

Some 20 minutes on two cores. The pictures are rendered once into `--cache`. Three steps:

1. *Where the words lie.* Words that occur together in pictures (sea and water, blade and windmill) get
   cosines of up to `RELATED`, all others are at right angles: rows of a square root of that Gram matrix.
2. *Text tower*: regression of every bare word to its place, and of phrases ("striped red car in the
   field", "a photo of a boat") to the normalised sum of their words. Tokens that no word or phrase uses
   keep a zero vector: the encoder knows nothing about other words.
3. *Image tower*, against the text tower's own words W, with I the pictures:
   which words are there (sigmoid over all words, positive where a word covers enough of the picture);
   which word of a category dominates (softmax over the category, where one does); what the picture is
   about (softmax over the whole vocabulary at the sharpness that CLIP-Dissect uses, a = 10, against shares
   that grow with the square root of the coverage: it spreads the cosines, so that that softmax is neither
   flat nor a single word).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from multiprocessing import get_context
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import concept_monitor_cli._torchvision  # noqa: F401 - before open_clip

# isort: split
import open_clip
from safetensors.torch import load_file, save_file

from concept_monitor_cli.builtin.quality import concept_ranks, dominant, members, zero_shot_accuracy
from concept_monitor_cli.builtin.renderer import render
from concept_monitor_cli.builtin.vocabulary import BY_CATEGORY, INDEX, VOCABULARY

NAME = "cmon-builtin"
TRAIN_SEED, HELD_OUT_SEED = 1001, 2002
WORDS = [word for word, _ in VOCABULARY]
MEAN = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(1, 3, 1, 1)
STD = torch.tensor(open_clip.OPENAI_DATASET_STD).view(1, 3, 1, 1)

RELATED = 0.5  # cosine of two words that always occur together

# a word is "there" above the first share, "not there" below the second, in between it is left open
PRESENT = {"color": 0.08, "texture": 0.04, "material": 0.05, "part": 0.01, "object": 0.02, "scene": 0.5}
ABSENT = {"color": 0.02, "texture": 0.005, "material": 0.005, "part": 0.002, "object": 0.003, "scene": 0.5}
# weight in "what the picture is about": small things count for more than their area
SALIENCE = {"color": 1.0, "texture": 1.5, "material": 1.2, "part": 2.0, "object": 2.0, "scene": 0.9}
# how often a picture comes, by its subject: shapes and patterns take longer to learn than colours and places
OFTEN = {"color": 0.5, "texture": 2.5, "material": 0.5, "part": 1.2, "object": 2.2, "scene": 0.6}


def render_one(task: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, int]:
    index, seed, side = task
    picture = render(index, seed)
    small = Image.fromarray(picture.image).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(small), picture.coverage().astype(np.float16), INDEX[picture.subject]


def pictures(path: Path, n: int, seed: int, side: int, workers: int) -> dict[str, np.ndarray]:
    if not path.exists():
        tasks = [(index, seed, side) for index in range(n)]
        with get_context("spawn").Pool(workers) as pool:
            made = pool.map(render_one, tasks, chunksize=50)
        images, coverage, subject = (np.stack(column) for column in zip(*made, strict=True))
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, images=images, coverage=coverage, subject=subject)
    with np.load(path) as stored:
        data = {name: stored[name] for name in stored.files}
    if len(data["images"]) < n:
        raise SystemExit(f"{path} holds {len(data['images'])} pictures, not {n}: remove it to render again")
    return {name: array[:n] for name, array in data.items()}


def phrase(rng: Random) -> tuple[str, list[str]]:
    """A phrase and the vocabulary's words in it."""
    pick = {category: rng.choice(words) for category, words in BY_CATEGORY.items()}
    colour, texture, material, part, thing, scene = (pick[c] for c in BY_CATEGORY)
    any_word = rng.choice(WORDS)
    forms = [
        (f"a photo of a {any_word}", [any_word]),
        (f"a picture of {any_word}", [any_word]),
        (f"{any_word}", [any_word]),
        (f"a {any_word}", [any_word]),
        (f"the {any_word}.", [any_word]),
        (f"{colour} {thing}", [colour, thing]),
        (f"a {texture} {thing}", [texture, thing]),
        (f"{material} {thing}", [material, thing]),
        (f"{thing} with {part}", [thing, part]),
        (f"a {thing} in the {scene}", [thing, scene]),
        (f"{colour} {texture}", [colour, texture]),
        (f"{colour} {part}", [colour, part]),
        (f"{colour} {material}", [colour, material]),
        (f"a {colour} {thing} in the {scene}", [colour, thing, scene]),
        (f"{texture} {colour} {thing} in the {scene}", [texture, colour, thing, scene]),
        (f"{any_word} and {thing}", [any_word, thing]),
        (f"{any_word} {part}", [any_word, part]),
    ]
    return rng.choice(forms)


class Text:
    """Tokens renumbered to those in use, so that a step does not touch 49,408 rows."""

    def __init__(self, model: torch.nn.Module, context: int):
        self.tokenizer = open_clip.SimpleTokenizer(context_length=context)
        rng = Random(0)
        texts = WORDS + [phrase(rng)[0] for _ in range(20000)]
        self.used = self.tokenizer(
            texts
        ).unique()  # sorted: the end mark stays the largest, as open_clip needs
        self.place = {int(token): place for place, token in enumerate(self.used)}
        full = model.token_embedding
        model.token_embedding = torch.nn.Embedding(len(self.used), full.embedding_dim)
        torch.nn.init.normal_(model.token_embedding.weight, std=0.02)
        self.rows = full.num_embeddings

    def tokens(self, texts: list[str]) -> torch.Tensor:
        return torch.searchsorted(self.used, self.tokenizer(texts))

    def table(self, weight: torch.Tensor) -> torch.Tensor:
        full = torch.zeros(self.rows, weight.shape[1], dtype=weight.dtype)
        full[self.used] = weight
        return full


def word_places(data: dict[str, np.ndarray], dim: int) -> torch.Tensor:
    """A unit vector for each word, with cosines that say how often two words share a picture."""
    there = (data["coverage"].astype(np.float64) >= np.array([PRESENT[c] for _, c in VOCABULARY])).astype(
        float
    )
    gram = RELATED * np.clip(np.corrcoef(there.T), 0, None)
    np.fill_diagonal(gram, 1.0)
    values, vectors = np.linalg.eigh(gram)
    root = vectors * np.sqrt(np.clip(values, 1e-6, None))
    places = np.zeros((len(WORDS), dim))
    places[:, : root.shape[1]] = root
    # a fixed rotation, so that no coordinate means anything by itself
    turned = places @ np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))[0]
    return F.normalize(torch.from_numpy(turned).float(), dim=-1)


def train_text(model: torch.nn.Module, text: Text, places: torch.Tensor, steps: int, seed: int) -> None:
    """Fit the text tower to the words' places, and to phrases between them."""
    rng = Random(seed)
    words = text.tokens(WORDS)
    parameters = [
        parameter
        for name, parameter in model.named_parameters()
        if not name.startswith("visual.") and name != "logit_scale"
    ]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        phrases = [phrase(rng) for _ in range(96)]
        sums = torch.stack([places[[INDEX[word] for word in parts]].sum(0) for _, parts in phrases])
        goal = torch.cat([places, F.normalize(sums, dim=-1)])
        said = F.normalize(
            model.encode_text(torch.cat([words, text.tokens([p for p, _ in phrases])])), dim=-1
        )
        off = 1 - (said * goal).sum(dim=1)
        optimizer.zero_grad(set_to_none=True)
        (off[: len(WORDS)].mean() + off[len(WORDS) :].mean()).backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            print(
                f"text step {step + 1}/{steps}: words off by {off[: len(WORDS)].mean().item():.4f}, "
                f"phrases by {off[len(WORDS) :].mean().item():.4f}",
                flush=True,
            )


def targets(data: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    coverage = data["coverage"].astype(np.float32)
    present = np.array([PRESENT[c] for _, c in VOCABULARY], np.float32)
    absent = np.array([ABSENT[c] for _, c in VOCABULARY], np.float32)
    salience = np.array([SALIENCE[c] for _, c in VOCABULARY], np.float32)
    about = np.where(coverage >= absent, np.sqrt(coverage), 0) * salience
    about[np.arange(len(about)), data["subject"]] *= 2
    about /= about.sum(axis=1, keepdims=True)
    return {
        "present": torch.from_numpy((coverage >= present).astype(np.float32)),
        "counts": torch.from_numpy(((coverage >= present) | (coverage < absent)).astype(np.float32)),
        "about": torch.from_numpy(about),
        **{f"dominant/{c}": torch.from_numpy(dominant(coverage, c)) for c in BY_CATEGORY},
    }


def augment(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    flip = torch.rand(len(batch), generator=generator) < 0.5
    batch = torch.where(flip[:, None, None, None], batch.flip(3), batch)
    padded = F.pad(batch, (4, 4, 4, 4), mode="replicate")
    top, left = (int(v) for v in torch.randint(0, 9, (2,), generator=generator))
    side = batch.shape[-1]
    return padded[:, :, top : top + side, left : left + side]


def normalise(images: torch.Tensor) -> torch.Tensor:
    return (images.float() / 255 - MEAN) / STD


@torch.no_grad()
def evaluate(
    model: torch.nn.Module, text: Text, data: dict[str, np.ndarray]
) -> tuple[dict[str, float], dict[str, int]]:
    model.eval()
    pixels = torch.from_numpy(data["images"]).permute(0, 3, 1, 2)
    images = torch.cat([F.normalize(model.encode_image(normalise(b)), dim=-1) for b in pixels.split(256)])
    words = F.normalize(model.encode_text(text.tokens(WORDS)), dim=-1)
    model.train()
    accuracy = zero_shot_accuracy(images.numpy(), words.numpy(), data["coverage"])
    return accuracy, concept_ranks(images.numpy(), words.numpy(), data["coverage"])


def save(model: torch.nn.Module, text: Text, path: Path) -> None:
    """Matrices in fp16, the rest (norms, batch statistics, positions) in fp32."""
    state = {}
    for name, value in model.state_dict().items():
        value = text.table(value) if name == "token_embedding.weight" else value
        half = value.is_floating_point() and value.ndim >= 2
        state[name] = value.detach().to(torch.float16 if half else value.dtype).contiguous()
    temporary = path.with_suffix(".part")
    save_file(state, temporary, metadata={"format": "pt"})
    temporary.replace(path)


def load(model: torch.nn.Module, text: Text, path: Path) -> None:
    """What `save` wrote, into a model whose token table is already the short one."""
    state = {
        name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()
    }
    state["token_embedding.weight"] = state["token_embedding.weight"][text.used]
    model.load_state_dict(state)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder with the model config; the weights go there"
    )
    parser.add_argument("--cache", type=Path, default=Path("build/builtin-encoder"), help="rendered pictures")
    parser.add_argument("--images", type=int, default=16920)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--start", type=Path, help="go on from these weights: the text tower stays as it is there"
    )
    parser.add_argument("--text-steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--minutes", type=float, default=1e9, help="stop the schedule's clock here: the rate falls with time"
    )
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    config_path = args.out / f"{NAME}.json"
    config = json.loads(config_path.read_text())
    side, context = config["vision_cfg"]["image_size"], config["text_cfg"]["context_length"]
    train = pictures(args.cache / "train.npz", args.images, TRAIN_SEED, side, args.workers)
    held_out = pictures(args.cache / "held.npz", 1410, HELD_OUT_SEED, side, args.workers)

    open_clip.add_model_config(config_path)
    model = open_clip.create_model(NAME)
    text = Text(model, context)
    model.train().to(memory_format=torch.channels_last)
    goal = targets(train)
    pixels = torch.from_numpy(train["images"]).permute(0, 3, 1, 2)
    if args.start is None:
        train_text(model, text, word_places(train, config["embed_dim"]), args.text_steps, args.seed)
    else:
        load(model, text, args.start)
    with torch.no_grad():
        w = F.normalize(model.encode_text(text.tokens(WORDS)), dim=-1)
        model.logit_scale.fill_(math.log(10))  # CLIP-Dissect's sharpness
    decay = [p for p in model.visual.parameters() if p.ndim >= 2]
    rest = [p for p in model.visual.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
        lr=args.lr,
        fused=True,
    )
    generator = torch.Generator().manual_seed(args.seed)
    often = torch.tensor([OFTEN[VOCABULARY[word][1]] for word in train["subject"]])
    steps = args.epochs * (len(pixels) // args.batch_size)
    step, started = 0, time.monotonic()
    for epoch in range(args.epochs):
        order = torch.multinomial(often, len(pixels), replacement=True, generator=generator)
        for chosen in order.split(args.batch_size):
            if len(chosen) < args.batch_size:
                continue
            done = max(step / steps, (time.monotonic() - started) / 60 / args.minutes)
            if done >= 1:
                break
            rate = args.lr * min(1.0, (step + 1) / 100) * (0.5 + 0.5 * np.cos(np.pi * done))
            for group in optimizer.param_groups:
                group["lr"] = float(rate)
            batch = normalise(augment(pixels[chosen], generator)).contiguous(
                memory_format=torch.channels_last
            )
            with torch.autocast("cpu", torch.bfloat16):  # twice as fast, and as good
                raw = model.encode_image(batch)
            similarity = F.normalize(raw.float(), dim=-1) @ w.T

            there = (
                F.binary_cross_entropy_with_logits(
                    20 * similarity - 4,
                    goal["present"][chosen],
                    weight=goal["counts"][chosen],
                    pos_weight=torch.tensor(2.0),
                    reduction="none",
                )
                .sum(dim=1)
                .mean()
                / 10
            )
            within = similarity.new_zeros(())
            for category in BY_CATEGORY:
                truth = goal[f"dominant/{category}"][chosen]
                if (truth >= 0).any():
                    # the mean over those that count: a texture dominates in one picture of eight, a colour in
                    # most, and both are to be learnt
                    logits = 20 * similarity[:, members(category)]
                    within = within + F.cross_entropy(logits, truth, ignore_index=-1) / 2
            about = F.cross_entropy(10 * similarity, goal["about"][chosen])
            loss = there + within + about
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.visual.parameters(), 5.0)
            optimizer.step()
            step += 1
            if step % 100 == 0:
                parts = {"there": there, "within": within, "about": about}
                shown = " ".join(f"{name} {part.item():.3f}" for name, part in parts.items())
                minutes = (time.monotonic() - started) / 60
                print(f"{minutes:.1f} min, step {step}/{steps}: {shown}", flush=True)
        accuracy, ranks = evaluate(model, text, held_out)
        first = np.mean([rank == 0 for rank in ranks.values()])
        shown = " ".join(f"{c} {a:.3f}" for c, a in accuracy.items())
        print(f"epoch {epoch + 1}: {shown} | rank 1: {first:.2f}", flush=True)
        save(model, text, args.out / f"{NAME}.safetensors")
        if done >= 1:
            break
    worst = {word: rank for word, rank in ranks.items() if rank > 0}
    print(f"not at rank 1: {worst}")


if __name__ == "__main__":
    main()
