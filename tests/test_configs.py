"""Every shipped configuration is parsed, and trains: the six cells of Table 8 as combinations of four files."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from conftest import REPO
from jsonargparse import dict_to_namespace

import train
from video_gn.classifier import scaled_lr

CONFIGS = REPO / "configs"
# The overlays of each cell, and what they have to come to: norm, frames, interval, clips per GPU, lr on 8 GPUs.
CELLS = {
    (): ("gn", 32, 2, 8, 0.01),
    ("b4",): ("gn", 32, 2, 4, 0.005),
    ("b4", "64x1"): ("gn", 64, 1, 4, 0.005),
    ("bn",): ("bn", 32, 2, 8, 0.01),
    ("bn", "b4"): ("bn", 32, 2, 4, 0.005),
    ("bn", "b4", "64x1"): ("bn", 64, 1, 4, 0.005),
}


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> dict[str, Path]:
    """ImageNet models' shapes with random weights, in the place of the files that a user downloads."""
    folder = tmp_path_factory.mktemp("weights")
    nets = {"bn": torchvision.models.resnet50(), "gn": timm.create_model("resnet50_gn")}
    for name, net in nets.items():
        torch.save(net.state_dict(), folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in nets}


def reduced(root, init, run_dir):
    """Overrides that leave the network, the clip and the batch, and shrink the rest to a CPU and seconds."""
    settings = {
        "data.root": root, "data.class_names": root / "classes.txt", "data.short_side": "[32,40]",
        "data.crop_size": 32, "data.test_short_side": 32, "data.num_workers": 0, "model.init": init,
        "trainer.accelerator": "cpu", "trainer.devices": 1, "trainer.strategy": "auto", "trainer.precision": 32,
        "trainer.fast_dev_run": 2, "trainer.enable_progress_bar": "false", "run_dir": run_dir,
    }  # fmt: skip
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


def parse(*files):
    words = (word for file in files for word in ("-c", str(CONFIGS / f"{file}.yaml")))
    return dict_to_namespace(train.resolve(["fit", *words]))


@pytest.mark.parametrize("overlays", CELLS, ids="+".join)
def test_cells_of_table_8_are_what_the_paper_says(overlays):
    config = parse("base", *overlays)
    norm, num_frames, interval, batch_size, lr = CELLS[overlays]
    model, data, trainer = config.model, config.data, config.trainer
    assert (model.norm, data.num_frames, data.frame_interval, data.batch_size) == (
        norm,
        num_frames,
        interval,
        batch_size,
    )
    assert model.init == {"gn": "timm:resnet50_gn.a1h_in1k", "bn": "torchvision:resnet50"}[norm]
    assert scaled_lr(model.base_lr, trainer.devices * data.batch_size) == pytest.approx(lr)
    assert (model.geometry, model.depth, model.width, model.num_groups) == ("i3d", 50, 64, 32)
    assert (model.momentum, model.weight_decay, model.norm_weight_decay) == (0.9, 1e-4, 0.0)
    assert (model.lr_schedule, list(model.decay_points), model.warmup) == ("step", [0.375, 0.75], 0.0)
    assert (tuple(data.short_side), data.crop_size, data.flip, data.test_protocol) == (
        (256, 320),
        224,
        True,
        "gn-10clip",
    )
    # 400k iterations of 64 clips are this many epochs of the training set.
    assert trainer.max_epochs == round(400_000 * 64 / 234_643)
    expected = f"i3d_r50_{norm}_{num_frames}x{interval}_b{batch_size}"
    assert train.run_name(model, data, config.seed_everything) == expected


@pytest.mark.parametrize("overlays", CELLS, ids="+".join)
def test_cells_take_two_training_steps(overlays, motion_folder, weights, tmp_path, capsys):
    args = [word for name in ("base", *overlays) for word in ("-c", str(CONFIGS / f"{name}.yaml"))]
    norm = CELLS[overlays][0]
    assert train.main(["fit", *args, *reduced(motion_folder, weights[norm], tmp_path / "run")]) == 0
    out = capsys.readouterr()
    assert f"{159 if norm == 'gn' else 318} tensors, of which 10 inflated" in out.err
    assert "classifier starts at random (1000 classes there, 12 here)" in out.err
    assert f"1 processes x {CELLS[overlays][3]} clips" in out.err  # the model's batch_size is the data's
    assert "2 steps" in out.err and "test by gn-10clip" in out.out
    assert not (tmp_path / "run" / "results.json").exists()  # a trial run leaves no results


def test_four_nodes():
    config = parse("base", "nodes4")
    model, data, trainer = config.model, config.data, config.trainer
    assert (trainer.num_nodes, trainer.devices) == (4, 8)
    assert scaled_lr(model.base_lr, trainer.num_nodes * trainer.devices * data.batch_size) == pytest.approx(0.04)
    assert model.warmup * trainer.max_epochs == pytest.approx(5, abs=0.05)


def test_imagenet_is_what_the_paper_says():
    config = parse("imagenet/base")
    model, data, trainer = config.model, config.data, config.trainer
    assert (model.geometry, model.depth, model.norm, model.num_groups) == ("flat", 50, "gn", 32)
    assert scaled_lr(model.base_lr, trainer.devices * data.batch_size) == pytest.approx(0.1)
    assert (trainer.devices, data.batch_size, trainer.max_epochs) == (8, 32, 100)
    assert [point * trainer.max_epochs for point in model.decay_points] == pytest.approx([30, 60, 90])
    assert (model.momentum, model.weight_decay, model.norm_weight_decay, model.dropout) == (0.9, 1e-4, 1e-4, 0.0)
    assert (data.images, data.num_frames, data.crop_size, data.test_short_side, data.flip) == (True, 1, 224, 256, True)
    assert train.run_name(model, data, config.seed_everything) == "flat_r50_gn_1x1_b32"


def test_every_config_is_covered():
    # The grids among them are in test_ablate, the demo in test_images.
    assert {path.stem for path in (CONFIGS / "imagenet").glob("*.yaml")} == {"base", "demo", "norms", "groups"}
    overlays = {name for cell in CELLS for name in cell} | {"nodes4"}
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {"base", "demo"} | overlays
