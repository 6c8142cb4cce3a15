#!/usr/bin/env python
"""Decodes every video of a list and writes what was found beside it: `video_gn.data.tools.check_videos` as a script."""

import sys

from video_gn.data.tools.check_videos import main

if __name__ == "__main__":
    sys.exit(main())
