"""The documents as a site: `./scripts/docs [FOLDER]`.

The pages link to each other as they lie in the repository, where they are read as well. So MkDocs gets them
in that layout, with the files that they link to. What leads nowhere ends the build.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIG = REPOSITORY / "docs" / "site.yml"

# What the site holds: pages, and the files that they show or link to.
_HELD = (
    *(
        "*.md",
        "LICENSE",
        "docs/*.md",
        "docs/site.yml",
        "docs/*.png",
        "docs/*.jpg",
        "docs/examples/*",
        "sample_configs/**/*",
    ),
    *("concept_monitor_cli/builtin/weights/README.md", "scripts/*/RESULTS.md", "scripts/*/figures/*"),
)


def lay_out(folder: Path) -> None:
    """Copy the documents into a folder as they lie in the repository."""
    for pattern in _HELD:
        for path in REPOSITORY.glob(pattern):
            if path.is_file():
                place = folder / path.relative_to(REPOSITORY)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)


def build(out: Path, documents: Path | None = None) -> None:
    """Write the site.

    Args:
        out: gets it, and loses what it held.
        documents: laid out already, instead of those of the repository.

    Raises:
        mkdocs.exceptions.Abort: a page, a link or an anchor is missing; the log says which.
    """
    from mkdocs.commands.build import build as mkdocs_build
    from mkdocs.config import load_config

    if documents is None:
        with tempfile.TemporaryDirectory() as folder:
            lay_out(Path(folder))
            return build(out, Path(folder))
    config = load_config(str(CONFIG), docs_dir=str(documents), site_dir=str(out), strict=True)
    mkdocs_build(config)
    return None


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/docs", description="Write the documents as a site.")
    parser.add_argument("out", nargs="?", type=Path, default=REPOSITORY / "build" / "site", metavar="FOLDER")
    out = parser.parse_args().out.absolute()
    if out.is_dir() and any(out.iterdir()) and not (out / "sitemap.xml").is_file():
        print(f"error: {out} holds something else than a site: name another folder", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    build(out)
    print(out / "index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
