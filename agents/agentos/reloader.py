"""The reloader of development: it starts the service anew when a source file is saved."""

from pathlib import Path

from uvicorn.supervisors.statreload import StatReload


class Reloader(StatReload):
    """uvicorn's reloader by modification times, without the quarter second in which it is blind.

    By modification times, not inotify: a source mounted into a container from macOS or Windows
    sends no inotify events. uvicorn's own notes the times only some time after it has started the
    service, and so misses a save in between, such as that of an editor that formats on save.
    """

    def startup(self) -> None:
        """Note the times, then start the service."""
        self.mtimes = self._modification_times()
        super().startup()

    def restart(self) -> None:
        """Note the times, then start the service anew."""
        noted = self._modification_times()
        super().restart()  # which forgets what was noted before
        self.mtimes = noted

    def _modification_times(self) -> dict[Path, float]:
        return {path: path.stat().st_mtime for path in self.iter_py_files() if path.exists()}
