"""What a finished run of an ablation leaves."""

import csv
import json

import numpy as np


def write_run(folder, mine, ranks, classes=("a",), group=0):
    """Writes a run that was tested on videos `mine`, with these ranks of all videos.

    Their classes take turns, and so many of them in a row are a group where that is not 0.
    """
    folder.mkdir(parents=True)
    label = [classes[i % len(classes)] for i in range(max(mine, default=0) + 1)]
    other = [classes[(i + 1) % len(classes)] for i in range(len(label))]
    with open(folder / "test-0.csv", "w", newline="") as file:
        rows = [(f"v{i}.mp4", label[i], label[i] if ranks[i] == 1 else other[i], ranks[i]) for i in mine]
        csv.writer(file).writerows([("path", "label", "predicted", "rank"), *rows])
    if group:
        with open(folder / "split.csv", "w", newline="") as file:
            rows = [(f"v{i}.mp4", label[i], f"g{i // group}", "test", "") for i in mine]
            csv.writer(file).writerows([("path", "label", "group", "split", "copy_of"), *rows])
    (folder / "speed.csv").write_text("epoch,steps,seconds,clips_per_s,lr\n0,10,5.0,2,0.1\n")
    (folder / "history.csv").write_text(
        "epoch,train/epoch_loss,train/epoch_top1,val/loss,val/top1,val/top5\n" + f"0,1,0.5,1,{len(mine) / 100},1\n"
    )
    top1, top5 = (float(np.mean([ranks[i] <= best for i in mine])) for best in (1, 5))
    test = {"top1": top1, "top5": top5, "clip_top1": top1, "loss": 1.0, "videos": float(len(mine)), "unreadable": 0.0,
            "not_finite": 0.0, "videos_file": "test-0.csv", "date": "2026-11-27T00:00:00+00:00", "protocol": "x",
            "views": "y", "bn_statistics": None}  # fmt: skip
    fit = {"clips_per_s": 2.0 + len(mine), "peak_memory_gib": 1.0, "peak_memory_of": "z",
           "val_median": {"epochs": [0, 1, 2, 3, 4], "top1": len(mine) / 100, "top5": 1.0},
           "train": {"loss": 1.0, "top1": 0.5, "unreadable": 0, "fallbacks": 0}}  # fmt: skip
    model = {"format": 2, "optimizer": {"class_path": "SGD", "init_args": {"base_lr": 0.2}}}
    versions = {"torch": "1", "pytorch-lightning": "2", "python": "3"}
    results = {"run": {"model": model, "device": "d"}, "versions": versions, "fit": fit, "tests": [test]}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "ablation.json").write_text(json.dumps({"status": "finished", "seconds": 1.0}))
