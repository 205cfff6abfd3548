"""Follows metrics.jsonl of a run and shows it in a tracker: the command scripts/track."""
