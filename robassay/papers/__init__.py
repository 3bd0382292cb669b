"""The papers' networks, tables and figures as studies."""
