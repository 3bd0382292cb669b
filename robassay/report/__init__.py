"""From a document (what a store holds, as plain values) to one HTML file, CSV and Markdown. Needs no torch."""

from robassay.report.badge import verdict_svg
from robassay.report.pictures import difference, picture
from robassay.report.render import card, render
from robassay.report.tables import markdown_table, to_csv

__all__ = ["card", "difference", "markdown_table", "picture", "render", "to_csv", "verdict_svg"]
