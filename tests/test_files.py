import os
import stat
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import zeros

from detkit.files import as_url, remove_leftovers, write_atomically, write_text


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_have_the_permissions_of_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "text", "a")
        write_atomically(tmp_path / "weights", lambda path: save_file({"a": zeros(1)}, path))
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {mode}


def test_long_names(tmp_path):
    write_text(tmp_path / ("ä" * 127), "a")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["a"]


def test_leftovers_of_dead_processes_are_removed_alone(tmp_path):
    dead = os.fork()
    if dead == 0:
        os.kill(os.getpid(), 9)
    os.waitpid(dead, 0)
    names = [f".a.{dead}.tmp", f".a.{os.getpid()}.tmp", f".a.{os.getppid()}.tmp", ".a.9@elsewhere.tmp", ".a.tmp", "b"]
    for name in names:
        (tmp_path / name).touch()
    write_text(tmp_path / "b", "the first file that is written removes them")
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])
    for name in (names[1], names[3]):
        os.utime(tmp_path / name, (0, 0))
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {names[2], ".a.tmp", "b"}


def test_what_cannot_be_written_is_named_as_the_user_did(tmp_path):
    with pytest.raises(OSError, match=r"No such file or directory: '[^']*/absent/a\.txt'"):
        write_text(tmp_path / "absent" / "a.txt", "text")
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OSError, match=r"Is a directory: '[^']*/a\.txt'"):
        write_text(tmp_path / "a.txt", "text")


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("https://host/a.jpg", "https://host/a.jpg"),
        (Path("https://host/a.jpg"), "https://host/a.jpg"),
        (Path("s3://bucket/b"), "s3://bucket/b"),
        ("file:///a.jpg", "file:///a.jpg"),
        ("a/b:/c.jpg", None),
        ("C:/photos", None),
        ("photos/12:30.jpg", None),
    ],
)
def test_urls_are_known_also_as_paths(path, url):
    assert as_url(path) == url
