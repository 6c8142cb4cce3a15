"""What runs are called: other data and other rates make another name."""

import pytest

from video_gn.console import set_up_messages
from video_gn.train.cli import _kind, _parse
from video_gn.train.names import MOST, run_name
from video_gn.train.shipped import with_configs

OWN = "i3d_small_r11w16_gn8_16x4_b8"


def name(*words):
    set_up_messages()
    args = with_configs(["fit", *words])
    return run_name(_parse(args), _kind(args), args)


@pytest.fixture
def videos(tmp_path):
    for path in ("my videos/a/1.mp4", "my videos/b/1.mp4"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    return tmp_path / "my videos"


@pytest.mark.parametrize(("words", "expected"), [
    ("-c demo", "i3d_small_r11w16_gn8_16x4_b8"),
    ("-c demo --data.root elsewhere", "i3d_small_r11w16_gn8_16x4_b8"),  # where the embedded set goes
    ("-c demo --model.optimizer.base_lr=0.2 --trainer.max_epochs 3", "i3d_small_r11w16_gn8_16x4_b8_base_lr0.2"),
    ("-c demo --model.optimizer.base_lr 0.4", "i3d_small_r11w16_gn8_16x4_b8"),  # as the config has it
    ("-c base -c b4 --data.root /data/ucf101/ --model.net.norm bn", "ucf101_i3d_r50_bn_32x2_b4"),
    ("-c base --model.schedule Cosine --model.start.init null", "i3d_r50_gn_32x2_b8_schedule-Cosine_init-null"),
    ("-c base --data.clip.flip false --data.loading.num_workers 1", "i3d_r50_gn_32x2_b8_flip-false"),
    ("-c own --data.root {}", f"my-videos_{OWN}"),
    ("-c own --data.root {}/ --data.folds 5 --data.fold 2", f"my-videos_{OWN}_fold2_folds5"),
    ("-c own --data.root {} --model.start.init {}/weights.ckpt --seed_everything 3",
     f"my-videos_{OWN}_s3_init-weights.ckpt"),
])  # fmt: skip
def test_names(words, expected, videos):
    assert name(*(word.format(videos) for word in words.split())) == expected


def test_many_changes(videos):
    words = ["-c", "own", "--data.root", str(videos), "--model.optimizer.base_lr"]
    more = ["--model.start.init", "x" * 80, "--data.group", "([ab])" * 9, "--data.shares", "[0.5, 0.2, 0.3]"]
    first, second = name(*words, "0.1", *more), name(*words, "0.2", *more)
    assert first != second and max(len(first), len(second)) <= MOST
    assert first.startswith(f"my-videos_{OWN}_group-") and set(first) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-"
    )
