"""Make `docs/examples/live_model.ipynb` of `live_model.py`: `python -m scripts.notebook`.

The script is where the example is kept, because a script is read, checked and compared line by line.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"


def notebook(script: str) -> dict[str, Any]:
    """The notebook (nbformat 4.5) of a script with `# %% Title` cells: its docstring, then its cells."""
    head, *parts = re.split(r"^# %% *", script, flags=re.MULTILINE)
    words = ast.get_docstring(ast.parse(head)) or ""
    title, _, rest = words.partition("\n\n")
    # How the script is opened as a notebook is of no interest in the notebook.
    rest = rest[rest.find("As it stands") :]
    cells = [_cell("markdown", f"# {title}\n\n{rest}".strip(), 0)]
    for number, part in enumerate(parts, 1):
        heading, _, code = part.partition("\n")
        cells.append(_cell("markdown", f"## {heading.strip()}", 2 * number - 1))
        cells.append(_cell("code", code.strip(), 2 * number))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _cell(kind: str, text: str, number: int) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
    cell["source"] = text.splitlines(keepends=True)
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def main() -> int:
    """Write the notebook."""
    found = notebook((EXAMPLES / "live_model.py").read_text("utf-8"))
    (EXAMPLES / "live_model.ipynb").write_text(
        json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
