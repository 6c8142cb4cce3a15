#!/usr/bin/env python
"""Writes the lists of a data set: `video_gn.data.tools.make_list` as a script."""

import sys

from video_gn.data.tools.make_list import main

if __name__ == "__main__":
    sys.exit(main())
