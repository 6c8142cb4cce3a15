"""A trained model in the formats of others: `python -m video_gn.export CHECKPOINT [--to FORMAT ...]`.

| `--to`         | file            | what it is                                                                     |
|----------------|-----------------|--------------------------------------------------------------------------------|
| `safetensors`  | `.safetensors`  | weights, with class names and the input in its metadata                        |
| `onnx`         | `.onnx`         | the network from uint8 clips to logits and scores, any batch, height and width |
| `torch`        | `.pt2`          | the same as a `torch.export` program, of ATen's operators alone                |
| `pytorchvideo` | `.pth`          | a state dict for pytorchvideo's `create_resnet`                                |
| `detector`     | `.backbone.pth` | a flat network as torchvision's 2D ResNet, for its detectors                   |

Each is loaded again and compared with the checkpoint before it is kept, and a model card is written beside them. For
others, take `safetensors` or `onnx`: they hold no code. A `.pt2` is a program; who opens it has to trust who made it.
"""

import argparse
import sys
from pathlib import Path

from video_gn.console import exit_code, printable, set_up_messages
from video_gn.export.formats import DEFAULT, FORMATS, export


def main(args: list[str] | None = None, prog: str = "python -m video_gn.export") -> int:
    """Runs the command line; gives its exit code."""
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog, description=__doc__, formatter_class=how)
    parser.add_argument("checkpoint", type=Path, help="of a run: runs/NAME/checkpoints/best.ckpt")
    parser.add_argument("--to", nargs="+", choices=FORMATS, default=DEFAULT, help=f"formats ({' '.join(DEFAULT)})")
    parser.add_argument("--out", type=Path, help="folder; by default export/ in the run's folder")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    given = parser.parse_args(args)
    set_up_messages()
    return exit_code(
        lambda: print(printable(f"model card: {export(given.checkpoint, given.to, given.out, given.overwrite)}")),
        "stopped; nothing was written",
    )


if __name__ == "__main__":
    sys.exit(main())
