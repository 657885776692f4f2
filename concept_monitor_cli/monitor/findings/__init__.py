"""What a run says, in sentences.

Every sentence is written by a rule from numbers in the tables of the run. `base` has what a finding is and
which ones are said, `tables` what rules look at, `rules` what a run shows, `cautions` what speaks against
trusting it, `two_runs` what sets two runs apart.
"""

from concept_monitor_cli.monitor.findings.base import Finding, choose
from concept_monitor_cli.monitor.findings.cautions import caption, cautions
from concept_monitor_cli.monitor.findings.rules import statements
from concept_monitor_cli.monitor.findings.tables import RunTables
from concept_monitor_cli.monitor.findings.two_runs import statements_of_two

__all__ = [
    "Finding",
    "RunTables",
    "caption",
    "cautions",
    "choose",
    "findings",
    "statements",
    "statements_of_two",
]


def findings(tables: RunTables) -> list[Finding]:
    """The sentences of a run, what matters most first.

    Args:
        tables: of the run.
    """
    return choose(statements(tables), cautions(tables))
