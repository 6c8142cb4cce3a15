#!/usr/bin/env python
"""Trains, validates, tests and predicts: `python train.py {fit,validate,test,predict} --help`."""

import sys

from video_gn.train.cli import main

if __name__ == "__main__":
    sys.exit(main())
