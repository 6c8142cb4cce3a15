"""The main job through its command line: learning, resuming, several processes, prediction, and a user's slips."""

import contextlib
import csv
import ctypes
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys

import av
import numpy as np
import pytest
import torch
from children import assert_children_end, fork
from command_lines import DEMO, fit, short, tiny
from conftest import LONG, REPO
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.utilities import rank_zero_only
from sklearn import metrics

from video_gn.data.decoding import decord_reader
from video_gn.data.motion12 import CLASSES, Motion, prepare
from video_gn.files.tables import read_table
from video_gn.kernels import dispatch
from video_gn.train import cli
from video_gn.train.callbacks import interrupt
from video_gn.train.classifier import VideoClassifier
from video_gn.train.configs import flat


@pytest.fixture(scope="session")
def full_root(tmp_path_factory):
    """The demo's own data, 840 videos."""
    root = tmp_path_factory.mktemp("demo")
    prepare(root, Motion())
    return root


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Learning


@pytest.mark.long
@pytest.mark.slow
def test_demo_learns_motion(full_root, tmp_path, capsys):
    """The README's first command: GN, 10 epochs; chance is 8.3 %."""
    assert cli.main(fit(tmp_path / "run", full_root)) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    test = results["tests"][0]
    assert test["protocol"] == "gn-10clip" and test["videos"] == 240 and test["unreadable"] == 0
    assert test["top1"] >= 0.8
    out = capsys.readouterr()
    assert "video top-1" in out.out and f"{100 * test['top1']:.2f} %" in out.out
    assert "lr 0.05 = base_lr 0.4 x 8 / 64 clips a step (1 processes x 8 clips x accumulation 1); 750 steps" in out.err
    run = results["run"]
    assert run["norm_kernels"] in out.err and ("PyTorch's kernels" in out.err) != torch.cuda.is_available()
    assert flat(run["model"])["net.norm"] == "gn" and run["clip"] == "16x4" and run["lr"] == pytest.approx(0.05)
    assert run["clips_per_step"] == 8 and run["seed"] == 0
    assert results["fit"]["epochs"] == 10 and results["fit"]["steps"] == 750
    assert results["fit"]["clips_per_s"] > 1 and results["fit"]["peak_memory_gib"] > 0.1
    assert results["versions"]["torch"] == torch.__version__.split("+")[0]


@pytest.mark.long
@pytest.mark.slow
def test_a_single_frame_is_at_chance(full_root, tmp_path):
    """The same network on one frame, repeated: 8.3 % is chance, 3.9 standard deviations of 240 videos are 7 %."""
    one_frame = (
        "--data.clip.frame_interval",
        0,
        "--trainer.max_epochs",
        3,
        "--data.evaluation.protocol",
        "center-1clip",
    )
    assert cli.main(fit(tmp_path / "run", full_root, *one_frame)) == 0
    test = json.loads((tmp_path / "run" / "results.json").read_text())["tests"][0]
    assert test["videos"] == 240 and test["top1"] <= 0.153


# A run's folder


def test_run_folder(run):
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    expected = {"config.yaml", "results.json", "csv/version_0/metrics.csv", "checkpoints/best.ckpt"}
    assert expected <= names
    assert {f"checkpoints/epoch={i}.ckpt" for i in range(3)} <= names
    assert any(name.startswith("tensorboard/events") for name in names)
    header = (run / "csv/version_0/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss", "train/top1", "train/clips_per_s", "val/top1", "val/top5", "val/loss"} <= set(header)


def test_class_names_travel_with_the_checkpoint(run):
    checkpoint = torch.load(run / "checkpoints" / "epoch=2.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["class_names"] == list(CLASSES)
    assert checkpoint["datamodule_hyper_parameters"]["clip"]["num_frames"] == 8


def test_an_interrupted_run_goes_on_bit_for_bit(run, data_root, tmp_path):
    """From the end of its first epoch, to the same weights as without the stop."""
    copy = tmp_path / "copy"
    (copy / "checkpoints").mkdir(parents=True)
    shutil.copy(run / "checkpoints" / "epoch=0.ckpt", copy / "checkpoints" / "last.ckpt")
    resumed = fit(copy, data_root, *short("--trainer.max_epochs", 3, "--ckpt_path", "last"))
    assert cli.main(resumed) == 0
    assert same(weights(copy / "checkpoints" / "last.ckpt"), weights(run / "checkpoints" / "epoch=2.ckpt"))


# Stops: the run of the fixture has 3 steps in each of 3 epochs, and dropout


def signal_at(monkeypatch, step, number, hook="on_train_batch_start"):
    """Sends this process a signal, once, in the middle of a step."""
    real, sent = getattr(VideoClassifier, hook), []

    def sends(self, *args):
        if self.trainer.global_step == step and not self.trainer.sanity_checking and not sent:
            sent.append(os.kill(os.getpid(), number))
        return real(self, *args)

    monkeypatch.setattr(VideoClassifier, hook, sends)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_of_a_run_is_one_line(number, data_root, tmp_path, monkeypatch, capfd):
    """As a terminal's Ctrl-C and a cluster's end of a job are: the loader's workers get it too."""
    real, sent = VideoClassifier.training_step, []

    def sends(self, *args):
        if not sent:
            workers = [child.pid for child in multiprocessing.active_children()]
            sent.extend((*workers, os.getpid()))
            for process in sent:
                os.kill(process, number)
        return real(self, *args)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    monkeypatch.setattr(VideoClassifier, "training_step", sends)
    words = short("--data.loading.num_workers", 2)
    assert cli.main(fit(tmp_path / "run", data_root, *words)) == 128 + number
    assert len(sent) == 3
    said = capfd.readouterr().err
    assert said.count("stopping after this step") == 1 and said.count(signal.Signals(number).name) == 2, said


@pytest.mark.parametrize("later", [False, True])
def test_ctrl_c_that_comes_twice_at_once_is_one(later, pictures, tmp_path, monkeypatch, capsys):
    """`uv run` passes it on to a process that has had it already; one that comes later ends the run at once."""
    real, sent = VideoClassifier.training_step, []

    def sends(self, *args):
        sent.append(len(sent))
        if len(sent) == 2:
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
        return real(self, *args)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(VideoClassifier, "training_step", sends)
    monkeypatch.setattr(interrupt, "TOGETHER", 0.0 if later else 1.0)
    assert cli.main(tiny(pictures, tmp_path)) == 130
    said = "at once; what it saved before is kept" if later else "with everything saved in"
    assert f"stopped by SIGINT {said}" in capsys.readouterr().err
    assert (tmp_path / "checkpoints" / "last.ckpt").exists() != later
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores it from then on
    monkeypatch.undo()
    assert cli.main(tiny(pictures, tmp_path)) == 0
    assert ("has no checkpoint yet: training begins at its start" in capsys.readouterr().err) == later


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_test_is_no_success(number, run, data_root, tmp_path, monkeypatch, capsys):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    before, real = (folder / "results.json").read_bytes(), VideoClassifier.test_step
    monkeypatch.setattr(VideoClassifier, "test_step", lambda *args: os.kill(os.getpid(), number) or real(*args))
    words = ["test", "--ckpt_path", str(folder / "checkpoints" / "best.ckpt"), "--data.root", str(data_root)]
    assert cli.main([*words, "--trainer.enable_progress_bar", "false"]) == 128 + number
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores it from then on
    assert f"stopped by {number.name}; nothing of this evaluation is kept" in capsys.readouterr().err
    assert (folder / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("number", "step", "hook", "saved"),
    [
        (signal.SIGTERM, 4, "on_train_batch_start", 5),  # in the middle of an epoch
        pytest.param(signal.SIGTERM, 5, "on_train_batch_start", 6, marks=LONG),  # in its last step
        pytest.param(signal.SIGTERM, 6, "validation_step", 6, marks=LONG),
        pytest.param(signal.SIGINT, 3, "on_train_batch_start", 4, marks=LONG),  # in its first
    ],
)
def test_a_signal_ends_the_run_between_two_steps(
    number, step, hook, saved, run, data_root, tmp_path, monkeypatch, capsys
):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests themselves may run in the background
    with monkeypatch.context() as patched:
        signal_at(patched, step, number, hook)
        command = fit(tmp_path, data_root, *short("--trainer.max_epochs", 3, "--ckpt_path", "last"))
        assert cli.main(command) == 128 + number
    err = capsys.readouterr().err
    assert "stopped by SIG" in err and "resume with --ckpt_path last" in err and "Traceback" not in err
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == saved
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert cli.main(command) == 0
    assert same(weights(last), weights(run / "checkpoints" / "epoch=2.ckpt"))


def test_a_background_job_goes_on_at_ctrl_c(data_root, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        signal_at(monkeypatch, 1, signal.SIGINT)
        assert cli.main(fit(tmp_path, data_root, *short("--trainer.max_epochs", 1))) == 0
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_gradients_under_accumulation_are_not_lost(data_root, tmp_path, monkeypatch):
    """A signal waits until the optimiser's step is complete: batches 2, 3 of 3 make the second."""
    common = short("--trainer.accumulate_grad_batches", 2, "--ckpt_path", "last", "--data.loading.num_workers", 1)
    assert cli.main(fit(tmp_path / "whole", data_root, *common)) == 0
    with monkeypatch.context() as patched:
        signal_at(patched, 2, signal.SIGTERM)
        assert cli.main(fit(tmp_path / "stopped", data_root, *common)) == 128 + signal.SIGTERM
    assert cli.main(fit(tmp_path / "stopped", data_root, *common)) == 0
    ends = [weights(tmp_path / name / "checkpoints/last.ckpt") for name in ("whole", "stopped")]
    assert same(*ends)


def test_a_killed_run_goes_on_from_its_last_step(run, data_root, tmp_path, monkeypatch):
    """kill -9 in the middle of an epoch, with a checkpoint every 2 steps."""
    every = ("--trainer.max_epochs", 3, "--ckpt_path", "last", "--checkpoint.every_n_train_steps", 2)
    command = fit(tmp_path, data_root, *short(*every))

    def killed():
        signal_at(monkeypatch, 5, signal.SIGKILL)
        cli.main(command)

    process = fork(killed)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 4
    assert cli.main(command) == 0
    assert torch.load(last, weights_only=True)["global_step"] == 9  # the end, though 9 is no multiple of 2
    assert same(weights(last), weights(run / "checkpoints" / "epoch=2.ckpt"))


@pytest.mark.slow
def test_slurm_requeues_between_two_steps(run, data_root, tmp_path, monkeypatch):
    """Lightning's auto-requeue: SIGUSR1 saves and requeues the job; the requeued job goes on, bit for bit."""
    job = {"NTASKS": "1", "NTASKS_PER_NODE": "1", "JOB_NAME": "train", "JOB_ID": "77", "NODELIST": "localhost",
           "PROCID": "0", "LOCALID": "0", "NODEID": "0"}  # fmt: skip
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n')
    (tmp_path / "bin/scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    command = fit(tmp_path / "run", data_root, *short("--trainer.max_epochs", 3, "--ckpt_path", "last"))

    def ended_by_slurm(self, *args):
        if self.trainer.global_step == 5:
            raise KeyError("the job is over")

    with monkeypatch.context() as patched:
        signal_at(patched, 4, signal.SIGUSR1)
        patched.setattr(VideoClassifier, "on_before_zero_grad", ended_by_slurm)
        with pytest.raises(KeyError):
            cli.main(command)
    assert (tmp_path / "told").read_text() == "requeue 77\n"
    assert torch.load(tmp_path / "run/hpc_ckpt_1.ckpt", weights_only=True)["global_step"] == 5
    assert cli.main(command) == 0
    assert same(weights(tmp_path / "run/checkpoints/last.ckpt"), weights(run / "checkpoints" / "epoch=2.ckpt"))


# Bad videos


def with_bad_videos(motion_folder, folder, count):
    """The small set's training list with `count` of its 24 rows replaced by files that are no videos."""
    rows = (motion_folder / "train.csv").read_text().splitlines()
    for i in range(count):
        (folder / f"bad{i}.mp4").write_text("no video")
        rows[3 + 5 * i] = f"{folder}/bad{i}.mp4," + rows[3 + 5 * i].rpartition(",")[2]
    (folder / "train.csv").write_text("\n".join([*rows, ""]))
    return "--data.motion", "null", "--data.train", folder / "train.csv", "--data.class_names", json.dumps(CLASSES)


def test_bad_videos_are_counted_and_listed(motion_folder, tmp_path):
    bad = with_bad_videos(motion_folder, tmp_path, 2)
    assert cli.main(fit(tmp_path / "run", motion_folder, *short(*bad, "--data.loading.max_bad", 0.1))) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["fit"]["train"]["unreadable"] >= 2 and results["fit"]["train"]["fallbacks"] == 0
    with open(tmp_path / "run" / "bad_videos.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"] for row in rows} == {str(tmp_path / f"bad{i}.mp4") for i in range(2)}
    assert {(row["stage"], row["status"]) for row in rows} == {("train", "bad")}
    assert rows[0]["reason"].startswith("not a video file")


def test_too_many_bad_videos_stop_training(motion_folder, tmp_path, capsys):
    bad = with_bad_videos(motion_folder, tmp_path, 3)
    message = slip(capsys, fit(tmp_path / "run", motion_folder, *short(*bad)))
    assert (
        "3 of 24 training videos cannot be read, more than data.loading.max_bad=0.01 allows of so many (2); they"
        in message
    )
    assert (tmp_path / "run/bad_videos.csv").is_file() and (tmp_path / "run/checkpoints/last.ckpt").is_file()
    again = fit(tmp_path / "run", motion_folder, *short(*bad, "--data.loading.max_bad", 0.13, "--ckpt_path", "last"))
    assert cli.main(again) == 0


@pytest.mark.slow
def test_known_bad_videos_are_replaced_without_a_word_more(motion_folder, tmp_path, capsys):
    """A checked list says which they are: they do not count as newly found."""
    bad = with_bad_videos(motion_folder, tmp_path, 2)
    checks = [f"{tmp_path}/bad{i}.mp4,unreadable,known to be bad,,0" for i in range(2)]
    header = "path,status,reason,backend,num_frames"
    (tmp_path / "train.checked.csv").write_text("\n".join([header, *checks, ""]))
    assert cli.main(fit(tmp_path / "run", motion_folder, *short(*bad))) == 0
    err = capsys.readouterr().err
    assert f"train: 2 of 24 videos are known to be bad, e.g. {tmp_path}/bad0.mp4 (known to be bad)" in err
    assert not (tmp_path / "run/bad_videos.csv").exists()
    assert json.loads((tmp_path / "run/results.json").read_text())["fit"]["train"]["unreadable"] == 0


@pytest.mark.slow
def test_a_hanging_decoder_costs_its_time_out_and_not_the_run(motion_folder, tmp_path, monkeypatch, capsys):
    """In training and in validation; another run does not open the video again."""
    shutil.copytree(motion_folder, tmp_path / "set")
    hanging = {str(tmp_path / "set" / split / "fast_up/0000.mp4") for split in ("train", "val")}
    real = decord_reader.DecordVideo.read

    def read(self, indices, finish):
        return ctypes.PyDLL(None).sleep(1000) if self.path in hanging else real(self, indices, finish)

    monkeypatch.setattr(decord_reader.DecordVideo, "read", read)
    listed = ("--data.motion", "null", "--data.class_names", json.dumps(CLASSES), "--data.loading.max_bad", 0.05)
    options = short(
        *listed, "--data.loading.num_workers", 1, "--data.loading.decode_timeout", 1, "--trainer.max_epochs", 1
    )
    assert cli.main(fit(tmp_path / "run", tmp_path / "set", *options)) == 0
    results = json.loads((tmp_path / "run/results.json").read_text())["fit"]
    assert results["steps"] == 3 and (results["val"]["videos"], results["val"]["unreadable"]) == (24, 1)
    with open(tmp_path / "set/quarantine.csv", newline="") as file:
        listed = {(row["path"], row["reason"]) for row in csv.DictReader(file)}
    assert listed == {(f"{split}/fast_up/0000.mp4", "its decoder hung for 1 s, twice") for split in ("train", "val")}
    monkeypatch.setattr(decord_reader.DecordVideo, "read", real)
    capsys.readouterr()
    assert cli.main(fit(tmp_path / "again", tmp_path / "set", *options)) == 0
    err = capsys.readouterr().err
    assert "known to be bad" in err and "in quarantine: its decoder hung for 1 s, twice" in err
    assert json.loads((tmp_path / "again/results.json").read_text())["fit"]["val"]["unreadable"] == 1


@pytest.mark.slow
def test_another_backend_takes_what_the_first_refuses(motion_folder, tmp_path):
    """MPEG-TS is refused by decord; the pixels are the same, and it is counted."""
    shutil.copytree(motion_folder, tmp_path / "set")
    for path in sorted((tmp_path / "set/train").rglob("0000.mp4"))[:4]:
        with av.open(str(path)) as source, av.open(str(path) + ".ts", "w", format="mpegts") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    target.mux(packet)
        os.replace(str(path) + ".ts", path)
    options = short("--data.motion", "null", "--data.class_names", json.dumps(CLASSES), "--trainer.max_epochs", 1)
    ends = []
    for name, root, backend in (("ts", tmp_path / "set", "decord"), ("mp4", motion_folder, "pyav")):
        assert cli.main(fit(tmp_path / name, root, *options, "--data.loading.backend", backend)) == 0
        results = json.loads((tmp_path / name / "results.json").read_text())["fit"]["train"]
        assert (results["fallbacks"], results["unreadable"]) == (4 if name == "ts" else 0, 0)
        ends.append(weights(tmp_path / name / "checkpoints/last.ckpt"))
    assert same(*ends)
    assert "MPEG-TS" in (tmp_path / "ts/bad_videos.csv").read_text()


@pytest.mark.slow
def test_repeated_sampling(data_root, tmp_path):
    """4 clips of each of 2 videos a step: four times the steps of an epoch, at the same learning rate."""
    repeated = short("--data.clips_per_video", 4, "--trainer.max_epochs", 1)
    assert cli.main(fit(tmp_path, data_root, *repeated)) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["fit"]["steps"] == 12 and results["run"]["clips_per_step"] == 8


def test_nothing_is_overwritten(run, data_root, capsys):
    def there():  # the lock names who came last
        return {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != "run.lock"}

    before = there()
    assert cli.main(fit(run, data_root, *short())) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert before == there()


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(run, data_root, tmp_path):
    """Augmentation, order and so the weights follow from the seed."""
    assert cli.main(fit(tmp_path, data_root, *short("--data.loading.num_workers", 2, "--trainer.max_epochs", 3))) == 0
    assert same(weights(tmp_path / "checkpoints" / "last.ckpt"), weights(run / "checkpoints" / "epoch=2.ckpt"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("switches", "steps", "clips_per_step"),
    [
        (("--trainer.accumulate_grad_batches", 3), 2, 24),
        pytest.param(
            ("--trainer.precision", "bf16-mixed", "--model.execution.channels_last", "true"), 6, 8, marks=LONG
        ),
    ],
)
def test_lightnings_switches(switches, steps, clips_per_step, data_root, tmp_path):
    assert cli.main(fit(tmp_path, data_root, *short(*switches))) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["fit"]["steps"] == steps and results["run"]["clips_per_step"] == clips_per_step
    assert results["run"]["lr"] == pytest.approx(0.4 * clips_per_step / 64)
    assert results["fit"]["train"]["loss"] < 5


@pytest.mark.parametrize(("given", "taken"), [("1", 1), ("1.0", 1.0), ("0.5", 0.5)])
def test_one_batch_is_not_all_of_them(given, taken):
    trainer = cli.resolve(["fit", "-c", DEMO, "--trainer.limit_train_batches", given])["trainer"]
    assert trainer["limit_train_batches"] == taken and type(trainer["limit_train_batches"]) is type(taken)


@pytest.mark.slow
def test_checkpoints_do_not_know_the_kernels(data_root, tmp_path):
    """One step by the Triton kernels (on a CPU: interpreted), with the least memory; tested by what runs here."""
    pytest.importorskip("triton")
    one_step = ("--trainer.limit_train_batches", 1, "--trainer.limit_val_batches", 0, "--trainer.max_epochs", 1)
    kernels = (
        "--model.execution.kernels",
        "triton",
        "--model.execution.recompute",
        "norms",
        "--trainer.precision",
        "bf16-mixed",
    )
    little = ("--data.batch_size", 2, "--data.clip.num_frames", 4, "--data.clip.crop_size", 8)
    where = ("--trainer.accelerator", "gpu" if torch.cuda.is_available() else "cpu")
    args = short(*one_step, *kernels, *little, *where)
    assert cli.main(fit(tmp_path / "run", data_root, *args)) == 0
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    hyper_parameters = torch.load(last, weights_only=True)["hyper_parameters"]
    assert not {"execution", "recompute", "kernels"} & {key.rpartition(".")[2] for key in flat(hyper_parameters)}
    run = json.loads((tmp_path / "run" / "results.json").read_text())["run"]
    assert run["norm_kernels"] == "norms run on fused Triton kernels (norm + residual + ReLU)"
    assert cli.main(["test", "--ckpt_path", str(last), "--trainer.limit_test_batches", "1"]) == 0


@pytest.mark.slow
def test_overfitting_takes_the_same_batches_each_epoch(data_root, tmp_path, monkeypatch):
    seen, step = [], VideoClassifier.training_step

    def record(self, batch, batch_idx):
        seen.append(batch.clips.clone())
        return step(self, batch, batch_idx)

    monkeypatch.setattr(VideoClassifier, "training_step", record)
    assert cli.main(fit(tmp_path, data_root, *short("--trainer.overfit_batches", 1, "--trainer.max_epochs", 2))) == 0
    assert len(seen) == 2 and torch.equal(*seen)


@pytest.mark.slow
def test_fine_tuning_keeps_frozen_stages_and_replaces_the_head(data_root, motion_folder, tmp_path, capsys):
    """On three classes of one's own, from a checkpoint of twelve; BN's statistics in the frozen stages stay too."""
    first, second, own = tmp_path / "first", tmp_path / "second", tmp_path / "own"
    assert cli.main(fit(first, data_root, *short("--model.net.norm", "bn"))) == 0
    own.mkdir()
    for name in CLASSES[:3]:
        os.symlink(motion_folder / "train" / name, own / name)
    args = short(
        "--model.net.norm", "bn", "--model.start.init", first / "checkpoints" / "last.ckpt",
        "--model.start.freeze_stages", 2, "--model.optimizer.head_lr", 10,
        "--data.motion", "null", "--data.train", "own", "--data.val", "own",
        "--data.batch_size", 2,
    )  # fmt: skip
    assert cli.main(fit(second, tmp_path, *args)) == 0
    assert "classifier starts at random (12 classes there, 3 here)" in capsys.readouterr().err
    before, after = (weights(folder / "checkpoints" / "last.ckpt") for folder in (first, second))
    assert after["net.blocks.6.proj.weight"].shape[0] == 3
    moved = {name for name in before if name in after and before[name].shape == after[name].shape}
    moved = {name for name in moved if not torch.equal(before[name], after[name])}
    assert not any(name.startswith(("net.blocks.0.", "net.blocks.1.")) for name in moved)
    block = "net.blocks.3.res_blocks.0.branch2."
    assert {f"{block}conv_a.weight", f"{block}norm_a.weight", f"{block}norm_a.running_mean"} <= moved


# Test and prediction, from the checkpoint alone


def test_a_checkpoint_alone_is_enough(run, tmp_path, capsys):
    checkpoint = run / "checkpoints" / "epoch=2.ckpt"
    assert cli.main(["test", "--ckpt_path", str(checkpoint), "--data.evaluation.protocol", "center-1clip"]) == 0
    tests = json.loads((run / "results.json").read_text())["tests"]
    assert tests[-1]["protocol"] == "center-1clip" and tests[-1]["videos"] == 24
    assert tests[-1]["checkpoint"] == str(checkpoint)
    assert cli.main(["validate", "--ckpt_path", str(checkpoint)]) == 0
    results = json.loads((run / "results.json").read_text())
    assert results["validations"][-1]["top1"] == pytest.approx(results["fit"]["val"]["top1"])
    assert len(results["tests"]) == len(tests)


def test_predict(run, motion_folder, tmp_path, capsys):
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    good = motion_folder / "val" / "fast_up"
    args = ["predict", "--ckpt_path", str(run / "checkpoints" / "epoch=2.ckpt"), "--videos", str(bad), str(good)]
    assert cli.main([*args, "--json", str(tmp_path / "out.jsonl")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["video"] for line in lines] == [str(bad), *(str(good / f"000{i}.mp4") for i in range(2))]
    assert "not a video" in lines[0]["error"]
    for line in lines[1:]:
        scores = [entry["score"] for entry in line["top"]]
        assert len(scores) == 5 and scores == sorted(scores, reverse=True) and sum(scores) <= 1
        assert {entry["class"] for entry in line["top"]} <= set(CLASSES)
    out = capsys.readouterr().out
    assert f"{bad}\n  cannot be read: not a video" in out and f" %  {lines[1]['top'][0]['class']}" in out
    assert cli.main([*args, "--json", "-"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == lines
    assert cli.main([*args, "--json", str(tmp_path / "out.jsonl")]) == 2  # there already
    assert cli.main([*args, "--json", "/proc/x/out.jsonl"]) == 2
    assert "error: cannot write /proc/x: No such file" in capsys.readouterr().err


@pytest.mark.slow
def test_damage_is_named_where_it_is_asked_for(run, motion_folder, flipped, tmp_path, capsys):
    checkpoint = str(run / "checkpoints" / "epoch=2.ckpt")
    (tmp_path / "list.csv").write_text(f"path,label\n{flipped},2\n{motion_folder}/val/slow_up/0001.mp4,2\n")
    listed = ["--data.motion", "null", "--data.root", str(tmp_path), "--data.val", "list.csv"]
    for inspect, named in (("false", 0), ("true", 1)):
        args = ["test", "--ckpt_path", checkpoint, *listed, "--data.evaluation.inspect", inspect]
        assert cli.main(args) == 0
        test = json.loads((run / "results.json").read_text())["tests"][-1]
        assert test["videos"] == 2 and test["unreadable"] == 0 and len(test["damaged_videos"]) == named
    assert "frames are damaged" in test["damaged_videos"][str(flipped)]
    capsys.readouterr()
    assert (
        cli.main(["predict", "--ckpt_path", checkpoint, "--videos", str(flipped), "--data.evaluation.inspect", "true"])
        == 0
    )
    assert "  damaged: " in capsys.readouterr().out


# Several processes


def started(command, **environment):
    """A command line in processes of their own: Lightning starts the others by it, or torchrun does."""
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=REPO, capture_output=True, text=True, timeout=120,
        env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Error" not in done.stderr and "FutureWarning" not in done.stderr
    return done.stderr


def forked(count, command, folder):
    """As torchrun starts a command line in so many processes, but forked: they cost no imports."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    of_all = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "forked"}  # fmt: skip

    def work(rank):
        os.environ |= {name: str(value) for name, value in {**of_all, "RANK": rank, "LOCAL_RANK": rank}.items()}
        rank_zero_only.rank = rank
        with open(folder / f"{rank}.err", "w") as err, contextlib.redirect_stderr(err):
            code = cli.main(list(map(str, command)))
        os._exit(code)

    processes = [fork(work, rank) for rank in range(count)]
    for process in processes:
        process.join(60)
    err = "".join((folder / f"{rank}.err").read_text() for rank in range(count))
    assert [process.exitcode for process in processes] == [0] * count, err[-3000:]
    return err


TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node", 2, "--master_port", 29641, "train.py")


ON_THREE = ("--trainer.accelerator", "cpu", "--trainer.devices", "3", "--trainer.strategy", "ddp")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "launcher"),
    [
        ("bn", None),
        ("gn", ("train.py",)),
        ("bn", TORCHRUN),
    ],
)
def test_processes_train_and_count_every_video_once(norm, launcher, motion_folder, tmp_path):
    """24 validation videos and a damaged one divide by neither 2 nor 3; the same figures on 1, 2 and 3 processes."""
    rows = (motion_folder / "val.csv").read_text().splitlines()
    damaged = tmp_path / "damaged.mp4"
    damaged.write_text("no video")
    (tmp_path / "val.csv").write_text("\n".join([*rows, f"{damaged},3", ""]))
    settings = {
        "model.net.norm": norm, "data.motion": "null", "data.val": tmp_path / "val.csv", "data.batch_size": 4,
        "model.net.width": 8, "data.loading.num_workers": 0, "trainer.devices": 2, "trainer.max_epochs": 1,
        "trainer.strategy": "ddp", "compare_statistics": "true", "bn_statistics.batches": 2,
    }  # fmt: skip
    args = [word for key, value in settings.items() for word in (f"--{key}", value)]
    command = fit(tmp_path / "run", motion_folder, *args)
    err = started([*launcher, *command], OMP_NUM_THREADS="1") if launcher else forked(2, command, tmp_path)
    assert "2 processes x 4 clips" in err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["run"]["world_size"] == 2 and results["fit"]["steps"] == 3
    assert results["fit"]["val"]["videos"] == 25
    assert "damaged.mp4,validate,bad" in (tmp_path / "run" / "bad_videos.csv").read_text()
    if launcher == TORCHRUN:
        return  # its weights are tested as the first case's, of the same norm
    test = ["test", "--ckpt_path", str(tmp_path / "run" / "checkpoints" / "last.ckpt")]
    forked(3, [*test, *ON_THREE], tmp_path)
    assert cli.main(test) == 0
    on_two, on_three, on_one = json.loads((tmp_path / "run" / "results.json").read_text())["tests"]
    for other in (on_two, on_three):
        assert other["videos"] == 25 and other["unreadable"] == 1
        assert [*other["unreadable_videos"]] == [str(damaged)]
        for name in ("top1", "top5", "clip_top1", "videos", "unreadable"):
            assert other[name] == on_one[name], name
        assert other["loss"] == pytest.approx(on_one["loss"], rel=1e-6)  # threads sum in other orders
    tables = [read_table(tmp_path / "run" / f"test-{i}.csv") for i in range(3)]
    scores = [
        [float(row.pop(name) or 0) for name in ("predicted_score", "label_score") for row in table] for table in tables
    ]
    assert tables[0] == tables[1] == tables[2] and len(tables[0]) == 25
    assert scores[0] == pytest.approx(scores[2], rel=1e-5) and scores[1] == pytest.approx(scores[2], rel=1e-5)
    assert [row for row in tables[0] if not row["predicted"]] == [tables[0][-1]] and tables[0][-1]["path"] == str(
        damaged
    )
    by_class = [(tmp_path / "run" / f"test-{i}.json").read_text() for i in range(3)]
    assert by_class[0] == by_class[1] == by_class[2]
    true, said = ([row[name] for row in tables[0]] for name in ("label", "predicted"))
    found = {its["class"]: its for its in json.loads(by_class[0])["classes"]}
    names, theirs = list(found), metrics.precision_recall_fscore_support
    for name, *figures in zip(names, *theirs(true, said, labels=names, zero_division=np.nan)[:3], strict=True):
        ours = [found[name][part]["value"] for part in ("precision", "recall", "f1")]
        assert ours == [None if np.isnan(figure) else figure for figure in figures]
    assert len(results.get("validations", [])) == (3 if norm == "bn" else 0)
    if norm == "bn":
        # The first layer's input is the same however the clips of two steps are dealt; the others' are not.
        one = ["validate", *test[1:], "--data.batch_size", "8", "--bn_statistics.use", "precise"]
        assert cli.main(one) == 0
        again = json.loads((tmp_path / "run" / "results.json").read_text())["validations"][-1]
        first, same = results["validations"][1]["norm_layers"][0], again["norm_layers"][0]
        assert first["running"] == pytest.approx(same["running"], rel=1e-4)
        assert {one["videos"] for one in [*results["validations"], again]} == {25}


def test_a_run_may_follow_one_by_ddp_in_the_same_process(pictures, tmp_path):
    """The first leaves its own number for the processes that it starts."""
    by_ddp = {"trainer.strategy": "ddp", "trainer.devices": 1, "trainer.max_epochs": 1}

    def work():
        os._exit(max(cli.main(tiny(pictures, tmp_path / name, **by_ddp)) for name in ("first", "second")))

    process = fork(work)
    process.join(60)
    assert process.exitcode == 0


@pytest.mark.long
@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(motion_folder, tmp_path):
    """Also where it is killed while they have hardly begun."""
    args = [
        "--trainer.devices",
        2,
        "--trainer.strategy",
        "ddp",
        "--data.motion",
        "null",
        "--trainer.accelerator",
        "cpu",
    ]
    command = [sys.executable, str(REPO / "train.py"), *fit(tmp_path / "run", motion_folder, *args)]
    assert_children_end(lambda: os.execv(sys.executable, command), 1, 30)


@pytest.mark.slow
def test_fewer_videos_than_processes(run, motion_folder, tmp_path):
    (tmp_path / "val.csv").write_text(f"path,label\n{motion_folder}/val/slow_up/0001.mp4,2\n{motion_folder}/x.mp4,1\n")
    checkpoint = shutil.copy(run / "checkpoints" / "epoch=2.ckpt", tmp_path)
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    checkpoint = shutil.move(checkpoint, tmp_path / "run/checkpoints/last.ckpt")
    test = ["test", "--ckpt_path", checkpoint, "--data.motion", "null", "--data.root", tmp_path, "--run_dir",
            tmp_path / "run", "--data.val", "val.csv"]  # fmt: skip
    test = [str(word) for word in test]
    forked(3, [*test, *ON_THREE], tmp_path)
    assert cli.main(test) == 0
    on_three, on_one = json.loads((tmp_path / "run" / "results.json").read_text())["tests"]
    assert on_three["videos"] == 2 and on_three["unreadable"] == 1
    assert all(on_three[name] == on_one[name] for name in ("top1", "top5", "clip_top1", "videos", "unreadable"))


# A user's slips: one line, no traceback, before the first epoch


def slip(capsys, args):
    code = cli.main([str(arg) for arg in args])
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(err) == 1
    return err[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--model.nrom", "gn"), "unrecognized arguments: --model.nrom gn (did you mean model.net.norm?)"),
        (("--model.norm", "gn"), "model.norm is now model.net.norm"),
        (("--trainer.max_epoch", "3"), "--trainer.max_epoch 3 (did you mean trainer.max_epochs?)"),
        (("--trainer.max_ep", "3"), "--trainer.max_ep 3 (did you mean trainer.max_epochs?)"),
        (("--model.lr_schedule", "step"), "model.lr_schedule is now model.schedule"),
        (("--model.net.nrom", "gn"), "there is no model.net.nrom (did you mean model.net.norm"),
        (("--model.schedule", "cosin"), "there is no model.schedule 'cosin'; the names are: Cosine, Step"),
        (("--model.optimizer", "Adam"), "there is no model.optimizer 'Adam'; the names are: AdamW, SGD"),
        (("--optimizer", "AdamW"), "unrecognized arguments: --optimizer AdamW"),
        (("--model.net.norm", "gnn"), "model.net.norm is 'gnn'; it has to be one of: bn, gn, ln, in, brn, frozen_bn"),
        (("--model.net.num_groups", "32"), "layer stem: 8 channels cannot be split into num_groups=32"),
        (("--model.net.depth", "18"), "model.net.depth is 18; it has to be one of: 11, 14, 50, 101"),
        (("--data.clip.num_frames", "many"), "data.clip.num_frames\": Expected a <class 'int'>. Got value: many"),
        (
            ("--data.clip.num_frames", "64", "--data.clip.frame_interval", "4"),
            "span 253 raw frames, more than data.clip.max_span=64",
        ),
        (("--data.clip.num_frames", "2"), "2 frames are too short"),
        (("--data.evaluation.protocol", "10"), "no test protocol '10'"),
        (("--data.motion", "null", "--data.train", "gone.csv"), "there is no list or folder"),
        (("--data.motion", "null", "--data.train", "none.csv"), "names no videos"),
        (("--data.motion", "null", "--data.train", "out.csv", "--data.class_names", "[a, b]"), "label '7' is outside"),
        (("--data.loading.backend", "cv2"), "data.loading.backend is 'cv2'; it has to be one of: decord, pyav"),
        (("--data.clips_per_video", "3"), "data.batch_size=8 clips are not a whole number of videos"),
        (("--data.loading.decode_timeout", "0"), "has to be above 0 seconds"),
        (("--data.batch_size", "25"), "24 training videos do not fill one step of 25 clips"),
        (("--model.execution.kernels", "fast"), "model.execution.kernels"),
        (
            ("--model.execution.recompute", "all"),
            "Expected a typing.Literal['none', 'norms', 'blocks']. Got value: all",
        ),
        (("--model.execution.low_memory", "true"), "model.execution.low_memory is now model.execution.recompute"),
        (
            ("--model.execution.recompute", "norms", "--model.execution.compile", "true"),
            "model.execution.recompute is norms and model.execution.compile true",
        ),
        (("--model.execution.cuda_graph", "true"), "cuda_graph is true, and there is no CUDA device; take null"),
        (("--model.start.init", "gone.pth"), "there is no file gone.pth to start from"),
        (("--trainer.accelerator", "gpu"), "gpu"),
        (("--trainer.devices", "some"), "trainer: "),
        (("--ckpt_path", "gone.ckpt"), "there is no checkpoint gone.ckpt"),
        (("-c", "gone.yaml"), "gone.yaml"),
    ],
)
def test_slips(change, words, data_root, tmp_path, capsys):
    (data_root / "none.csv").write_text("path,label\n")
    (data_root / "out.csv").write_text("path,label\nx.mp4,7\n")
    if {"gpu", "--model.execution.cuda_graph"} & {*change} and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert words in slip(capsys, fit(tmp_path / "run", data_root, *short(), *change))


def test_kernels_that_cannot_run_here(data_root, tmp_path, capsys, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.delenv("TRITON_INTERPRET")
    dispatch.obstacle.cache_clear()
    message = slip(capsys, fit(tmp_path / "run", data_root, *short("--model.execution.kernels", "triton")))
    dispatch.obstacle.cache_clear()
    assert "model.execution.kernels is triton, and there is no CUDA device; take auto" in message


def test_wrong_key_in_a_file(data_root, tmp_path, capsys):
    (tmp_path / "typo.yaml").write_text("model: {nrom: bn}\n")
    message = slip(capsys, fit(tmp_path / "run", data_root, "-c", tmp_path / "typo.yaml"))
    assert "nrom" in message


def test_checkpoint_slips(run, tmp_path, capsys):
    checkpoint = run / "checkpoints" / "epoch=2.ckpt"
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.ckpt")
    for args, words in (
        (["test"], "test needs a checkpoint"),
        (["test", "--ckpt_path", tmp_path / "gone.ckpt"], "there is no checkpoint"),
        (["predict", "--ckpt_path", tmp_path / "text.ckpt", "--videos", "x"], "is not a checkpoint, or is damaged"),
        (["test", "--ckpt_path", tmp_path / "other.ckpt"], "not a checkpoint of this project"),
        (["test", "--ckpt_path", checkpoint, "--model.net.norm", "bn"], "it has norm=gn, the settings ask for norm=bn"),
        (["predict", "--ckpt_path", checkpoint], "there is nothing to predict"),
        (["predict", "--ckpt_path", checkpoint, "--videos", tmp_path / "gone.mp4"], "none of 1 videos can be read"),
    ):
        assert words in slip(capsys, args)


def test_a_command_leaves_nothing_to_the_next_one(monkeypatch, capsys):
    """Both have one parser, which is made once."""

    def settings(*words):
        with pytest.raises(SystemExit):
            cli.main(["fit", "-c", DEMO, *words, "--print_config"])
        return capsys.readouterr().out

    before = settings()
    monkeypatch.setattr(LightningCLI, "setup_parser", None)
    changes = ("--model.optimizer", "AdamW", "--model.net.norm", "ln", "--trainer.callbacks+", "Timer")
    assert all(word in settings(*changes) for word in ("AdamW", "norm: ln", "Timer"))
    assert settings() == before


@pytest.mark.parametrize("args", [["--help"], ["fit", "--help"], ["predict", "--help"]])
def test_help(args, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(args)
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "usage: train.py" in out
    if args[0] == "fit":
        assert "--model.net.norm" in out and "bn, gn, ln, in, brn, frozen_bn" in out
        assert all(word in out for word in ("i3d_8x8", "gn-10clip", "decord, pyav", "Step, Cosine", "SGD, AdamW"))
        assert len(out.splitlines()) < 450


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(REPO)
