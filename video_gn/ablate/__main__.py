"""Trains every cell of an ablation, or continues it, and reports what was measured beside what the paper reports.

    video-gn ablate motion

The plan comes first: cells, clips per step, learning rate, epochs, and what is done already. Finished runs are
skipped, half-done ones resume where they stopped, failed ones are tried again. After any stop, run the same command.
Options that are not listed here go to `fit`, for every cell: --trainer.devices 1, --data.root FOLDER.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from video_gn.ablate.budget import with_budget
from video_gn.ablate.grid import Grid, shell
from video_gn.ablate.grid_file import read_grid
from video_gn.ablate.local import Clock, Slot, in_words, make_slots, run_all
from video_gn.ablate.plan import check_data, check_starts, length_of, make_plan, plan_table
from video_gn.ablate.run import Run
from video_gn.ablate.tune import make_trials, tuned, tuning_plan, untuned
from video_gn.console import exit_code, printable
from video_gn.errors import InputError
from video_gn.extras import optional

CLUSTERS = ("slurm", "local")


def main(args: list[str] | None = None, prog: str = "python -m video_gn.ablate") -> int:
    """Runs the command line.

    Returns:
        Its exit code: 0 if every run is finished; 1 if some failed; 2 for what the user can correct, said in one line;
        130 or 143 if it was stopped.
    """
    given, extra = _parser(prog).parse_known_args(args)
    words = [word for word in (sys.argv[1:] if args is None else args) if word != "--report"]
    return exit_code(lambda: _run(given, extra, words), "stopped; the same command continues from here")


def _parser(prog: str) -> argparse.ArgumentParser:
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog, description=__doc__, formatter_class=how, allow_abbrev=False)
    parser.add_argument(
        "grid", type=Path, help="YAML file of the ablation (video_gn/ablate/grid_file.py says its form), or a name"
    )
    parser.add_argument("--out", type=Path, help="folder of runs and report; default: runs/ablations/NAME")
    parser.add_argument("--devices", nargs="+", default=[], metavar="D",
                        help="several runs at once, one on each: cpu, a GPU's number, or several as 0,1")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the plan and each run's command")
    parser.add_argument("--report", action="store_true", help="only write the report of what is there")
    parser.add_argument("--cluster", choices=CLUSTERS, help="submit the runs as a job array through submitit")
    parser.add_argument("--cluster_options", nargs="+", default=[], metavar="NAME=VALUE",
                        help="submitit's parameters: slurm_partition=gpu timeout_min=2880")  # fmt: skip
    return parser


def _run(given: argparse.Namespace, extra: list[str], words: list[str]) -> int:
    with _understood(f"{given.grid} is not the grid of an ablation"):
        grid = read_grid(given.grid, extra)
    out = given.out or Path("runs", "ablations", grid.name)
    work = _Work(grid, out)
    if given.dry_run:
        print(work.plan, end="\n\n")
        print("\n".join(shell(run.command) for run in (*work.trials, *work.ready)))
        if rest := work.waiting:
            print(f"\n{rest} more runs, whose settings their trials decide")
        return 0
    optional("matplotlib")  # before hours of work that would end without a report
    if given.report:
        return _report(work, words)
    print(work.plan)
    check_starts(work.open_trials or work.ready)
    if given.cluster:
        return _submit(work, given.cluster, given.cluster_options)
    check_data(work.open_trials or work.ready)
    slots = make_slots(given.devices, work.runs)
    try:
        if work.open_trials:
            _train("trials", work.trials, len(work.open_trials), slots)
            work = _Work(grid, out)
            print(f"\n{work.plan}")
        if rest := work.waiting:
            print(f"{rest} runs cannot begin: of their cells' trials some are not finished", flush=True)
        if work.ready:
            _train("runs", work.ready, sum(not run.results() for run in work.ready), slots)
    finally:
        if any(run.results() for run in work.runs):
            _report(work, words)
    return 1 if any(not run.results() for run in work.runs) else 0


class _Work:
    """What an ablation consists of, as far as it is known: trials come before the runs whose settings they decide.

    Args:
        grid: The ablation.
        out: Its folder.

    Attributes:
        grid: With the values that trials have found best.
        trials: All of them; none where the grid tunes nothing.
        runs: All that are compared.
    """

    def __init__(self, grid: Grid, out: Path) -> None:
        self.out = out
        with _understood(f"what is below {out} is not what runs write; move the damaged one away"):
            grid = with_budget(grid, length_of(grid, out))
            self.trials = make_trials(grid, out)
            self.grid = tuned(grid, self.trials)
            self.runs = make_plan(self.grid, out)
            self.open_trials = [trial for trial in self.trials if not trial.ended]
            self._untuned = untuned(grid, self.trials)
            self.plan = plan_table(self.grid, self.runs)
            if self.trials:
                self.plan += f"\n\n{tuning_plan(grid, self.trials)}"

    @property
    def waiting(self) -> int:
        """How many runs have settings that are not known yet."""
        return sum(not run.cell.original for run in self.runs) - len(self.ready)

    @property
    def ready(self) -> list[Run]:
        """The compared runs whose settings are known, each once."""
        return [run for run in self.runs if run.cell.name not in self._untuned and not run.cell.original]


def _train(what: str, runs: Sequence[Run], waiting: int, slots: Sequence[Slot]) -> None:
    left = Clock(runs, len(slots)).left()
    said = f"about {in_words(left)}" if left else "the time is known after the first"
    print(f"{waiting} of {len(runs)} {what} to do, {len(slots)} at once: {said}\n", flush=True)
    run_all(runs, slots, _Teller(runs, len(slots)))


def _submit(work: _Work, name: str, options: Sequence[str]) -> int:
    optional("submitit")
    from video_gn.ablate.cluster import parse_options, submit

    runs: Sequence[Run] = work.open_trials or [run for run in work.ready if not run.results()]
    for job in submit(runs, work.out, name, parse_options(options)):
        print(f"submitted: job {job.job_id}")
    then = "the same command submits those that are compared" if work.open_trials else "the same command with --report"
    instead = "" if work.open_trials else " instead of --cluster"
    print(f"{len(runs)} runs submitted; when they are done, {then}{instead}")
    return 0


@contextmanager
def _understood(otherwise: str) -> Iterator[None]:
    """Says so in one line where files are not what they should be, in whatever way."""
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{otherwise} ({type(error).__name__}: {error})") from error


class _Teller:
    """Says how each run ended, and after the first how long the rest will take."""

    def __init__(self, runs: Sequence[Run], slots: int) -> None:
        self.clock = Clock(runs, slots)
        self.said = self.clock.left() is not None

    def __call__(self, run: Run, note: dict[str, Any]) -> None:
        said = run.said() or f"{note['status']}: {note.get('error', '')}".rstrip(": ")
        seconds = f", {in_words(note['seconds'])}" if "seconds" in note else ""
        tqdm.write(printable(f"{run.name}: {said}{seconds}"))
        if not self.said and run.results():
            self.said = True
            self.clock.learn()
            tqdm.write(f"the rest will take about {in_words(self.clock.left() or 0)}")


def _report(work: _Work, words: Sequence[str]) -> int:
    from video_gn.ablate.report.write import write_report  # here, because it needs the extra `ablate`

    out = work.out
    with _understood(f"what is below {out} is not what runs write; move the damaged one away"):
        summary = write_report(work.grid, work.runs, out, words, work.trials)
    print(f"\n{summary}\n\nreport: {out / 'results.md'}, results.html, results.json")
    return 1 if any(not run.results() for run in work.runs) else 0


if __name__ == "__main__":
    sys.exit(main())
