"""Fixtures shared by all tests. Real data comes from beside the repository and is never copied into it."""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Where torchvision's binary does not match torch, this makes it importable: also in the process that hands
# the tests out, which imports the class of every warning a test gave (Lightning's import torchvision).
import concept_monitor_cli._torchvision  # noqa: F401

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Where bytecode is not to be written (containers say so), pytest would rewrite the asserts of every test file
# at each start, half of what collecting costs, and each `cmon` that a test starts would compile itself.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Nothing in the tests may reach a hub: what is not on the disk is an error, not a download.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tables are as wide as the tests expect, whatever terminal they are started from.
os.environ.pop("COLUMNS", None)

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real photos, masks and word lists; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("CMON_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real test data: {folder} is not there (set CMON_TEST_DATA)")
    return folder


def _extracted(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def minibroden(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real probing set in Broden's layout: 598 photos with masks in six categories."""
    return _extracted(shared_data / "minibroden.tar.gz", tmp_path_factory.mktemp("minibroden")) / "minibroden"


@pytest.fixture(scope="session")
def imagenet_samples(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flat folder of 1,000 photos, one per ImageNet class."""
    folder = tmp_path_factory.mktemp("imagenet")
    return _extracted(shared_data / "imagenet_samples.tar.gz", folder) / "imagenet_samples"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A Chromium; tests that need one skip where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    program = os.environ.get("CMON_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium, or set CMON_CHROMIUM)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()
