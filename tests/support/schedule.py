"""Which of the processes of `make test` runs which file next, so that little is made twice and both end together."""

from typing import Any

from xdist.scheduler import LoadScopeScheduling

SECONDS = {
    "tests/contract/test_diffusion.py": 40,
    "tests/contract/test_fetching_models.py": 20,
    "tests/contract/test_fuzz.py": 30,
    "tests/contract/test_updates_while_diffusing.py": 40,
    "tests/diffusion/test_upstream.py": 20,
    "tests/engines/test_compiled.py": 60,
    "tests/jobs/test_gateway.py": 60,
    "tests/jobs/test_render.py": 25,
    "tests/jobs/test_two_workers.py": 40,
    "tests/project/test_render.py": 40,
    "tests/project/test_serve.py": 40,
    "tests/worker/test_process.py": 60,
}
"""What the longest files take, about. Wrong figures here cost time and nothing else."""


class Schedule(LoadScopeScheduling):
    """A file is run whole by one process, with the fixtures of its module and of its folder.

    A process stays in its folder while there are files in it, then begins a folder that nobody has begun, and helps
    another one only at the end: what a session makes once for a folder's tests is so rarely made by both. Of several
    the longest goes first, so that no process is left with a long file when the other is done.
    """

    def __init__(self, config: Any, log: Any) -> None:
        super().__init__(config, log)
        self._folders: dict[str, Any] = {}

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.split("::", 1)[0]

    def _assign_work_unit(self, node: Any) -> None:
        lengths = {file: SECONDS.get(file, 0) + len(tests) / 20 for file, tests in self.workqueue.items()}
        folders: dict[str, float] = {}
        for file, seconds in lengths.items():
            folders[_folder(file)] = folders.get(_folder(file), 0.0) + seconds

        def rank(file: str) -> tuple[bool, bool, float, float]:
            owner = self._folders.get(_folder(file))
            return owner is node, owner is None, folders[_folder(file)], lengths[file]

        best = max(self.workqueue, key=rank)
        self._folders.setdefault(_folder(best), node)
        self.workqueue.move_to_end(best, last=False)
        super()._assign_work_unit(node)


def _folder(file: str) -> str:
    return file.rsplit("/", 1)[0]


__all__ = ["SECONDS", "Schedule"]
