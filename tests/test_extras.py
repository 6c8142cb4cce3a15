"""What runs without the packages that not every user needs."""

import subprocess
import sys

import pytest
from conftest import REPO

from video_gn.export.formats import export
from video_gn.extras import EXTRAS

PURE = """
import sys
# These look for what is installed, and import it where it is: portalocker, which pytorchvideo needs, has fcntl.
import portalocker, torchmetrics
ABSENT = ["fcntl", "triton", "tensorboard", "torch.utils.tensorboard", *sys.argv[1].split(",")]
sys.modules.update(dict.fromkeys(ABSENT))
from video_gn.__main__ import main
folder, model, export, video = sys.argv[2:]
print("CODE", main(["predict", model, video, "--workers", "0", "--pictures", folder, "--cam", "--device", "cpu"]))
print("CODE", main(["predict", export, video, "--workers", "0", "--device", "cpu"]))
print("CODE", main(["ablate", "motion"]), main(["export", model, "--to", "onnx", "--out", folder]))
from video_gn.errors import InputError
from video_gn.weights.hub import load_weights
try:
    load_weights("timm:resnet50_gn.a1h_in1k")
except InputError as error:
    print("error:", error, file=sys.stderr)
"""


@pytest.mark.slow
def test_prediction_needs_none_of_them(run, motion_folder, tmp_path):
    """In a process of its own, in which they cannot be imported; what needs one says which extra brings it."""
    last = run / "checkpoints" / "last.ckpt"
    exported = export(last, ["safetensors"], tmp_path / "export").with_suffix(".safetensors")
    video = motion_folder / "val" / "slow_up" / "0000.mp4"
    absent = ",".join(name for names in EXTRAS.values() for name in names)
    command = [sys.executable, "-c", PURE, absent, *map(str, (tmp_path, last, exported, video))]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300, check=False)
    codes = [line for line in done.stdout.splitlines() if line.startswith("CODE")]
    assert codes == ["CODE 0", "CODE 0", "CODE 2 2"], done.stderr[-2000:]
    assert list(tmp_path.glob("*.png"))
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    needs = {"matplotlib": "ablate", "onnx": "onnx", "timm": "hub"}
    assert errors == [
        f"error: this needs the package {name}: pip install 'video_gn[{extra}]'" for name, extra in needs.items()
    ]
