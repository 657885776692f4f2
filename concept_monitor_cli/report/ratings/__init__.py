"""The form in which people rate labels: one file that asks nothing of a network."""

from concept_monitor_cli.report.ratings.form import HIGHEST, LOWEST, Question, rating_form

__all__ = ["HIGHEST", "LOWEST", "Question", "rating_form"]
