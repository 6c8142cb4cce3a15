#!/usr/bin/env python
"""Writes the videos of a list once more, for training: `video_gn.data.tools.prepare_videos` as a script."""

import sys

from video_gn.data.tools.prepare_videos import main

if __name__ == "__main__":
    sys.exit(main())
