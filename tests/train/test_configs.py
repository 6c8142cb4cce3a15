"""Every shipped configuration is parsed, and trains: the six cells of Table 8 as combinations of four files."""

import itertools
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from command_lines import fit
from conftest import REPO, few
from jsonargparse import dict_to_namespace

from video_gn.ablate.grid_file import read_grid
from video_gn.errors import InputError
from video_gn.train import cli
from video_gn.train.configs import read_yaml
from video_gn.train.names import run_name
from video_gn.train.optim import scaled_lr
from video_gn.weights.hub import fitting

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
        "data.root": root, "data.class_names": root / "classes.txt", "data.clip.short_side": "[32,40]",
        "data.clip.crop_size": 32, "data.evaluation.short_side": 32, "data.loading.num_workers": 0,
        "model.start.init": init,
        "trainer.accelerator": "cpu", "trainer.devices": 1, "trainer.strategy": "auto", "trainer.precision": 32,
        "trainer.fast_dev_run": 2, "trainer.enable_progress_bar": "false", "run_dir": run_dir,
    }  # fmt: skip
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


def parse(*files):
    words = [word for file in files for word in ("-c", str(CONFIGS / f"{file}.yaml"))]
    config = cli.resolve(["fit", *words])
    words = cli._words(["fit", *words])
    config["name"] = run_name(cli._parse(words), cli._kind(words))
    for part in ("net", "optimizer", "schedule"):  # as a config has them
        one = config["model"][part]
        config["model"][part] = {"class": one["class_path"].rpartition(".")[2], **one["init_args"]}
    return dict_to_namespace(config)


@pytest.mark.parametrize("overlays", CELLS, ids="+".join)
def test_cells_of_table_8_are_what_the_paper_says(overlays):
    config = parse("base", *overlays)
    norm, num_frames, interval, batch_size, lr = CELLS[overlays]
    model, data, trainer = config.model, config.data, config.trainer
    assert (model.net.norm, data.clip.num_frames, data.clip.frame_interval, data.batch_size) == (
        norm,
        num_frames,
        interval,
        batch_size,
    )
    assert model.start.init == {"gn": "timm:resnet50_gn.a1h_in1k", "bn": "torchvision:resnet50"}[norm]
    assert scaled_lr(model.optimizer.base_lr, trainer.devices * data.batch_size) == pytest.approx(lr)
    assert (model.net.arch, model.net.depth, model.net.width, model.net.num_groups) == ("i3d", 50, 64, 32)
    assert (model.optimizer.momentum, model.optimizer.weight_decay, model.optimizer.norm_weight_decay) == (
        0.9,
        1e-4,
        0.0,
    )
    assert (model.schedule["class"], list(model.schedule.decay_points), model.schedule.warmup) == (
        "Step",
        [0.375, 0.75],
        0.0,
    )
    assert (tuple(data.clip.short_side), data.clip.crop_size, data.clip.flip, data.evaluation.protocol) == (
        (256, 320),
        224,
        True,
        "gn-10clip",
    )
    # 400k iterations of 64 clips are this many epochs of the training set.
    assert trainer.max_epochs == round(400_000 * 64 / 234_643)
    expected = f"i3d_r50_{norm}_{num_frames}x{interval}_b{batch_size}"
    assert config.name == expected


@pytest.mark.slow
@pytest.mark.parametrize("overlays", few(CELLS, (), [()]), ids=lambda cell: "+".join(cell))
def test_cells_take_two_training_steps(overlays, motion_folder, weights, tmp_path, capsys):
    args = [word for name in ("base", *overlays) for word in ("-c", str(CONFIGS / f"{name}.yaml"))]
    norm = CELLS[overlays][0]
    assert cli.main(["fit", *args, *reduced(motion_folder, weights[norm], tmp_path / "run")]) == 0
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
    assert scaled_lr(model.optimizer.base_lr, trainer.num_nodes * trainer.devices * data.batch_size) == pytest.approx(
        0.04
    )
    assert model.schedule.warmup * trainer.max_epochs == pytest.approx(5, abs=0.05)


def test_imagenet_is_what_the_paper_says():
    config = parse("imagenet/base")
    model, data, trainer = config.model, config.data, config.trainer
    assert (model.net.arch, model.net.depth, model.net.norm, model.net.num_groups) == ("flat", 50, "gn", 32)
    assert scaled_lr(model.optimizer.base_lr, trainer.devices * data.batch_size) == pytest.approx(0.1)
    assert (trainer.devices, data.batch_size, trainer.max_epochs) == (8, 32, 100)
    assert [point * trainer.max_epochs for point in model.schedule.decay_points] == pytest.approx([30, 60, 90])
    assert (
        model.optimizer.momentum,
        model.optimizer.weight_decay,
        model.optimizer.norm_weight_decay,
        model.net.dropout,
    ) == (0.9, 1e-4, 1e-4, 0.0)
    assert (config.images, data.crop_size, data.short_side, data.flip) == (True, 224, 256, True)
    assert config.name == "flat_r50_gn_1x1_b32"


def test_own_videos_have_weights_that_fit_on_a_cpu_and_on_a_gpu():
    cpu, gpu = parse("own"), parse("own", "own.gpu")
    found = [fitting(vars(config.model.net)) for config in (cpu, gpu)]
    assert found == ["video_gn:motion12_gn", "pytorchvideo:i3d_r50"]
    assert {config.model.start.init for config in (cpu, gpu)} == {"auto"}
    assert (cpu.name, gpu.name) == ("i3d_small_r11w16_gn8_16x4_b8", "i3d_8x8_r50_frozen_bn_8x8_b4")
    for config in (cpu, gpu):
        data = config.data
        assert (data.train, data.val, data.test, data.loading.num_workers) == ("auto", "auto", "auto", None)
        assert data.clip.shrink and data.find_copies and data.evaluation.validation == "center"
        assert config.trainer.accelerator == "auto" and config.test_after_fit


def test_every_config_is_covered():
    # The grids among them are in test_ablate, the demo in test_images, UCF101 and HMDB51 in test_known_sets.
    assert {path.stem for path in (CONFIGS / "imagenet").glob("*.yaml")} == {"base", "demo", "norms", "groups"}
    overlays = {name for cell in CELLS for name in cell} | {"nodes4"}
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {
        "base",
        "demo",
        "own",
        "own.gpu",
        "ucf101",
        "hmdb51",
    } | overlays


# Files that are no configs, or do more than they show

LAUGHS = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{letter}: &{letter} [{','.join(['*' + before] * 9)}]\n"
    for before, letter in itertools.pairwise("abcdefghi")
)  # fmt: skip
SLIPS = {
    "empty": (b"", "holds nothing"),
    "comment": (b"# nothing\n", "holds nothing"),
    "list": (b"- 1\n- 2\n", "holds a list"),
    "text": (b"hello", "holds a str"),
    "latin": (b"model: {norm: caf\xe9}\n", "is not UTF-8 (byte 17)"),
    "binary": (bytes(100), "cannot be read as YAML"),
    "half": (b"model: [1\n", "cannot be read as YAML"),
    "tabs": (b"model:\n\t- b", "cannot be read as YAML"),
    "twice": (b"model: {norm: bn}\nmodel: {norm: gn}\n", "it has the key 'model' twice"),
    "twice below": (b"model:\n  norm: bn\n  depth: 11\n  norm: gn\n", "it has the key 'norm' twice"),
    "laughs": (LAUGHS.encode(), "more than 1000000 values, with every alias written out"),
    "laughing keys": (LAUGHS.replace("[", "{? ").replace(",", ", ? ").replace("]", "}").encode(), "YAML"),
    "itself": (b"model: &a [*a]\n", "the alias *a is used before its anchor is complete"),
    "deep": (b"a: " + b"{a: " * 3000, "more than 50 values inside each other"),
    "deeper": (b"[" * 100_000, "cannot be read as YAML"),
    "two": (b"model: {}\n---\nmodel: {}\n", "expected a single document"),
    "code": (b"a: !!python/object/apply:os.system [exit]\n", "could not determine a constructor"),
    "number": (b"data: {num_frames: " + b"9" * 5000 + b"}\n", "cannot be read as YAML (ValueError"),
    "date": (b"data: {root: 2001-99-99}\n", "cannot be read as YAML (ValueError"),
    "key of a list": (b"[1, 2]: 3\n", "cannot be read as YAML"),
    "key of a number": (b"1: 2\n", "Key must be a string"),
    "nan": (
        b"model: {optimizer: {base_lr: .nan}}\n",
        "model.optimizer.base_lr is nan; it has to be a number from 0 to 1e+12",
    ),
    "inf": (b"data: {loading: {max_bad: .inf}}\n", "data.loading.max_bad is inf; it has to be a number from 0 to 1"),
    "motion": (b"data: {motion: {train_per_class: 0}}\n", "motion.train_per_class is 0; it has to be a whole number"),
    "motion of nan": (b"data: {motion: {fast: .nan}}\n", "motion.fast is nan; it has to be a number from 0 to 0.5"),
    "null": (b"model: {net: {dropout: null}}\n", "model.net.dropout is null; it has to be a number"),
    "null of text": (b"data: {loading: {quarantine: null}}\n", "data.loading.quarantine is null; it has to be text"),
    "null of a split": (b"data: {train: null}\n", "data.train is null; it has to have a value"),
    "null of Lightning's": (b"checkpoint: {save_top_k: null}\n", "checkpoint.save_top_k is null"),
    "seed": (b"seed_everything: -1\n", "seed_everything is -1; it has to be a whole number from 0"),
    "unknown": (b"mdel: {norm: bn}\n", "mdel"),
    "escape": ("mdel\u009b31m: 1\n".encode(), "error"),
}


@pytest.mark.parametrize("name", few(SLIPS, [*SLIPS][::2]))
def test_a_config_that_is_none_is_one_line(name, tmp_path, capsys):
    content, words = SLIPS[name]
    path = tmp_path / "slip.yaml"
    path.write_bytes(content)
    for option in ("-c", "--config"):
        assert cli.main([*fit(tmp_path / "run", tmp_path), option, str(path)]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and words in lines[0] and lines[0].isprintable(), lines
    assert not (tmp_path / "run").exists()


def test_configs_elsewhere(tmp_path, capsys):
    """A folder, nothing, and what is read as YAML on the command line."""
    for args, words in (
        (["-c", str(tmp_path)], "there is no config"),
        (["-c", str(tmp_path / "gone.yaml")], "name a YAML file, or one of: 64x1, b4, base"),
        ([f"--config={tmp_path}"], "there is no config"),
        (["--data.motion", "{train_per_class: 1, train_per_class: 2}"], "motion"),
        (["--data.clip.short_side", f"{{{LAUGHS}}}"], "short_side"),
    ):
        assert cli.main([*fit(tmp_path / "run", tmp_path), *args]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("trainer.accumulate_grad_batches", "0", "is 0; it has to be a whole number from 1"),
        ("trainer.check_val_every_n_epoch", "0", "is 0; it has to be a whole number from 1"),
        ("trainer.check_val_every_n_epoch", "-1", "is -1; it has to be a whole number from 1"),
        ("trainer.val_check_interval", "0", "is 0; it has to be above 0"),
        ("trainer.val_check_interval", "0.0", "is 0.0; it has to be above 0"),
        ("trainer.gradient_clip_val", "-1", "is -1; it has to be a number from 0"),
        ("trainer.devices", "100000", "is '100000'; it has to be at most 256 on a node"),
        ("trainer.precision", "bf16-true", "is 'bf16-true'; it has to be 16-mixed, bf16-mixed"),
        ("trainer.limit_train_batches", "-1", "limit_train_batches"),
        ("checkpoint.filename", "{", "has to be text of at most 200 characters"),
        ("checkpoint.filename", "{}", "has to be text of at most 200 characters"),
        ("checkpoint.filename", "{epoch.__class__}", "has to be text of at most 200 characters"),
        ("checkpoint.filename", "{epoch:>999999999}", "has to be text of at most 200 characters"),
        ("checkpoint.filename", "a" * 300, "has to be text of at most 200 characters"),
        ("checkpoint.filename", "../../x", "below the run's folder"),
        ("checkpoint.filename", "/tmp/x", "below the run's folder"),
        ("checkpoint.filename", "a\0b", "below the run's folder"),
        ("checkpoint.every_n_epochs", "-1", "every_n_epochs"),
        ("run_dir", "a\0b", "run_dir is 'a\\x00b'; no folder has such a name"),
    ],
)
def test_slips_in_lightnings_settings(name, value, words, tmp_path, capsys):
    args = fit(tmp_path / "run", tmp_path) if name != "run_dir" else ["fit", "-c", str(CONFIGS / "demo.yaml")]
    assert cli.main([*args, f"--{name}={value}"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and words in lines[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("given", "seed"), [("false", 0), ("true", 0), ("7", 7)])
def test_seeds_that_lightning_knows(given, seed):
    resolved = cli.resolve(["fit", "-c", str(CONFIGS / "demo.yaml"), "--seed_everything", given])
    assert str(resolved["seed_everything"]).lower() == given
    config = cli._parse(["fit", "--config", str(CONFIGS / "demo.yaml"), "--seed_everything", given])
    assert config.data.seed == config.model.seed == seed and type(config.data.seed) is int


def test_aliases_within_reason_are_read(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &a {norm: bn, depth: 11}\nb: {<<: *a, depth: 14}\nc: [*a, *a]\n")
    small = {"norm": "bn", "depth": 11}
    assert read_yaml(tmp_path / "a.yaml") == {"a": small, "b": {"norm": "bn", "depth": 14}, "c": [small, small]}


def test_grids_are_looked_through_too(tmp_path):
    for content in (b"base: [x]\nbase: [y]\n", b"caf\xe9: 1\n", b"", LAUGHS.encode()):
        (tmp_path / "grid.yaml").write_bytes(content)
        with pytest.raises(InputError, match=r"grid\.yaml"):
            read_grid(tmp_path / "grid.yaml")


def test_the_home_folder(tmp_path, monkeypatch):
    """In files and behind `--key=` no shell puts it in the place of `~/`; what only begins with a tilde stays."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text(
        "data: {root: ~/data, train: ~/a.csv, class_names: [~/b, ~x], loading: {quarantine: ~/q.csv}}\n"
        "model: {start: {init: ~/w.pth}}\nrun_dir: ~/runs/x\ncheckpoint: {dirpath: ~/kept}\n"
    )
    words = ["--config=~/mine.yaml", "--data.val=~/v.csv", "--data.test", "~/t.csv", "--ckpt_path=~/last.ckpt"]
    found = cli.resolve(["fit", *words])
    data = found["data"]
    assert [data["root"], data["train"], data["val"], data["test"]] == [
        f"{tmp_path}/{name}" for name in ("data", "a.csv", "v.csv", "t.csv")
    ]
    assert data["class_names"] == [f"{tmp_path}/b", "~x"] and data["loading"]["quarantine"] == f"{tmp_path}/q.csv"
    assert found["model"]["start"]["init"] == f"{tmp_path}/w.pth" and found["run_dir"] == f"{tmp_path}/runs/x"
    assert found["ckpt_path"] == f"{tmp_path}/last.ckpt" and found["checkpoint"]["dirpath"] == f"{tmp_path}/kept"
