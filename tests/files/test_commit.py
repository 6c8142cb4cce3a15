"""Which commit of the source code a figure belongs to."""

import subprocess

from video_gn.files.commit import source_commit


def git(folder, *words):
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", "-C", folder, *who, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_clones_commit_and_whether_it_was_changed(tmp_path):
    package = tmp_path / "clone" / "video_gn"
    package.mkdir(parents=True)
    assert source_commit(package) is None
    file = package / "a.py"
    file.write_text("1")
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-qm", "first")
    git(package.parent, "tag", "-am", "of a release", "v1")
    source_commit.cache_clear()
    assert source_commit(package) == git(package.parent, "rev-parse", "HEAD")[:12]
    file.write_text("2")
    source_commit.cache_clear()
    assert source_commit(package) == git(package.parent, "rev-parse", "HEAD")[:12] + "-dirty"


def test_no_commit_of_the_project_that_the_package_is_installed_in(tmp_path):
    package = tmp_path / "lib" / "video_gn"
    package.mkdir(parents=True)
    git(tmp_path, "init", "-q")
    assert source_commit(package) is None
