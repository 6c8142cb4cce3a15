"""Ablations: a grid of runs from one YAML file, each trained or gone on with, and the paper's table from them."""
