"""Concept sets: every source, and every way in which a list can be malformed."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from concept_monitor_cli.concepts import CATEGORIES, ConceptSet, load_concepts
from concept_monitor_cli.errors import InputError


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_lines_with_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    content = "\ufeffdog\r\nstop sign\r\n  café \r\n".encode()
    concepts = load_concepts(write(tmp_path / "c.txt", content))
    assert concepts.concepts == ("dog", "stop sign", "café")
    assert concepts.categories == ("", "", "")
    assert concepts.notes == ()
    assert concepts.name == "c.txt"


def test_blank_lines_and_duplicates_do_not_shift_and_are_named(tmp_path: Path) -> None:
    concepts = load_concepts(write(tmp_path / "c.txt", "\ndog\n\n \t\ncat\ndog\nred  car\nred car\n"))
    assert concepts.concepts == ("dog", "cat", "red car")
    assert concepts.notes == (
        "c.txt: 3 blank entries left out",
        "c.txt: 2 duplicates left out, the first is 'dog'",
    )


def test_decomposed_and_composed_spellings_are_one(tmp_path: Path) -> None:
    concepts = load_concepts(write(tmp_path / "c.txt", "cafe\u0301\ncaf\u00e9\n"))
    assert concepts.concepts == ("caf\u00e9",)


def test_control_and_invisible_characters_are_removed_with_a_note(tmp_path: Path) -> None:
    concepts = load_concepts(write(tmp_path / "c.txt", "dog\nca\x07t\nzero\u200bwidth\nform\x0cfeed\n"))
    assert concepts.concepts == ("dog", "cat", "zerowidth", "form feed")
    assert concepts.notes == (
        "c.txt: control or invisible characters removed in 2 lines, the first is line 2",
    )


def test_names_that_differ_only_in_case_are_kept_and_said(tmp_path: Path) -> None:
    concepts = load_concepts(write(tmp_path / "c.txt", "turkey\nTurkey\n"))
    assert concepts.concepts == ("turkey", "Turkey")
    assert "'turkey' and 'Turkey'" in concepts.notes[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no concept"),
        (b"\n \n\t\n", "holds no concept"),
        (b"\xef\xbb\xbf", "holds no concept"),
        (b"dog\x00cat\n", "not a text file"),
        ("dog\ncat\n".encode("utf-16-le"), "not a text file"),
        (b"\xff\xfed\x00o", "UTF-16, as it begins"),
        (b"dog\ncaf\xe9\n", "not UTF-8 (line 2)"),
        (b"dog\n" + b"x" * 201 + b"\n", "line 2 has 201 characters"),
    ],
)
def test_what_is_no_concept_list_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = write(tmp_path / "c.txt", content)
    with pytest.raises(InputError) as error:
        load_concepts(path)
    assert said in error.value.what
    assert error.value.where == path


def test_table_with_categories_keeps_equal_names_apart(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.csv",
        "category,concept,remark\ncolor,orange,a\nobject,orange,\nColour,orange,again\n,dog,\n"
        'object,"red, white",\nanimal,cat\n',
    )
    concepts = load_concepts(path)
    assert concepts.concepts == ("orange", "orange", "dog", "red, white", "cat")
    assert concepts.categories == ("color", "object", "", "object", "animal")
    assert concepts.notes[0] == "c.csv: 1 duplicate left out, the first is 'orange' (color)"
    assert concepts.notes[1].endswith("scene: animal")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_table_separators(tmp_path: Path, separator: str) -> None:
    path = write(tmp_path / "c.csv", f"Concept{separator}Category\r\ndog{separator}object\r\n")
    concepts = load_concepts(path)
    assert (concepts.concepts, concepts.categories) == (("dog",), ("object",))


def test_table_of_one_column(tmp_path: Path) -> None:
    concepts = load_concepts(write(tmp_path / "c.csv", "concept\ndog\n\ncat\n"))
    assert concepts.concepts == ("dog", "cat")
    assert concepts.categories == ("", "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "empty"),
        ("concept,category\n", "holds no concept"),
        ("dog,hund\ncat,katze\n", "no column `concept` (its first line is 'dog, hund')"),
        ("animal,colour\ndog,brown\n", "no column `concept`"),
        ("concept,category\nred, white,color\n", "row 2 has 3 cells"),
        ('concept,category\n"dog,object\n', "cannot be read"),
    ],
)
def test_malformed_tables_are_refused(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        load_concepts(write(tmp_path / "c.csv", content))


def test_unknown_names_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such concept file") as error:
        load_concepts("comon")
    assert error.value.hint == "--concepts common"
    with pytest.raises(InputError, match="not a file"):
        load_concepts(str(tmp_path))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads files that nobody may read")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_text("dog\n")
    path.chmod(0)
    with pytest.raises(InputError, match="cannot be read"):
        load_concepts(path)


def test_broden_is_what_the_probe_set_brings() -> None:
    labels = ConceptSet.clean("minibroden", ["sky", "red"], ["object", "color"])
    assert load_concepts("broden", probe_concepts=labels) is labels
    empty = ConceptSet("none", (), ())
    for nothing in (None, empty):
        with pytest.raises(InputError, match="no labels"):
            load_concepts("broden", probe_concepts=nothing)


def test_imagenet_names() -> None:
    concepts = load_concepts("imagenet")
    # open_clip gives "missile" and "sunglasses" to two classes each.
    assert len(concepts) == 998
    assert concepts.concepts[:2] == ("tench", "goldfish")
    assert concepts.notes == ("imagenet: 2 duplicates left out, the first is 'missile' (object)",)
    assert {"crane bird", "maillot"} & set(concepts.concepts)
    scenes = {c for c, k in zip(concepts.concepts, concepts.categories, strict=True) if k == "scene"}
    assert {"geyser", "volcano", "valley", "coral reef"} <= scenes
    assert len(scenes) == 10


def test_common_words() -> None:
    concepts = load_concepts("common")
    assert concepts.notes == ()  # no blanks, no duplicates in what we ship
    assert 950 <= len(concepts) <= 1100
    counts = Counter(concepts.categories)
    assert set(counts) == set(CATEGORIES)
    assert min(counts.values()) >= 40
    # What people look for in photos, and what the anchors of the paper are.
    pairs = set(zip(concepts.concepts, concepts.categories, strict=True))
    for pair in [
        ("windmill", "object"), ("field", "scene"), ("striped", "texture"), ("orange", "color"),
        ("orange", "object"), ("wood", "material"), ("wheel", "part"), ("dog", "object"), ("sky", "scene"),
    ]:  # fmt: skip
        assert pair in pairs
    names = set(concepts.concepts)
    # One number for all words: no word beside its own plural.
    assert not [n for n in names if f"{n}s" in names or f"{n}es" in names]
    for name in names:
        assert name == name.strip()
        assert len(name) <= 20
        assert all(c.isalpha() or c in " -" for c in name)


def test_builtin_vocabulary() -> None:
    from concept_monitor_cli.builtin import VOCABULARY

    concepts = load_concepts("builtin")
    assert tuple(zip(concepts.concepts, concepts.categories, strict=True)) == VOCABULARY
    assert set(concepts.categories) == set(CATEGORIES)


def test_digest_follows_names_categories_and_order_only() -> None:
    base = ConceptSet("a", ("dog", "cat"), ("object", ""))
    assert ConceptSet("b", ("dog", "cat"), ("object", ""), ("note",)).digest == base.digest
    others = [
        ConceptSet("a", ("cat", "dog"), ("object", "")),
        ConceptSet("a", ("dog", "cat"), ("", "object")),
        ConceptSet("a", ("dog",), ("object",)),
        ConceptSet("a", ("dogcat",), ("object",)),
        ConceptSet("a", ('dog", "cat',), ("object",)),
    ]
    assert len({base.digest, *(o.digest for o in others)}) == 1 + len(others)


def test_constructor_refuses_what_would_shift_labels() -> None:
    with pytest.raises(ValueError, match="2 concepts but 1 categories"):
        ConceptSet("a", ("dog", "cat"), ("object",))
    with pytest.raises(ValueError, match="blank"):
        ConceptSet("a", ("dog", " "), ("", ""))
    with pytest.raises(ValueError, match="2 concepts but 1 categories"):
        ConceptSet.clean("a", ["dog", "cat"], ["object"])
