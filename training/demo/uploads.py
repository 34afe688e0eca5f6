"""The page's own folder: what users upload and what the models paint, for a while, and no other file of the machine."""

import os
import threading
import time
from pathlib import Path

KEEP = 60 * 60  # seconds that a file stays after its last use
ROOM = 2 * 2**30  # bytes that all uploads and results may take


class UploadFolder:
    """Files that are there at the beginning are the page's examples, and stay."""

    def __init__(self, path: str | Path, keep: float = KEEP, room: int = ROOM):
        self.path, self.keep, self.room = os.path.realpath(path), keep, room
        self.examples = set(self._files())

    def find(self, path: object) -> str | None:
        """The regular file inside the folder at this path, which may come from anybody, after resolving links. Of what
        lies elsewhere nothing is touched, and so nothing told: neither whether it is there, nor how long a look takes.
        """
        if not isinstance(path, str) or "\0" in path or not self._is_inside(os.path.normpath(path)):
            return None
        try:
            found = os.path.realpath(path, strict=True)
        except (OSError, UnicodeEncodeError):  # not there, too long a name, or none
            return None
        if not (self._is_inside(found) and os.path.isfile(found)):
            return None
        os.utime(found)
        return found

    def has_room_for(self, size: int) -> bool:
        return size + sum(status.st_size for status in self._files().values()) <= self.room

    def clear(self) -> None:
        """Deletes what nobody has used for a while, also what an interrupted upload has left."""
        for path, status in self._files().items():
            if path not in self.examples and time.time() - status.st_mtime > self.keep:
                Path(path).unlink(missing_ok=True)

    def clear_regularly(self) -> None:
        """From now on, in the background."""

        def run():
            while True:
                time.sleep(min(self.keep, 60))
                self.clear()

        threading.Thread(target=run, name="clears uploads", daemon=True).start()

    def _is_inside(self, path: str) -> bool:
        return path.startswith(self.path + os.sep)

    def _files(self) -> dict[str, os.stat_result]:
        """All paths with what the system says of them; a file may go while it is looked at."""
        found = {}
        for folder, _, names in os.walk(self.path):
            for path in (os.path.join(folder, name) for name in names):
                try:
                    found[path] = os.lstat(path)
                except FileNotFoundError:
                    pass
        return found
