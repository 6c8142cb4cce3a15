"""Trained models out of files, used without a trainer."""
