"""How fast is it, and how much memory does it take? See RESULTS.md.

python -m scripts.benchmarks                      # everything: a quarter of an hour on two cores
python -m scripts.benchmarks --quick              # tiny sizes: does it run?
python -m scripts.benchmarks similarity masks     # some of it
python -m scripts.benchmarks literature           # beside a chain as the literature has it: 90 minutes
python -m scripts.benchmarks images               # 10,000 and 50,000 images: 40 minutes
python -m scripts.benchmarks --write              # the table in RESULTS.md, and RESULTS.json
python -m scripts.benchmarks --device cuda
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from scripts.benchmarks import (
    dissection,
    end_to_end,
    epochs,
    images,
    literature,
    scaling,
    similarity,
    startup,
)
from scripts.benchmarks.measure import Row, machine
from scripts.benchmarks.table import as_line, markdown, replace_table, with_earlier

HERE = Path(__file__).parent
NAMES = ("startup", "end_to_end", "masks", "similarity", "scaling", "epochs")
#: Not done unless asked for: an hour and a half, several hours, 40 minutes.
LONG = ("literature", "literature_long", "images")


def main() -> None:
    """Run the benchmarks asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="bench"
    )
    parser.add_argument("names", nargs="*", help=f"some of {', '.join((*NAMES, *LONG))}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--rounds", type=int, default=3, help="of the comparison with the literature")
    parser.add_argument("--device", default="cpu", help="where networks and similarities run")
    parser.add_argument("--json", type=Path, help="write all numbers there")
    parser.add_argument("--write", action="store_true", help="renew RESULTS.md and RESULTS.json")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in (*NAMES, *LONG)]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}: choose from {', '.join((*NAMES, *LONG))}")
    device = torch.device(given.device)
    about, begin = machine(device), time.perf_counter()
    rows: list[Row] = []

    def report(row: Row) -> None:
        rows.append(row)
        print(as_line(row), flush=True)

    for name in given.names or NAMES:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            place = Path(folder)
            if name == "startup":
                startup.bench(report, place, quick=given.quick)
            elif name == "end_to_end":
                end_to_end.bench(report, place, device, quick=given.quick)
            elif name == "masks":
                dissection.bench(report, quick=given.quick)
            elif name == "similarity":
                similarity.bench(report, device, quick=given.quick)
            elif name == "epochs":
                epochs.bench(report, place, quick=given.quick)
            elif name == "images":
                images.bench(report, place, quick=given.quick)
            elif name in LONG:
                cases = literature.CASES if name == "literature" else literature.LONG
                literature.bench(report, place, quick=given.quick, cases=cases, rounds=given.rounds)
            else:
                scaling.bench(report, place, device, quick=given.quick)
    about["minutes"] = round((time.perf_counter() - begin) / 60, 1)
    found = {"machine": about, "rows": [row.to_json() for row in rows]}
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    if given.write:
        numbers, results = HERE / "RESULTS.json", HERE / "RESULTS.md"
        found = with_earlier(found, json.loads(numbers.read_text()))
        numbers.write_text(json.dumps(found, indent=1) + "\n")
        kept = [Row.from_json(row) for row in found["rows"]]
        results.write_text(replace_table(results.read_text(), markdown(about, kept)))
    missed = [row.case for row in rows if row.met is False]
    print(f"{len(rows)} rows in {about['minutes']} minutes; not as asked: {', '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
