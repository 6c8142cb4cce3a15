"""Commands that make and check lists and videos: `video-gn data`, and the scripts in `data/`."""
