"""The direction of the code: folders import only from those below them, and no file imports in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from concept_monitor_cli import catalogue

PACKAGE = "concept_monitor_cli"
ROOT = Path(__file__).resolve().parent.parent / PACKAGE

# From the ground up, as in CONTRIBUTING.md. Those on the ground are single files, free to all.
GROUND = ("_torchvision", "errors", "wording", "progress", "ahead", "usercode", "catalogue")
FOLDERS = (
    "options",
    "functional",
    "store",
    "builtin",
    "checkpoints",
    "models",
    "concepts",
    "probe",
    "encoders",
    "bases",
    "record",
    "run",
    "evidence",
    "study",
    "lenses",
    "space",
    "monitor",
    "evaluation",
    "report",
    "stories",
    "library",
    "cluster",
    "cli",
)
ORDER = (*GROUND, *FOLDERS, "__main__")


# Where the name of a detector means something else: how a layer is called, an encoding, a function, a kind of
# labels or a measure.
OTHER_MEANINGS = {
    "linear": (
        "bases/base.py",
        "bases/make.py",
        "models/cifar.py",
        "models/constructors.py",
        "record/in_basis.py",
        "record/sight.py",
    ),
    "compositional": ("functional/compositional/__init__.py",),
    "ranges": (
        "evaluation/ranges.py",
        "evaluation/showing.py",
        "options/kinds.py",
        "report/page/contents.py",
        "run/kinds.py",
        "run/traits.py",
        "stories/conclude.py",
        "stories/opened.py",
    ),
}
MOST_LINES = 500
# A second or more of imports each, for which every collection of the tests would wait.
SLOW_TO_IMPORT = (
    "captum",
    "lightning",
    "matplotlib",
    "open_clip",
    "scipy.optimize",
    "scipy.stats",
    "sklearn",
    "timm",
    "torch.distributed",
    "torchvision",
    "transformers",
    "umap",
)


@dataclass(frozen=True)
class Import:
    """`file` imports `module`, both as dotted names below the package."""

    file: str
    line: int
    module: str
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.file.replace('.', '/')}.py:{self.line} imports {self.module}"


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules(root: Path) -> dict[str, Path]:
    """Every module below the package by its dotted name; a package by the name of its folder."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, path: Path, known: dict[str, Path]) -> Iterator[Import]:
    """All imports of the package's own modules in a file, those inside functions included."""
    tree = parsed(path)
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports hide where a name comes from"
            # `from package import module` imports the module, `from module import name` only the module.
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            submodules = [each for each in inside if each.removeprefix(f"{PACKAGE}.") in known]
            names_of_module = len(submodules) < len(inside)
            targets = submodules + ([node.module or ""] if names_of_module else [])
        else:
            continue
        for target in targets:
            if target.startswith(f"{PACKAGE}."):
                module = target.removeprefix(f"{PACKAGE}.")
                yield Import(name, node.lineno, module, id(node) in guarded)


def all_imports(root: Path) -> list[Import]:
    known = modules(root)
    return [found for name, path in known.items() for found in imports_of(name, path, known)]


def upward(imports: list[Import]) -> list[Import]:
    """Those that lead to a folder above."""

    def height(module: str) -> int:
        return ORDER.index(module.partition(".")[0])

    return [each for each in imports if each.file and height(each.module) > height(each.file)]


def circle(imports: list[Import]) -> list[str]:
    """The modules of one circle of imports; empty where there is none."""
    leads_to: dict[str, list[str]] = {}
    for each in imports:
        if not each.typing_only and each.file != each.module:
            leads_to.setdefault(each.file, []).append(each.module)
    state: dict[str, bool] = {}  # whether a module is still being followed
    trail: list[str] = []

    def follow(module: str) -> list[str]:
        state[module] = True
        trail.append(module)
        for target in leads_to.get(module, []):
            if state.get(target):
                return [*trail[trail.index(target) :], target]
            if target not in state and (found := follow(target)):
                return found
        trail.pop()
        state[module] = False
        return []

    for module in sorted(leads_to):
        if module not in state and (found := follow(module)):
            return found
    return []


def strings_of(path: Path) -> Iterator[tuple[int, str]]:
    """Every text that is no docstring, with its line."""
    tree = parsed(path)
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.lineno, node.value


def says(text: str, name: str) -> bool:
    """Whether a text names a detector. A name that is a word besides counts where it stands as a name."""
    if "-" in name:
        return name in text
    return text == name or re.search(rf"--detector {name}\b|\({name}\)", text) is not None


def named_detectors(root: Path, names: dict[str, str]) -> list[str]:
    """Where code outside `lenses/` says the name of a detector or imports its file.

    Args:
        root: of the package.
        names: each detector's name and the name of its file.
    """
    found = []
    known = modules(root)
    files = {f"lenses.names.{file}" for file in names.values()}
    for path in sorted(root.rglob("*.py")):
        where = path.relative_to(root).as_posix()
        if where.startswith("lenses/"):
            continue
        sought = [name for name in names if where not in OTHER_MEANINGS.get(name, ())]
        for line, text in strings_of(path):
            found += [f"{where}:{line} names {name}" for name in sought if says(text, name)]
        own = path.relative_to(root).with_suffix("").as_posix().replace("/", ".")
        found += [str(each) for each in imports_of(own, path, known) if each.module in files]
    return found


def test_every_folder_has_its_place_in_the_order() -> None:
    there = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    files = {path.stem for path in ROOT.glob("*.py")} - {"__init__"}
    assert there == set(FOLDERS)
    assert files == {*GROUND, "__main__"}


def test_no_file_imports_from_a_folder_above_its_own() -> None:
    assert [str(each) for each in upward(all_imports(ROOT))] == []


def test_no_file_imports_in_a_circle() -> None:
    assert circle(all_imports(ROOT)) == []


@pytest.mark.parametrize(
    "text",
    [
        f"from {PACKAGE}.cli import app\n",
        f"import {PACKAGE}.cli.app\n",
        f"def late():\n    from {PACKAGE}.cli.app import run\n    return run\n",
        f"from {PACKAGE} import cli\n",
    ],
)
def test_an_upward_import_is_found_wherever_it_stands(tmp_path: Path, text: str) -> None:
    for folder in ("functional", "cli"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("")
    (tmp_path / "cli" / "app.py").write_text("")
    (tmp_path / "functional" / "sums.py").write_text(text)
    assert [each.file for each in upward(all_imports(tmp_path))] == ["functional.sums"]


def test_a_circle_is_found_through_a_late_import(tmp_path: Path) -> None:
    (tmp_path / "functional").mkdir()
    (tmp_path / "functional" / "a.py").write_text(f"from {PACKAGE}.functional.b import two\n")
    (tmp_path / "functional" / "b.py").write_text(
        f"def two():\n    from {PACKAGE}.functional.a import one\n    return one\n"
    )
    assert circle(all_imports(tmp_path)) == ["functional.a", "functional.b", "functional.a"]


def own_detectors() -> dict[str, str]:
    own = [listed for listed in catalogue.detectors().values() if listed.place.startswith(PACKAGE)]
    return {listed.name: listed.place.rpartition(".")[2] for listed in own}


def test_no_code_outside_the_lenses_names_a_detector() -> None:
    assert len(own_detectors()) > 3
    assert named_detectors(ROOT, own_detectors()) == []


@pytest.mark.parametrize(
    "text",
    [
        'if detector == "invert":\n    pass\n',
        'HINT = "dissect with --detector invert"\n',
        'HELP = f"weights of sums (invert), for {3}"\n',
        'NAME = "layer4.clip-dissect.csv"\n',
        f"def late():\n    from {PACKAGE}.lenses.names.invert import Invert\n    return Invert\n",
        f"from {PACKAGE}.lenses.names import invert\n",
    ],
)
def test_the_name_of_a_detector_is_found_wherever_it_stands(tmp_path: Path, text: str) -> None:
    for folder in ("lenses/names", "monitor"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "lenses" / "names" / "invert.py").write_text('class Invert:\n    name: str = "invert"\n')
    (tmp_path / "monitor" / "history.py").write_text(text)
    found = named_detectors(tmp_path, {"invert": "invert", "clip-dissect": "clip_dissect"})
    assert len(found) == 1
    assert "history" in found[0]


def test_other_meanings_are_still_there() -> None:
    for name, files in OTHER_MEANINGS.items():
        for file in files:
            assert any(text == name for _, text in strings_of(ROOT / file)), f"{file} does not say {name}"


def without_reason(paths: Iterable[Path]) -> list[str]:
    """Files with more lines than a file should have, and no reason at their head."""
    found = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > MOST_LINES:
            head = ast.get_docstring(ast.parse(text)) or "" if path.suffix == ".py" else text[:600]
            if f"Above {MOST_LINES} lines, because" not in head:
                found.append(path.as_posix())
    return found


def test_files_are_short_or_say_why_not() -> None:
    folders = [ROOT, ROOT.parent / "tests", ROOT.parent / "scripts"]
    ends = (".py", ".js", ".css", ".html")
    paths = [path for folder in folders for path in folder.rglob("*") if path.suffix in ends]
    assert len(paths) > 500
    assert without_reason(paths) == []


def test_a_long_file_without_a_reason_is_found(tmp_path: Path) -> None:
    long, told = tmp_path / "long.py", tmp_path / "told.py"
    long.write_text('"""A head."""\n' + "\n" * MOST_LINES)
    reason = f"Above {MOST_LINES} lines, because it is a table."
    told.write_text(f'"""A head.\n\n{reason}\n"""\n' + "\n" * MOST_LINES)
    assert without_reason([long, told]) == [long.as_posix()]


def slow_imports(path: Path) -> list[str]:
    """Imports at the head of a test file that should wait for the test that needs them."""
    found = []
    for node in parsed(path).body:
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        slow = [each for each in modules if any(f"{each}.".startswith(f"{name}.") for name in SLOW_TO_IMPORT)]
        found += [f"{path.name}:{node.lineno} imports {each}" for each in slow]
    return found


def test_what_is_slow_to_import_waits_for_the_test_that_needs_it() -> None:
    paths = (ROOT.parent / "tests").rglob("*.py")
    assert [line for path in paths for line in slow_imports(path)] == [], "use Late, of tests/late.py"


def test_a_slow_import_at_the_head_of_a_file_is_found(tmp_path: Path) -> None:
    heads = [
        "import timm",
        "import torchvision.transforms as T",
        "from scipy import stats",
        "from sklearn.svm import SVC",
    ]
    late = ["import scipy.io", "from timmy import a", "def test():\n    import timm"]
    (tmp_path / "test_x.py").write_text("\n".join([*heads, *late]))
    assert len(slow_imports(tmp_path / "test_x.py")) == len(heads)
