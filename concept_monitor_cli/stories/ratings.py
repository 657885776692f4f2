"""The human study of a run: a form for people to rate labels by, and what they said.

Raters get the form alone. What is whose label, and what is a label of chance, stands in the key, a table of
the run, which the answers are joined with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.evaluation.ratings import krippendorff_alpha, paired_p
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.report.images import data_uri, sheet, thumbnail
from concept_monitor_cli.report.ratings import HIGHEST, LOWEST, Question, rating_form
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.store.atomic import write_text_atomic
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    import pandas as pd

KEY = "ratings-key"
OWN, CHANCE = "own", "chance"
# Images of a unit on the form, and how they are laid out.
_IMAGES, _ACROSS, _SIDE, _GAP = 10, 5, 132, 2


@dataclass(frozen=True)
class Form:
    """A form that was written.

    Attributes:
        path: the file for the raters.
        key: the table that they must not see.
        questions: how many.
        units: about how many units.
    """

    path: Path
    key: Path
    questions: int
    units: int


def export_ratings(opened: OpenRun, count: int, *, seed: int) -> Form:
    """Write a form about some units of each layer, at the last of the epochs that were asked for.

    Units are drawn at random from those that every detector of the layer gives a label. For each detector
    there is the unit's label and the label of another unit that is drawn at random, whatever it says; a text
    that is asked for the same unit twice is one question.

    Args:
        opened: the run.
        count: units of each layer; all where there are fewer.
        seed: of every draw.

    Raises:
        InputError: no unit has a label from every detector of its layer, or what the form needs is gone.
    """
    import pandas as pd

    generator = np.random.default_rng(seed)
    asked: list[dict[str, Any]] = []
    pictures, alts = [], []
    for layer in dict.fromkeys(history.layer for history in opened.histories):
        own = [history for history in opened.histories if history.layer == layer]
        labels = [_labels(opened, history) for history in own]
        units = sorted(set.intersection(*(set(each.index) for each in labels)))
        chosen = (
            sorted(generator.choice(units, min(count, len(units)), replace=False).tolist()) if units else []
        )
        strips = _strips(opened, own, chosen)
        for unit, strip in zip(chosen, strips, strict=True):
            pictures.append(strip)
            alts.append(f"{_IMAGES} images")
            for history, table in zip(own, labels, strict=True):
                others = table.index[table.index != unit]
                other = int(generator.choice(others)) if len(others) else unit
                for kind, of in ((OWN, unit), (CHANCE, other)):
                    asked.append(
                        {
                            "picture": len(pictures) - 1,
                            "epoch": int(history.epochs[-1]),
                            "checkpoint": history.checkpoints[-1],
                            "layer": layer,
                            "unit": unit,
                            "detector": history.detector,
                            "kind": kind,
                            "label": str(table.loc[of, "concept"]),
                            "interpretable": bool(table.loc[unit, "interpretable"]),
                        }
                    )
    if not asked:
        raise InputError(
            "no unit has a label from every detector of its layer",
            where=opened.run.root,
            hint="name one detector, or another layer: --detector, --layer",
        )
    order = list(dict.fromkeys((row["picture"], row["label"]) for row in asked))
    generator.shuffle(order)
    place = {question: number for number, question in enumerate(order)}
    form = hashlib.sha256(json.dumps([order, pictures]).encode()).hexdigest()[:16]
    key = pd.DataFrame(asked).assign(
        form=form, question=[place[row["picture"], row["label"]] for row in asked]
    )
    path = opened.run.root / "ratings" / "form.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    questions = [Question(picture, label) for picture, label in order]
    write_text_atomic(path, rating_form(form, questions, pictures, alts))
    return Form(path, opened.run.write_csv(KEY, key), len(order), len(pictures))


def _labels(opened: OpenRun, history: History) -> pd.DataFrame:
    """The best label of every unit that has one, by unit, at the last epoch."""
    rows = opened.first_rows(history)
    rows = rows[rows["epoch"] == history.epochs[-1]]
    labels: pd.DataFrame = rows[(rows["state"] == "live") & (rows["concept"] != "")].set_index("unit")
    return labels


def _strips(opened: OpenRun, histories: Sequence[History], units: Sequence[int]) -> list[str]:
    """The images that excite each unit most, as one picture each."""
    if not units:
        return []
    # Detectors may order images in their own ways; the first one's is that of the run's first detector.
    with opened.recording(histories[0], len(histories[0].epochs) - 1) as entry:
        top = entry.read("top_images")[list(units), :_IMAGES]
    strips = []
    for images in top:
        shown: list[Image.Image] = [
            ImageOps.expand(thumbnail(opened.probe.image(int(image)), _SIDE - 2 * _GAP), _GAP, "white")
            for image in images
            if image >= 0
        ]
        strips.append(data_uri(sheet(shown, _ACROSS, _SIDE)))
    return strips


# -- answers ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """What raters said.

    Attributes:
        raters: their names.
        values: `(raters, questions)`; NaN where there is no answer.
    """

    raters: tuple[str, ...]
    values: NDArray[np.float64]


def import_ratings(opened: OpenRun, files: Sequence[Path], *, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What the answers of some raters say of the labels of each layer and detector.

    Args:
        opened: the run that the form is of.
        files: of answers, one of each rater.
        seed: of the test.

    Returns:
        the rows of `ratings.csv` and of `ratings-units.csv`.

    Raises:
        InputError: there is no form; a file is no answers to it; two files are of one rater.
    """
    import pandas as pd

    path = opened.run.tables / f"{KEY}.csv"
    if not path.is_file():
        raise InputError(
            "the run has no key of a form",
            where=path,
            hint="write a form first: cmon evaluate --export-ratings 30",
        )
    key = TABLES[KEY].read_csv(path)
    answers = read_answers(files, str(key["form"].iloc[0]), int(key["question"].max()) + 1)
    rated = np.isfinite(answers.values).sum(0)
    with np.errstate(invalid="ignore"):
        means = np.nansum(answers.values, 0) / np.where(rated, rated, np.nan)
    place = ["epoch", "checkpoint", "layer", "detector"]
    parts, rows = [], []
    for values, own in key.groupby(place, sort=True):
        at: dict[str, Any] = dict(zip(place, values, strict=True))
        sides = {kind: own[own["kind"] == kind].set_index("unit").sort_index() for kind in (OWN, CHANCE)}
        question = {kind: side["question"].to_numpy(dtype=np.int64) for kind, side in sides.items()}
        given, chance = means[question[OWN]], means[question[CHANCE]]
        both = np.isfinite(given) & np.isfinite(chance)
        parts.append(
            pd.DataFrame(
                {
                    "unit": sides[OWN].index,
                    "label": sides[OWN]["label"].to_numpy(),
                    "rating": given,
                    "chance_label": sides[CHANCE]["label"].to_numpy(),
                    "chance": chance,
                    "raters": rated[question[OWN]],
                    "interpretable": sides[OWN]["interpretable"].to_numpy(),
                }
            ).assign(**at)
        )
        sure = both & sides[OWN]["interpretable"].to_numpy(dtype=bool)
        for which, chosen in (("all", both), ("interpretable", sure)):
            rows.append(
                {
                    **at,
                    "which": which,
                    **_summary(given[chosen], chance[chosen], seed),
                    "raters": len(answers.raters),
                    "alpha": krippendorff_alpha(
                        answers.values[:, np.unique(np.concatenate([q[chosen] for q in question.values()]))]
                    ),
                }
            )
    return (
        TABLES["ratings"].frame(pd.DataFrame(rows)),
        TABLES["ratings-units"].frame(pd.concat(parts, ignore_index=True)),
    )


def _summary(given: NDArray[np.float64], chance: NDArray[np.float64], seed: int) -> dict[str, Any]:
    units, difference = len(given), given - chance
    if not units:
        nothing = float("nan")
        names = ("mean", "chance", "difference", "error", "p_value")
        return {"units": 0, **dict.fromkeys(names, nothing)}
    return {
        "units": units,
        "mean": float(given.mean()),
        "chance": float(chance.mean()),
        "difference": float(difference.mean()),
        "error": float(difference.std(ddof=1) / units**0.5) if units > 1 else float("nan"),
        "p_value": paired_p(difference, seed=seed),
    }


def read_answers(files: Sequence[Path], form: str, questions: int) -> Answers:
    """The answers in some files.

    Args:
        files: as the form saves them.
        form: to which form they must belong.
        questions: how many it has.

    Raises:
        InputError: a file is no answers, or to another form, or of a rater who is there already.
    """
    raters: list[str] = []
    values = np.full((len(files), questions), np.nan)
    for row, path in enumerate(files):
        rater, given = _read(path, form)
        if rater in raters:
            raise InputError(
                f"two files have the answers of {rater}", where=path, hint="give one file of each rater"
            )
        raters.append(rater)
        for question, value in given.items():
            if not (question.isdecimal() and int(question) < questions):
                raise InputError(f"the form has no question {question}", where=path)
            if not (isinstance(value, int) and LOWEST <= value <= HIGHEST):
                raise InputError(
                    f"{value!r} is no rating from {LOWEST} to {HIGHEST}", where=f"{path}, question {question}"
                )
            values[row, int(question)] = value
    if not np.isfinite(values).any():
        raise InputError(
            f"no question is answered in {counted(len(files), 'files')}", where="--import-ratings"
        )
    return Answers(tuple(raters), values)


def _read(path: Path, form: str) -> tuple[str, dict[str, Any]]:
    hint = "a file that the form saved: ratings-NAME.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"the answers cannot be read: {error.strerror}", where=path, hint=hint) from error
    except ValueError as error:  # no JSON, or no text
        raise InputError("this file has no answers", where=path, hint=hint) from error
    known = isinstance(content, dict) and isinstance(content.get("ratings"), dict)
    if not known or not isinstance(content.get("rater"), str) or not content["rater"].strip():
        raise InputError("this file has no answers", where=path, hint=hint)
    if content.get("form") != form:
        raise InputError(
            "these are answers to another form",
            where=path,
            hint="writing a form anew replaces the key: import into the run whose form was sent out",
        )
    return content["rater"].strip(), content["ratings"]
