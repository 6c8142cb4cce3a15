"""Text out of files, on its way to a terminal, a page, a table or a picture."""

import csv
import html
import json
import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from pytorch_lightning.utilities import rank_zero_only
from samples import NAMES, SMALL, checkpoint

from video_gn import console
from video_gn.ablate.page import Figure, Heading, Table, Text, to_html, to_markdown, to_text
from video_gn.console import as_code, as_markdown, one_line, printable
from video_gn.errors import InputError
from video_gn.export import card, formats
from video_gn.export.__main__ import main as export
from video_gn.files.tables import spreadsheet
from video_gn.predict.__main__ import main as predict
from video_gn.predict.pictures import bars, strip
from video_gn.rules import shown
from video_gn.train.callbacks.predictions import json_lines, table

NASTY = [
    "<script>alert(1)</script>", "# a heading\n\n## another", "![x](https://evil.example/x.png)", "a | b | c",
    "[click](javascript:x)", "`code` ```", "*bold* _thin_ **x** __y__ ~~z~~", "\x1b[31mred\x1b[0m\r\b", "=cmd()|x!A1",
    "caf\udce9", "\u202eright to left", '"quoted\' & <b>', "&lt;b&gt; &#60;", "\\| \\", "$x^2$", "- item", "1. item",
    "> quote", "===", "https://evil.example www.evil.example", "\u2028\x00\x9b", "slow_up",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", r"\x1b[31m"), ("a\nb\r\t", r"a\nb\r\t"), ("caf\udce9", r"caf\udce9"), ("\u2028", r"\u2028"),
        ("caf\u00e9 ~/x y", "caf\u00e9 ~/x y"), ("\x9b", r"\x9b"), ("\u202e", r"\u202e"), ("", ""),
    ],
)  # fmt: skip
def test_printable(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("slow_up, 8x8 - 3.5 (a + b) x & y", "slow_up, 8x8 - 3.5 (a + b) x & y"),
        ("82.4 ± 1.3 / 100.0 (3)", "82.4 ± 1.3 / 100.0 (3)"), ("3) x", r"3\) x"),
        ("-12.8 (-21.1 to -4.9)", "-12.8 (-21.1 to -4.9)"), ("# x", r"\# x"), ("- x", r"\- x"), ("1. x", r"1\. x"),
        ("_x_", r"\_x\_"), ("<b>&lt;", "&lt;b>&amp;lt;"), ("![a](b)", r"!\[a\](b)"), ("a|b", r"a\|b"),
        ("a\n# b", r"a\\n# b"), ("http://x www.y", r"http\://x www\.y"), ("`x`", r"\`x\`"), ("---", r"\---"),
    ],
)  # fmt: skip
def test_markdown_stays_text(text, expected):
    assert as_markdown(text) == expected


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_pages_hold_text():
    """No name is more than text, in HTML and in Markdown."""

    def page(name):
        table = Table(["x", name], [[name, name]])
        return Heading(name), Text(name), Text(name, code=True), table, Figure("f", "<svg/>", name)

    blocks = [block for name in NASTY for block in page(name)]
    plain = [block for _ in NASTY for block in page("x")]
    ours, theirs = Tags(), Tags()
    ours.feed(to_html(plain, "x"))
    theirs.feed(to_html(blocks, NASTY[0]))
    assert ours.tags == theirs.tags
    assert {printable(name) for name in NASTY} - {"".join(NASTY)} <= set(theirs.text) | {printable(NASTY[1])}
    text = to_markdown(blocks, "figures")
    text.encode()
    assert len([line for line in text.splitlines() if line.startswith("#")]) == len(NASTY)
    pictures = [line for line in text.splitlines() if re.match(r"[^ ].*(?<!\\)\]\(|!\[", line)]
    assert len(pictures) == len(NASTY)  # the page's own
    for line in text.splitlines():
        if not line.startswith("    "):
            assert "<" not in line and line.isprintable()
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) == 3, line
    for line in to_text(Table(["a", "b"], [[name, name] for name in NASTY])).splitlines():
        assert line.isprintable()


def test_predictions_are_lines():
    for name in NASTY:
        said = {"video": name, "top": [{"class": name, "score": 0.5}], "error": name, "damage": name}
        assert all(line.isprintable() for line in table(said).splitlines()) and len(table(said).splitlines()) == 5
        lines = json_lines([said])
        assert lines.isascii() and lines.count("\n") == 1 and json.loads(lines) == said


def test_pictures_take_any_name():
    frames = np.zeros((2, 40, 30, 3), np.uint8)
    for name in NASTY:
        assert strip(frames, [(name, 0.3)], name).height > 150
        assert bars([(name, 0.5), (name * 40, 0.2)], 300).width == 300


def test_formulas_are_text_in_a_table():
    for cell in ("=1+1", "+1", "-1", "@x", "\uff1d1+1"):
        assert spreadsheet(cell) == f"'{cell}"
    assert [spreadsheet(cell) for cell in ("\tx", "\rx", "a\x1b[31m\x9b")] == ["'\\tx", "'\\rx", "a\\x1b[31m\\x9b"]
    assert spreadsheet("a;=1+1") == "a;'=1+1"
    for cell in ("", "x=1", "a;b", "data/-x.mp4", "'x"):
        assert spreadsheet(cell) == cell


def test_messages_are_one_line(capsys, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)
    console.set_up_messages()
    for name in NASTY:
        console.logging.getLogger("video_gn.x").warning("cannot read %s", name)

        def fails(name=name):
            raise InputError(f"no {name}")

        assert console.exit_code(fails, "") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 * len(NASTY) and all(line.isprintable() for line in lines)


@pytest.fixture
def nasty(tmp_path):
    """A checkpoint whose classes are named so, in a run's folder that is, too, with results of somebody."""
    names = [name for name in NASTY if console.is_text(name)][: len(NAMES)]
    path = tmp_path / "run <img src=x> `x` # [a](b)" / "checkpoints" / "last.ckpt"
    checkpoint(path, **SMALL)
    content = torch.load(path, weights_only=True)
    for key in ("hyper_parameters", "datamodule_hyper_parameters"):
        content[key]["class_names"] = names
    content["hyper_parameters"]["start"]["init"] = "`x` <b>\n# y"
    torch.save(content, path)
    test = {"protocol": NASTY[0], "views": NASTY[1], "top1": 0.5, "top5": 1, "videos": 3, "unreadable": 0,
            "checkpoint": NASTY[2], "date": "2026<b>\n# x"}  # fmt: skip
    run = {"clips_per_step": 8, "lr": 0.1, "device": NASTY[0], "data": {"root": NASTY[5], "train": NASTY[3]}}
    (path.parents[1] / "results.json").write_text(json.dumps({"run": run, "tests": [test]}))
    return path, names


def test_a_model_card_is_text(nasty, tmp_path):
    path, names = nasty
    text = formats.export(path, ["safetensors"], tmp_path / "out").read_text()
    outside = re.sub(r"`[^`\n]*`", "", text.replace(r"\`", ""))
    assert "<" not in outside and all(line.isprintable() for line in text.splitlines())
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert [line.strip("# ") for line in headings[1:]] == [
        "Files",
        "Input",
        "Classes",
        "Training",
        "Results",
        "Versions",
    ]
    assert headings[0].startswith("# run &lt;img src=x>") and not re.search(r"(?<!\\)\]\(", outside)
    for name in names:
        assert as_markdown(name) in text
    assert html.unescape(as_markdown(names[0])) == names[0]
    assert as_code("`x` <b>\n# y") in text


@pytest.mark.parametrize(
    "content", ["no JSON", "[]", "[" * 100_000, '{"tests": [{}]}', '{"run": {"data": 3}}', '{"fit": 7}', '{"run": []}']
)
def test_results_of_somebody_are_one_line(content, nasty, tmp_path, capsys):
    path, _ = nasty
    (path.parents[1] / "results.json").write_text(content)
    assert export([str(path), "--to", "safetensors", "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "is not what a run writes" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_predictions_with_such_names(nasty, motion_folder, tmp_path, capsys):
    """Through the command, with pictures."""
    path, names = nasty
    args = [str(path), str(motion_folder / "val/slow_up/0000.mp4"), "--protocol", "center-1clip", "--workers", "0"]
    assert predict([*args, "--pictures", str(tmp_path / "p"), "--cam", "--json", str(tmp_path / "a.jsonl")]) == 0
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.splitlines()) and len(out.splitlines()) == 7
    found = json.loads((tmp_path / "a.jsonl").read_text())
    assert {top["class"] for top in found["top"]} == set(names)


def test_outcomes_are_no_formulas(tmp_path):
    """The table of a test, which people open in spreadsheets."""
    from video_gn.train.outcomes import OUTCOMES, VideoScores

    scores = np.array([[0.25, 0.75]], np.float32)
    tested = VideoScores(["+a.mp4"], np.array([0]), ["=1+1", "-b"], [(np.array([0]), scores), None], {})
    tested.write(tmp_path / "test-0.csv")
    with open(tmp_path / "test-0.csv", newline="") as file:
        assert list(csv.reader(file)) == [list(OUTCOMES), ["'+a.mp4", "'=1+1", "'-b", "2", "0.75", "0.25"]]
    assert card.LOAD


def test_what_is_shown_of_a_value_is_bounded():
    many: object = ["a"]
    for _ in range(60):  # 2 ** 60 of them, in 60 lists
        many = [many] * 2
    assert len(shown(many)) < 200 and len(shown("x" * 10**6)) < 200


def test_messages_have_an_end():
    hostile = "Does not validate " + "Subtypes: " * 3000 + " Errors: " * 3000
    began = time.monotonic()
    assert len(one_line(hostile, [])) < 2500 and time.monotonic() - began < 2
    assert one_line("the name k\nTraceback\nall good", []) == "the name k Traceback all good"


def test_a_long_name_in_a_picture_takes_no_time():
    began = time.monotonic()
    bars([("\U000e0001" * 1000, 0.2)] * 5, 356)
    assert time.monotonic() - began < 10
