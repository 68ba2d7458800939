"""Hashes of files, kept in the process."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from floodmap._runtime import hashes
from floodmap._runtime.hashes import hash_of


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Counts how often a file is read as a whole."""
    counted = Mock(side_effect=hashlib.file_digest)
    monkeypatch.setattr(hashes.hashlib, "file_digest", counted)
    return counted


def test_a_settled_file_is_read_once_and_a_changed_one_again(
    tmp_path: Path, read: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes, "SETTLED_NS", 0)
    (path := tmp_path / "file").write_bytes(b"one")
    first = hash_of(path, whole=True)
    assert hash_of(path, whole=True) == first == hashlib.sha256(b"one").digest() and read.call_count == 1
    old = path.stat()
    path.write_bytes(b"two")  # of the same size
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    assert hash_of(path, whole=True) == hashlib.sha256(b"two").digest() and read.call_count == 2


def test_a_file_that_has_just_changed_is_read_each_time(tmp_path: Path, read: Mock) -> None:
    (path := tmp_path / "file").write_bytes(b"one")
    assert hash_of(path, whole=True) == hash_of(path, whole=True) and read.call_count == 2


def test_of_a_large_file_only_pieces_are_hashed_unless_all_is_wanted(tmp_path: Path, read: Mock) -> None:
    (path := tmp_path / "file").write_bytes(bytes(2**21))
    assert hash_of(path, whole=False) != hash_of(path, whole=True) and read.call_count == 1
