"""The report of an ablation: its text, tables and files."""
