"""`report.html`: a run as one page that works without a network."""

from concept_monitor_cli.report.page.build import ReportResult, render, report

__all__ = ["ReportResult", "render", "report"]
