"""A prefix of an object store, used as a folder: a bucket with logs, a lease, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, suppress

from qkatlas.outputs.places import lease
from qkatlas.outputs.places.bucket import Bucket
from qkatlas.outputs.places.object_log import ObjectLog


class ObjectFolder(Bucket):
    """A prefix of a bucket as a folder; see `Folder`."""

    def clear_leftovers(self, own: Collection[str] = ()) -> list[str]:
        """Nothing: an upload that broke off is no object, and no object stands in another's way."""
        return []

    def discard(self, path: str) -> None:
        """Remove all below a path; the folder itself where nothing else is in it."""
        with suppress(OSError):
            everything = all(found.startswith(f"{path}/") for found in self.listed(""))
            self.filesystem.delete_dir(self.path if everything else f"{self.path}/{path}")

    def log(self, path: str) -> ObjectLog:
        """Objects below that path without its suffix, as a log."""
        return ObjectLog(self, path)

    def exclusive(self, path: str) -> AbstractContextManager[Callable[[bool], None]]:
        """Hold a lease; see `lease`."""
        return lease.hold(self, f"{path}/drivers")

    def is_driven(self, path: str) -> bool:
        """Whether a driver's lease is fresh, by this machine's clock."""
        return lease.is_held(self, f"{path}/drivers")
