"""The folder into which the demo writes: of an earlier run nothing stays, of anybody else everything."""

import json
from pathlib import Path

LIST = ".written_by_demo.json"  # the names of the files of the last run


class OutputFolder:
    """Made where it is missing; what an earlier run has written there is deleted at once."""

    def __init__(self, path: Path):
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.names = path, []
        if (path / LIST).is_file():
            for name in self._earlier_names():
                (path / name).unlink(missing_ok=True)

    def file(self, name: str) -> Path:
        """Where to write a file of this name. It is listed before it is written: a run may be interrupted."""
        self.names.append(name)
        (self.path / LIST).write_text(json.dumps(self.names), encoding="utf-8")
        return self.path / name

    def _earlier_names(self) -> list[str]:
        try:
            names = json.loads((self.path / LIST).read_text(encoding="utf-8"))
        except ValueError:
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ValueError(
                f"{str(self.path / LIST)!r} is not of the demo: delete it, or choose another output folder."
            )
        return names
