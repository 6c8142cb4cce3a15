"""The command `video-gn`, as `python -m video_gn`: finds the module of a command, and leaves the rest to it.

Nothing else is imported before the command is known, so that help and mistakes are answered at once.
"""

import sys
from importlib import import_module
from typing import NamedTuple


class Command(NamedTuple):
    """A word of the command line.

    Attributes:
        module: Where its `main(args, prog)` is.
        says: What it does, for the help.
        keeps_name: Whether its module takes several commands, and has to see which one it is.
    """

    module: str
    says: str
    keeps_name: bool = False


TRAINING, PREDICT = "video_gn.train.cli", "video_gn.predict.__main__"
DATA = {
    "show": Command(
        "video_gn.train.show", "what a training would get: a table, and a picture of clips: data show -c demo"
    ),
    "make-list": Command("video_gn.data.tools.make_list", "write the lists of a data set: train.csv, val.csv, classes"),
    "check": Command("video_gn.data.tools.check_videos", "decode every video of a list, and note the damaged ones"),
    "prepare": Command("video_gn.data.tools.prepare_videos", "write small copies of a list's videos, quick to decode"),
    "textures": Command("video_gn.data.tools.make_textures", "make images and videos of textures to try pre-training"),
}
COMMANDS = {
    "fit": Command(TRAINING, "train a network; a first run, on a CPU: fit -c demo", True),
    "validate": Command(TRAINING, "evaluate a checkpoint on one clip of each video: validate --ckpt_path FILE", True),
    "test": Command(TRAINING, "evaluate a checkpoint by a test protocol: test --ckpt_path FILE", True),
    "predict": Command(
        TRAINING, "classes of videos: predict MODEL VIDEO ... (predict MODEL --help has its options);\n"
        "beginning with an option it is the trainer's: predict --ckpt_path FILE --videos ...", True,
    ),
    "memory": Command("video_gn.train.memory.table", "how many clips fit into a GPU, without one: memory -c base"),
    "export": Command("video_gn.export.__main__", "a checkpoint as safetensors, ONNX and other formats"),
    "ablate": Command("video_gn.ablate.__main__", "train every cell of a grid, and report: ablate motion"),
    "data": Command("", "lists, checks and copies of videos; data --help names its commands"),
    "models": Command("video_gn.weights.__main__", "what there is by name: networks, norms, public weights"),
}  # fmt: skip


def main(args: list[str] | None = None) -> int:
    """Runs a command line; gives its exit code, which is 2 where there is no such command."""
    prog = "python -m video_gn" if sys.argv[0] == __file__ else "video-gn"
    words = sys.argv[1:] if args is None else args
    commands = COMMANDS
    if words[:1] == ["data"]:
        commands, prog, words = DATA, f"{prog} data", words[1:]
    elif words == ["--version"]:
        print(f"{prog} {import_module('video_gn').__version__}")
        return 0
    if not words or words[0] in ("-h", "--help"):
        print(_help(commands, prog))
        return 0 if words else 2
    name, rest = words[0], words[1:]
    if name not in commands:
        print(f"error: {prog} has no command {name!r}; the commands are: {', '.join(commands)}", file=sys.stderr)
        return 2
    command = commands[name]
    if name == "predict" and rest and not rest[0].startswith("-"):
        command = Command(PREDICT, "")
    run = import_module(command.module).main
    return run(words, prog) if command.keeps_name else run(rest, f"{prog} {name}")


def _help(commands: dict[str, Command], prog: str) -> str:
    said = {name: command.says.replace("\n", f"\n{'':13}") for name, command in commands.items()}
    if commands is COMMANDS:
        said["--version"] = "the version of the package"
    lines = (f"  {name:10} {says}" for name, says in said.items())
    return "\n".join((f"usage: {prog} COMMAND ...", "", *lines, "", "COMMAND --help lists the options of each."))


if __name__ == "__main__":
    sys.exit(main())
