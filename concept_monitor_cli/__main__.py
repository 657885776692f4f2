"""`python -m concept_monitor_cli` is `cmon`."""

import sys

from concept_monitor_cli.cli import main

if __name__ == "__main__":
    sys.exit(main())
