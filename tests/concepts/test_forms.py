"""Word lists as they are published: read right where the form is known, refused with their line where not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from concept_monitor_cli.concepts import load_concepts
from concept_monitor_cli.concepts.plain import problem_with
from concept_monitor_cli.errors import InputError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# file, content, concepts, categories where there are some
KNOWN = [
    ("list.json", '["dog", "great_white_shark"]', "dog|great white shark", ""),
    ("oneline.txt", '["dog", "cat"]', "dog|cat", ""),
    (
        "index.json",
        '{"0": ["n01440764", "tench"], "1": ["n01443537", "great_white_shark"]}',
        "tench|great white shark",
        "",
    ),
    ("order.json", '{"10": "sky", "9": "dog"}', "dog|sky", ""),
    ("categories.json", '{"dog": "object", "sky": "scene"}', "dog|sky", "object|scene"),
    (
        "groups.json",
        '{"object": ["dog", "cat"], "scene": ["street"]}',
        "dog|cat|street",
        "object|object|scene",
    ),
    ("class_to_idx.json", '{"cat": 1, "dog": 0}', "dog|cat", ""),
    ("wnid.json", '{"n01440764": "tench", "n01443537": ["goldfish", "Carassius"]}', "tench|goldfish", ""),
    (
        "coco.json",
        json.dumps(
            {
                "info": {},
                "categories": [
                    {"supercategory": "person", "id": 1, "name": "person"},
                    {"supercategory": "vehicle", "id": 2, "name": "car"},
                ],
            }
        ),
        "person|car",
        "",
    ),
    (
        "lvis.json",
        json.dumps(
            {
                "categories": [
                    {"id": 1, "name": "bow_(weapon)", "synset": "bow.n.04"},
                    {"id": 2, "name": "aerosol_can", "synset": "aerosol.n.02"},
                ]
            }
        ),
        "bow weapon|aerosol can",
        "",
    ),
    (
        "config.json",
        json.dumps({"model_type": "vit", "id2label": {"0": "tench, Tinca tinca", "1": "cock"}}),
        "tench|cock",
        "",
    ),
    (
        "mapillary.json",
        '{"labels": [{"name": "construction--barrier--curb", "color": [1, 2, 3]}]}',
        "curb",
        "",
    ),
    ("lines.jsonl", '{"name": "dog"}\n{"name": "cat"}\n', "dog|cat", ""),
    ("wide.json", json.dumps(["dog", "café"], ensure_ascii=False).encode("utf-16"), "dog|café", ""),
    ("words.yaml", "- dog\n- no\n- 'on'\n", "dog|no|on", ""),
    ("data.yaml", "train: x\nnc: 2\nnames:\n  0: person\n  1: traffic light\n", "person|traffic light", ""),
    ("flow.yml", "nc: 2\nnames: [person, car]\n", "person|car", ""),
    (
        "card.yaml",
        "dataset_info:\n  features:\n  - name: label\n    dtype:\n      class_label:\n        names:\n"
        '          "0": airplane\n          "1": bird\n',
        "airplane|bird",
        "",
    ),
    ("yaml.txt", "names:\n  0: person\n  1: car\n", "person|car", ""),
    ("list.txt", "['dog', 'cat']", "dog|cat", ""),
    ("tuples.txt", "[('dog', 'object'), ('sky', 'scene')]", "dog|sky", "object|scene"),
    ("set.txt", "{'dog', 'cat'}", "dog|cat", ""),
    ("names.py", "# classes\nCLASSES = (\n  'wall',  # no door\n  'sky',\n)\nn = 2\n", "wall|sky", ""),
    ("dict.txt", "{0: 'tench, Tinca tinca',\n 1: 'cock'}\n", "tench|cock", ""),
    ("comments.txt", "# mine\ndog\n// animals\ncat  # pet\nC#\n", "dog|cat|C#", ""),
    ("quotes.txt", '"dog"\n\'cat\'\n“sky”\n"red, white"\n', "dog|cat|sky|red, white", ""),
    ("commas.txt", '"dog",\n"cat",\n', "dog|cat", ""),
    ("numbered.txt", "1. dog\n2. cat\n3) sky\n- grass\n* sea\n", "dog|cat|sky|grass|sea", ""),
    ("brackets.txt", "(1) dog\n(2) cat\n", "dog|cat", ""),
    ("dash.txt", "1 - dog\n2 - cat\n", "dog|cat", ""),
    ("classes.txt", "0: background\n1: person\n2: car\n", "person|car", ""),
    ("labelme.txt", "__ignore__\n_background_\nperson\n", "person", ""),
    ("spaces.txt", "0 dog\n1 traffic light\n", "dog|traffic light", ""),
    ("after.txt", "dog 0\ntraffic light 1\n", "dog|traffic light", ""),
    ("tabs.txt", "0\tdog\n1\tcat\n", "dog|cat", ""),
    ("tabcat.txt", "dog\tobject\nsky\tscene\n", "dog|sky", "object|scene"),
    ("tabhead.txt", "name\tcategory\ndog\tobject\n", "dog", "object"),
    ("commacat.txt", "dog,object\nsky,scene\n", "dog|sky", "object|scene"),
    ("coloncat.txt", "dog: object\nsky: scene\n", "dog|sky", "object|scene"),
    ("csv.txt", "concept,category\ndog,object\n", "dog", "object"),
    ("synset.txt", "n01440764 tench, Tinca tinca\nn02084071 dog, domestic dog\n", "tench|dog", ""),
    ("clsloc.txt", "n02119789 1 kit_fox\nn02100735 2 English_setter\n", "kit fox|English setter", ""),
    ("words.txt", "n00001740\tentity\nn00002137\tabstraction, abstract entity\n", "entity|abstraction", ""),
    ("lemmas.txt", "great_white_shark\nAfrican_elephant\n", "great white shark|African elephant", ""),
    ("synsets.txt", "dog.n.01\nice_cream.n.02\n", "dog|ice cream", ""),
    ("imagenet.txt", "tench, Tinca tinca\ngoldfish, Carassius auratus\ncock\n", "tench|goldfish|cock", ""),
    (
        "places.txt",
        "/a/abbey 5\n/f/field/cultivated 6\n/t/train_station/platform 9\n",
        "abbey|cultivated field|train station platform",
        "scene|scene|scene",
    ),
    (
        "cub.txt",
        "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n",
        "Black footed Albatross|Laysan Albatross",
        "",
    ),
    (
        "attributes.txt",
        "1 has_bill_shape::curved_(up_or_down)\n2 has_bill_shape::dagger\n",
        "bill shape curved up or down|bill shape dagger",
        "",
    ),
    (
        "celeba.txt",
        "202599\n5_o_Clock_Shadow Attractive\n000001.jpg -1  1\n",
        "5 o Clock Shadow|Attractive",
        "",
    ),
    ("heading.md", "# Animals\n\n- dog\n* cat\n", "dog|cat", ""),
    ("line.txt", "dog, cat, sky, grass", "dog|cat|sky|grass", ""),
    ("semicolon.txt", "floor;flooring\nwall\n", "floor|wall", ""),
    (
        "ade.csv",
        "Idx,Ratio,Train,Val,Stuff,Name\n1,0.1,11,2,1,wall\n2,0.1,1,1,1,floor;flooring\n",
        "wall|floor",
        "",
    ),
    ("ade.txt", "Idx\tRatio\tName\n1\t0.1\twall\n2\t0.1\tfloor, flooring\n", "wall|floor", ""),
    ("name.csv", "name,category\ndog,object\n", "dog", "object"),
    (
        "broden.csv",
        "number,name,category,frequency,coverage,syns\n1,bowl,object(6),6,1.5,\n2,blue-c,color(9),9,1,\n",
        "bowl|blue",
        "object|color",
    ),
    ("class.csv", "index,wnid,name,file\n0,n01440764,great_white_shark,x.jpg\n", "great white shark", ""),
    ("label.csv", "\ufeffid,label\r\n0,abseiling\r\n1,air drumming\r\n", "abseiling|air drumming", ""),
    ("plural.csv", "concepts,categories\ndog,object\n", "dog", "object"),
    ("pandas.csv", ",concept\n0,dog\n1,cat\n", "dog|cat", ""),
    ("openimages.csv", "/m/011k07,Tortoise\n/m/02jvh9,Drill (Tool)\n", "Tortoise|Drill Tool", ""),
    ("display.csv", "LabelName,DisplayName\n/m/011k07,Tortoise\n", "Tortoise", ""),
    ("nohead.csv", "dog,object\nsky,scene\n", "dog|sky", "object|scene"),
    ("column.csv", "dog\ncat\n", "dog|cat", ""),
    ("excel.csv", "sep=;\nconcept;category\ndog;object\n", "dog", "object"),
    ("comment.csv", "# of mine\nconcept,category\ndog,object\n", "dog", "object"),
    ("pandas2.csv", "Unnamed: 0,class_name\n0,dog\n1,cat\n", "dog|cat", ""),
    ("gtsrb.csv", "ClassId,SignName\n0,Stop\n1,No entry\n", "Stop|No entry", ""),
    ("counted.csv", "Class Label,count\ndog,3\ncat,4\n", "dog|cat", ""),
    ("semicolons.txt", "dog;cat;sky\n", "dog|cat|sky", ""),
    ("lisp.txt", "; of mine\ndog\ncat\n", "dog|cat", ""),
    ("tex.txt", "% of mine\ndog\ncat\n", "dog|cat", ""),
    ("scores.txt", "dog 0.93\ncat 0.55\n", "dog|cat", ""),
    ("frequency.txt", "sky 23135851162\ndog 3\n", "sky|dog", ""),
    ("genome.txt", "yolk\nhot dog,hotdog\ngoal\nsky\n", "yolk|hot dog|goal|sky", ""),
    ("attributes.txt", "     1\tantelope\n     2\tgrizzly+bear\n", "antelope|grizzly bear", ""),
    (
        "naturalist.txt",
        "00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris\n",
        "Lumbricus terrestris",
        "",
    ),
]


@pytest.mark.parametrize(("name", "content", "concepts", "kinds"), KNOWN, ids=[row[0] for row in KNOWN])
def test_known_forms(tmp_path: Path, name: str, content: str | bytes, concepts: str, kinds: str) -> None:
    found = load_concepts(write(tmp_path, name, content))
    assert found.concepts == tuple(concepts.split("|"))
    assert found.categories == (tuple(kinds.split("|")) if kinds else ("",) * len(found))


# What was read right before these forms were known: one word or phrase a line.
@pytest.mark.parametrize(
    "content",
    [
        "dog\ncat\n",
        "red, white and blue\ndog\ncat\nsky\ngrass\n",
        "a large, white bird with wings\na red, round thing in the sky\n",
        "3 wheels\ndog\n",
        "dog\n2 dogs\n",
        "jack-o'-lantern\nlady's slipper\nrock 'n' roll\n",
        "dining-table\nAC/DC\n50% off\nR&B\n",
        "Star Wars: a film\ndog\ncat\n",
        "狗\n猫\n",
        "🐶\n",
        "PlayStation\ndog\n",
        "turkey\nTurkey\n",
        "object\ntext\n",
        "4x4\n3D\n",
    ],
)
def test_plain_lines_stay(tmp_path: Path, content: str) -> None:
    found = load_concepts(write(tmp_path, "c.txt", content))
    assert found.concepts == tuple(content.splitlines())
    assert found.codes == ()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("html.txt", "dog\n<li>cat</li>\n", "line 2 is no concept: '<li>cat</li>' holds a bracket"),
        ("list.txt", "dog\n[cat]\n", "line 2 is no concept"),
        ("cut.txt", '["dog",\n"cat"\n', "line 1 is no concept"),
        ("quote.txt", 'dog\n"cat\n', "line 2 is no concept: '\"cat' holds a quotation mark"),
        ("digits.txt", "dog\n1984\n", "line 2 is no concept: '1984' is no word"),
        ("bold.md", "- dog\n- **cat**\n", "line 2 is no concept"),
        ("table.md", "| dog | object |\n|---|---|\n", "line 1 is no concept"),
        ("rule.md", "---\ndog\n", "line 1 is no concept"),
        ("latex.txt", "dog\n\\item cat\n", "line 2 is no concept"),
        ("wnids.txt", "n01440764\nn01443537\n", "line 1 is no concept: 'n01440764' is a code without a name"),
        ("pairs.txt", "colour: brown\nsize: big\n", "line 1 is no concept: 'colour: brown' has a key"),
        ("columns.txt", "dog\tobject\ncat\n\tsky\tx\ty\n", "line 2"),
        ("words.pdf", "%PDF-1.4 dog", "is not a text file"),
        ("words.rtf", "{\\rtf1 dog}", "is not a text file"),
        ("map.pbtxt", "item {\n  name: 'dog'\n}\n", "line 1 is no concept: 'item {' holds a bracket"),
        ("cut.json", '["dog",\n "cat"\n', "not valid JSON (line 3)"),
        ("deep.json", "[" * 9000, "not valid JSON (line 1)"),
        ("numbers.json", "[1, 2]", "entry 1 is int 1"),
        ("word.json", '"dog"', "no list of words"),
        ("codes.json", '{"LabelName": "/m/0bl9f", "Subcategory": [{"LabelName": "/m/0"}]}', "no names in it"),
        ("null.json", '{"dog": null, "cat": null}', "no list of words in it"),
        ("empty.json", "[]", "holds no concept"),
        ("bad.yaml", "a: [b\n", "not valid YAML (line 2)"),
        ("code.py", "import os\nos.system('x')\n", "no list of words"),
        ("call.py", "CLASSES = open('x').read()\n", "no list of words"),
        ("words.csv", "dog,hund\ncat,katze\n", "no column `concept`"),
        ("unknown.csv", "animal,colour\ndog,brown\n", "its first line is 'animal, colour'"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_words_is_refused(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = write(tmp_path, name, content)
    if name == "columns.txt":
        path.write_text("dog\tobject\ncat\tobject\tanimal\n")
    with pytest.raises(InputError) as error:
        load_concepts(path)
    assert said in error.value.what
    assert error.value.where == str(path)
    assert error.value.hint


def test_what_was_done_is_said(tmp_path: Path) -> None:
    found = load_concepts(write(tmp_path, "c.txt", "n01440764 tench, Tinca tinca\nn01443537 gold_fish\n"))
    assert found.codes == ("n01440764", "n01443537")
    assert found.code_of == {("tench", ""): "n01440764", ("gold fish", ""): "n01443537"}
    assert found.notes == (
        "c.txt: codes before the words left out in 2 lines, the first is line 1",
        "c.txt: 1 entry with several names separated by ',', such as 'tench, Tinca tinca': "
        "the first is taken",
        "c.txt: 1 name made plain words, such as 'gold_fish' to 'gold fish'",
    )


def test_two_spellings_of_one_word_count_once(tmp_path: Path) -> None:
    found = load_concepts(write(tmp_path, "c.txt", "aeroplane\ndog\nairplane\ngrey\ngray\n"))
    assert found.concepts == ("aeroplane", "dog", "grey")
    assert "2 second spellings left out, the first is 'airplane' beside 'aeroplane'" in found.notes[0]


def test_a_path_that_is_no_utf8(tmp_path: Path) -> None:
    import os

    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    assert load_concepts(write(folder, "w.txt", "dog\n")).concepts == ("dog",)
    assert load_concepts(write(folder, "w.yaml", "- dog\n")).concepts == ("dog",)


_PIECES = [
    "dog",
    "cat",
    "0",
    "1",
    "n01440764",
    "/a/abbey",
    ",",
    ";",
    ":",
    "\t",
    "\n",
    "\r\n",
    '"',
    "'",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    "- ",
    "# ",
    "1. ",
    "object",
    "concept",
    "names:",
    "_",
    "=",
    "|",
    "<b>",
    "é",
    "\u200b",
    "::",
    "\\",
    "\x0c",
    "and",
    "  ",
    "null",
    "&",
    "*",
    "!!x",
    "%",
    "x" * 210,
]
_SUFFIXES = ["txt", "json", "yaml", "csv", "tsv", "jsonl", "py", "md"]


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from(_SUFFIXES),
    content=st.one_of(st.lists(st.sampled_from(_PIECES), max_size=40).map("".join), st.text(max_size=80)),
)
def test_any_text_is_read_or_refused(tmp_path: Path, suffix: str, content: str) -> None:
    path = write(tmp_path, f"any.{suffix}", content.encode("utf-8", "replace"))
    try:
        found = load_concepts(path)
    except InputError:
        return
    assert len(found)
    assert all(problem_with(word) is None and word == " ".join(word.split()) for word in found.concepts)
