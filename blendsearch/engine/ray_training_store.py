"""The training store of a run, reached from workers on any node through an actor beside the searching process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blendsearch.events import FineTuned
from blendsearch.training.training_store import FolderStore, NoStore, TrainingStore


class StoreActor:
    """Holds the store of a run on the node of the searching process. Until it is attached, nothing is stored."""

    def __init__(self) -> None:
        self._store: TrainingStore = NoStore()
        self._shared: dict[str, Any] = {}
        self._progress: dict[str, FineTuned] = {}

    def attach(self, folder: str) -> None:
        """Keep entries in `folder` from now on."""
        self._store = FolderStore(Path(folder))

    def load(self, key: str) -> bytes | None:
        return self._store.load(key)

    def share(self, key: str) -> list[Any]:
        """Return a list of one reference to the content of an entry as an array, or an empty one.

        Every node then has one copy in shared memory.
        """
        import ray

        if key not in self._shared:
            content = self._store.map(key)
            if content is None:
                return []
            self._shared[key] = ray.put(np.array(content))
        return [self._shared[key]]

    def save(self, key: str, content: bytes) -> None:
        self._shared.pop(key, None)
        self._store.save(key, content)

    def delete(self, key: str) -> None:
        self._shared.pop(key, None)
        self._store.delete(key)

    def receive_progress(self, progress: FineTuned) -> None:
        self._progress[progress.key] = progress

    def take_progress(self) -> list[FineTuned]:
        """Return the last report of every training since the last call."""
        reports, self._progress = list(self._progress.values()), {}
        return reports

    def get_folder(self, key: str) -> str | None:
        """Return the folder of a user-defined training's files; None where nothing is stored."""
        if not isinstance(self._store, FolderStore):
            return None
        return str(self._store.get_folder(key))


class RayStore(NoStore):
    """The store as workers see it; picklable."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def load(self, key: str) -> bytes | None:
        found: bytes | None = self._call("load", key)
        return found

    def map(self, key: str) -> NDArray[np.uint8] | None:
        import ray

        references = self._call("share", key)
        return ray.get(references[0]) if references else None

    def save(self, key: str, content: bytes) -> None:
        self._call("save", key, content)

    def delete(self, key: str) -> None:
        self._call("delete", key)

    @contextmanager
    def open_folder(self, key: str) -> Iterator[Path]:
        """Open a folder of the run where this node has it, else a temporary one."""
        folder = self._call("get_folder", key)
        store = FolderStore(Path(folder).parent) if folder and Path(folder).parent.parent.is_dir() else NoStore()
        with store.open_folder(key) as opened:
            yield opened

    def report(self, progress: FineTuned) -> None:
        self._actor.receive_progress.remote(progress)

    def _call(self, method: str, *arguments: Any) -> Any:
        import ray

        return ray.get(getattr(self._actor, method).remote(*arguments))


def start_store_actor(ray: Any) -> Any:
    """Start a store actor on the node of this process; it occupies no CPU."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(StoreActor).options(num_cpus=0, max_restarts=0, scheduling_strategy=here).remote()
