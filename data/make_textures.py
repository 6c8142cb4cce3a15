#!/usr/bin/env python
"""Makes images and videos of textures: `video_gn.data.tools.make_textures` as a script."""

import sys

from video_gn.data.tools.make_textures import main

if __name__ == "__main__":
    sys.exit(main())
