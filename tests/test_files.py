from video_gn.files import Journal


def test_a_journal_goes_on_behind_its_last_whole_line(tmp_path):
    with Journal(tmp_path / "t.csv", ("path", "why")) as journal:
        assert journal.rows == []
        journal.add({"path": "a", "why": "no, not ok"})
    with open(journal.path, "a") as file:
        file.write("b,cut in the mid")
    with Journal(tmp_path / "t.csv", ("path", "why")) as journal:
        assert journal.rows == [{"path": "a", "why": "no, not ok"}]
        journal.add({"path": "c", "why": ""})
    assert [row["path"] for row in Journal(tmp_path / "t.csv", ("path", "why")).rows] == ["a", "c"]
    journal = Journal(tmp_path / "t.csv", ("path", "other"))  # of another version
    assert journal.rows == []
    journal.remove()
    assert not list(tmp_path.iterdir())
