"""How papers evaluate: functions that return tables and curves over cells; nothing is computed here."""
