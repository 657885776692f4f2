"""The public names: light to import, documented, with examples that run."""

from __future__ import annotations

import doctest
import inspect
import os
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import concept_monitor_cli as cmon
from concept_monitor_cli.library.settings import NOT_FOR_MODELS, Settings
from concept_monitor_cli.options import DissectOptions

from .conftest import REPOSITORY


def test_the_import_brings_nothing_heavy_along() -> None:
    code = (
        "import sys, concept_monitor_cli as cmon; assert 'Monitor' in dir(cmon); cmon.InputError; "
        "print(sorted(set(sys.modules) & {'torch', 'numpy', 'pandas', 'h5py', 'typer', 'rich'}))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_every_name_is_there_with_words_types_and_a_place_on_the_page() -> None:
    page = (REPOSITORY / "docs" / "library.md").read_text("utf-8")
    assert set(cmon.__all__) <= set(dir(cmon))
    for name in cmon.__all__:
        found = getattr(cmon, name)
        assert inspect.getdoc(found), name
        assert f"`{name}" in page, name
        called = found.__init__ if inspect.isclass(found) else found
        if found.__module__.startswith("concept_monitor_cli.library"):
            signature = inspect.signature(called)
            lacking = [
                each.name
                for each in signature.parameters.values()
                if each.name != "self" and each.annotation is each.empty
            ]
            assert not lacking, name
    with pytest.raises(AttributeError, match="no_such_name"):
        cmon.no_such_name  # noqa: B018


RUN = "import concept_monitor_cli._torchvision, runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"


def test_settings_are_the_options_of_a_dissect() -> None:
    options = {field.name for field in fields(DissectOptions)}
    named = set(Settings.__annotations__)
    assert named - {"architecture"} == options - NOT_FOR_MODELS
    assert options >= NOT_FOR_MODELS


# Whose example is one for the users of another library.
NEEDS = {"lightning_callback": ("lightning",), "trainer_callback": ("transformers", "accelerate")}


def examples(found: object, name: str) -> list[doctest.DocTest]:
    """The examples in the words of a function or a class; those of its methods, too."""
    module = import_module(found.__module__)
    return [test for test in doctest.DocTestFinder().find(found, name, module) if test.examples]


@pytest.mark.parametrize("name", cmon.__all__)
def test_the_example_of_every_name_runs(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    found = examples(getattr(cmon, name), name)
    assert name in [test.name for test in found], f"{name} has no example"
    assert not any(each.options.get(doctest.SKIP) for test in found for each in test.examples)
    # Lightning and transformers read torchvision, whose binaries may not match torch.
    import_module("concept_monitor_cli._torchvision")
    for library in NEEDS.get(name, ()):
        pytest.importorskip(library, reason=f"{library} is not installed")
    monkeypatch.chdir(tmp_path)
    # One store for all: the renderings are made once.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "examples"))
    runner = doctest.DocTestRunner()
    assert sum(runner.run(test).failed for test in found) == 0


def test_a_name_without_an_example_and_a_wrong_example_are_found() -> None:
    def bare() -> None:
        """Nothing."""

    def wrong() -> None:
        """Wrong.

        >>> 1 + 1
        3
        """

    assert examples(bare, "bare") == []
    (found,) = examples(wrong, "wrong")
    assert doctest.DocTestRunner(verbose=False).run(found, out=lambda _: None).failed == 1


def test_the_examples_of_the_package_run() -> None:
    found = doctest.testmod(cmon)
    assert (found.attempted, found.failed) == (2, 0)


@pytest.mark.parametrize("script", ["live_model.py", "lightning_training.py"])
def test_the_examples_beside_the_documents_run(
    script: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if script.startswith("lightning") and find_spec("lightning") is None:
        pytest.skip("Lightning is not installed")
    if script.startswith("live") and find_spec("nbclient") and find_spec("ipykernel"):
        pytest.skip("run as a notebook: tests/library/test_notebook.py")
    answer = subprocess.run(
        # timm needs torchvision, whose binaries may not match torch: the package makes it importable.
        [sys.executable, "-c", RUN, str(REPOSITORY / "docs" / "examples" / script)],
        cwd=tmp_path,
        env={
            **os.environ,
            "XDG_CACHE_HOME": str(tmp_path_factory.getbasetemp() / "examples"),
            "PYTHONPATH": str(REPOSITORY),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "interpretable" in answer.stdout
