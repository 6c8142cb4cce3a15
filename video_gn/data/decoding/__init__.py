"""Frames out of files: `open` gives a `reader.Video`, whoever decodes it."""
