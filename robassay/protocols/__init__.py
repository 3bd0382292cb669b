"""Protocols of the papers: functions that return the cells and measures of one way to evaluate."""
