"""Labels of a data set under plain names."""

from __future__ import annotations

import numpy as np

from concept_monitor_cli.probe.annotations import ImageLabels, Label
from concept_monitor_cli.probe.plain import PlainLabels, in_plain_words


class Source:
    mask_size = (2, 3)

    def __init__(self, *names: str, category: str = "part") -> None:
        self.labels = tuple(Label(i, 10 + i, name, category, (category,)) for i, name in enumerate(names))

    def read(self, index: int) -> ImageLabels:
        return ImageLabels((np.array([[0, 1, -1], [2, 3, 1]], dtype=np.int32),), (1, 2), ("part",))

    def content(self, index: int) -> bytes:
        return b"same"


def test_names_that_become_one_are_one_label() -> None:
    source = Source("wheel_1", "dog", "wheel_2", "lfleg")
    plain, codes = in_plain_words(source)
    assert [(label.index, label.number, label.name) for label in plain.labels] == [
        (0, 10, "wheel"), (1, 11, "dog"), (2, 13, "left front leg"),
    ]  # fmt: skip
    assert codes == {("wheel", "part"): "wheel_1", ("left front leg", "part"): "lfleg"}
    image = plain.read(0)
    assert image.maps[0].tolist() == [[0, 1, -1], [0, 2, 1]]
    assert image.scalars == (0, 1)
    assert plain.mask_size == (2, 3)


def test_aeroplane_and_airplane_are_one_label() -> None:
    plain, _ = in_plain_words(Source("airplane", "dog", "aeroplane", "sky", category="object"))
    assert [label.name for label in plain.labels] == ["airplane", "dog", "sky"]


def test_what_is_read_is_part_of_the_content() -> None:
    several = [in_plain_words(Source(*names))[0] for names in (("wheel_1", "wheel_2"), ("wheel_1", "dog_a"))]
    assert several[0].content(0) != several[1].content(0)


def test_plain_names_stay_as_they_are() -> None:
    source = Source("wheel", "dog", "sky", "left leg")
    assert in_plain_words(source) == (source, {})
    assert not isinstance(in_plain_words(source)[0], PlainLabels)
