"""How much memory a training step takes, counted without a GPU."""
