"""Protocols: functions that return attacks, evaluations and measures, from which a study takes what it shows."""
