"""Storage of a training in progress: its checkpoints, the teacher's outputs, and its progress.

A run keeps both below its directory. Workers on other nodes reach it through the engine.
"""

import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from blendsearch.events import FineTuned, Reporter, ignore_event

DIGEST_BYTES = 32


class TrainingStore(Protocol):
    """Reads and writes named bytes, and receives progress."""

    def load(self, key: str) -> bytes | None:
        """Return what was stored under `key`, or None; a damaged entry counts as none."""

    def map(self, key: str) -> NDArray[np.uint8] | None:
        """Return what `load` returns as a read-only array that processes of one machine share."""

    def save(self, key: str, content: bytes) -> None:
        """Store `content` under `key`, whole or not at all."""

    def delete(self, key: str) -> None:
        """Remove an entry if there is one."""

    def open_folder(self, key: str) -> AbstractContextManager[Path]:
        """Open a folder for the files of a user-defined training; it is removed when the context ends without error.

        The same key gives the same folder after an interruption, where the store is on this machine.
        """

    def report(self, progress: FineTuned) -> None:
        """Receive the progress of a training."""


class NoStore:
    """Keeps nothing: a training that is interrupted starts again."""

    def load(self, key: str) -> bytes | None:
        return None

    def map(self, key: str) -> NDArray[np.uint8] | None:
        return None

    def save(self, key: str, content: bytes) -> None:
        """Nothing is stored."""

    def delete(self, key: str) -> None:
        """Nothing is stored."""

    @contextmanager
    def open_folder(self, key: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="blendsearch-training-") as folder:
            yield Path(folder)

    def report(self, progress: FineTuned) -> None:
        """Nothing is reported."""


NO_STORE = NoStore()


class FolderStore(NoStore):
    """Files in one folder, made when the first entry is stored; each begins with the SHA-256 of the rest."""

    def __init__(self, folder: Path, receive: Reporter = ignore_event) -> None:
        self.folder, self._receive = folder, receive

    def load(self, key: str) -> bytes | None:
        path = self._get_path(key)
        if not path.is_file():  # opening a pipe would wait for a writer
            return None
        try:
            stored = path.read_bytes()
        except OSError:
            return None
        digest, content = stored[:DIGEST_BYTES], stored[DIGEST_BYTES:]
        return content if hashlib.sha256(content).digest() == digest else None

    def map(self, key: str) -> NDArray[np.uint8] | None:
        path = self._get_path(key)
        if not path.is_file() or path.stat().st_size <= DIGEST_BYTES:
            return None
        whole = np.memmap(path, dtype=np.uint8, mode="r")
        content = whole[DIGEST_BYTES:]
        return content if hashlib.sha256(content.data).digest() == whole[:DIGEST_BYTES].tobytes() else None

    def save(self, key: str, content: bytes) -> None:
        """Store `content`; on a full disk, warn instead: a training must not fail because it cannot be continued."""
        path = self._get_path(key)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with draft.open("xb") as file:
                file.write(hashlib.sha256(content).digest() + content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            warnings.warn(
                f"{path} could not be written ({error.strerror}): an interrupted training starts from an earlier state",
                stacklevel=2,
            )
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def delete(self, key: str) -> None:
        with suppress(OSError):
            self._get_path(key).unlink(missing_ok=True)
        with suppress(OSError):  # others remain in it
            self.folder.rmdir()

    @contextmanager
    def open_folder(self, key: str) -> Iterator[Path]:
        folder = self.get_folder(key)
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)

    def get_folder(self, key: str) -> Path:
        """Return the folder that `open_folder` makes."""
        return self._get_path(key).with_suffix(".files")

    def report(self, progress: FineTuned) -> None:
        self._receive(progress)

    def _get_path(self, key: str) -> Path:
        if not key.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"{key!r} is no name of an entry: expected letters, digits, - and _")
        return self.folder / f"{key}.bin"
