"""The page of an explained image: one file that asks nothing of a network."""

from concept_monitor_cli.report.explanation.page import explanation_page

__all__ = ["explanation_page"]
