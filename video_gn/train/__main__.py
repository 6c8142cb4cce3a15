"""`python -m video_gn.train`, as `train.py`."""

import sys

from video_gn.train.cli import main

if __name__ == "__main__":
    sys.exit(main())
