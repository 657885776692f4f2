"""`report.html`: a run as one page that works without a network.

`contents` turns tables into columns, `structure` those of `cmon dynamics`, `factors` and `circuits`;
`pack` makes them small and inert, `pictures` chooses photos, `made` what was made of units, `render` joins
them with the page's own script and styles in `template/`.
"""

from concept_monitor_cli.report.page.contents import Beside, page_content
from concept_monitor_cli.report.page.made import SHARE, UnitPictures, unit_pictures
from concept_monitor_cli.report.page.pictures import Pictures, draw_pictures, known_images
from concept_monitor_cli.report.page.render import render
from concept_monitor_cli.report.page.statistics import record_notes
from concept_monitor_cli.report.page.structure import Structure, read_structure
from concept_monitor_cli.report.page.tables import read_tables

__all__ = [
    "SHARE",
    "Beside",
    "Pictures",
    "Structure",
    "UnitPictures",
    "draw_pictures",
    "known_images",
    "page_content",
    "read_structure",
    "read_tables",
    "record_notes",
    "render",
    "unit_pictures",
]
