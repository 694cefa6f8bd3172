"""Which of the processes of `make test` runs which file next, so that little is made twice and both end together."""

from typing import Any

from xdist.scheduler import LoadScopeScheduling

SECONDS = {
    "tests/contract/test_bad_input.py": 25,
    "tests/contract/test_conditioned_clients.py": 70,
    "tests/contract/test_diffusion.py": 8,
    "tests/contract/test_engines.py": 60,
    "tests/contract/test_fetching_models.py": 18,
    "tests/contract/test_fuzz.py": 20,
    "tests/contract/test_media_files.py": 30,
    "tests/contract/test_missing_parts.py": 25,
    "tests/contract/test_processes.py": 30,
    "tests/contract/test_rest.py": 15,
    "tests/contract/test_sessions.py": 55,
    "tests/contract/test_updates_while_diffusing.py": 40,
    "tests/builder/test_command.py": 18,
    "tests/builder/test_workflow.py": 30,
    "tests/diffusion/hopper/test_kernels.py": 45,
    "tests/diffusion/test_conditioning.py": 20,
    "tests/diffusion/test_conditioning_memory.py": 45,
    "tests/diffusion/test_frame.py": 24,
    "tests/diffusion/test_prepared.py": 20,
    "tests/diffusion/test_process.py": 25,
    "tests/diffusion/test_room.py": 18,
    "tests/diffusion/test_runners.py": 23,
    "tests/diffusion/test_upstream.py": 38,
    "tests/engines/test_bake.py": 12,
    "tests/engines/test_compiled.py": 65,
    "tests/engines/test_export.py": 140,
    "tests/engines/test_processors.py": 45,
    "tests/jobs/test_gateway.py": 110,
    "tests/jobs/test_handler.py": 20,
    "tests/jobs/test_outage.py": 20,
    "tests/jobs/test_worker.py": 20,
    "tests/playground/test_conditioning.py": 62,
    "tests/playground/test_missing.py": 60,
    "tests/playground/test_page.py": 27,
    "tests/playground/test_pictures.py": 55,
    "tests/playground/test_streaming.py": 60,
    "tests/playground/test_without_webrtc.py": 40,
    "tests/pod/test_no_udp.py": 20,
    "tests/project/test_models.py": 36,
    "tests/project/test_render.py": 80,
    "tests/project/test_serve.py": 25,
    "tests/worker/test_engine_build.py": 77,
    "tests/worker/test_engine_conditions.py": 78,
    "tests/worker/test_poison.py": 54,
    "tests/worker/test_process.py": 20,
}
"""What the longest files take, about. Wrong figures here cost time and nothing else."""
ALONE_SECONDS = {
    "tests/browser/test_daydream_browser.py": 12,
    "tests/browser/test_hls.py": 16,
    "tests/browser/test_lips.py": 16,
    "tests/contract/test_cold_worker.py": 10,
    "tests/contract/test_diffusion.py": 105,
    "tests/contract/test_fuzz.py": 8,
    "tests/contract/test_hot_and_cold.py": 6,
    "tests/contract/test_media_files.py": 13,
    "tests/contract/test_processes.py": 27,
    "tests/contract/test_sessions.py": 7,
    "tests/contract/test_update.py": 14,
    "tests/jobs/test_gateway.py": 22,
    "tests/jobs/test_two_workers.py": 17,
    "tests/media/test_hls.py": 12,
    "tests/media/test_loss.py": 7,
    "tests/media/test_push.py": 15,
    "tests/media/test_recording.py": 5,
    "tests/media/test_round_trip.py": 11,
    "tests/media/test_sound.py": 14,
    "tests/pod/test_no_udp.py": 9,
    "tests/worker/test_process.py": 8,
}
"""The same of the tests marked `alone`, which mostly wait: those of `contract` use a core, and beside them run those of
`media`, which hardly need one."""


class Schedule(LoadScopeScheduling):
    """A file is run whole by one process, with the fixtures of its module and of its folder.

    A process stays in its folder while there are files in it, then begins a folder that nobody has begun, and helps
    another one only at the end: what a session makes once for a folder's tests is so rarely made by both. Of several
    the longest goes first, so that no process is left with a long file when the other is done.
    """

    def __init__(self, config: Any, log: Any) -> None:
        super().__init__(config, log)
        self._folders: dict[str, Any] = {}
        self._seconds = ALONE_SECONDS if config.getoption("markexpr") == "alone" else SECONDS

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.split("::", 1)[0]

    def _assign_work_unit(self, node: Any) -> None:
        lengths = {file: self._seconds.get(file, len(tests) / 20) for file, tests in self.workqueue.items()}
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


__all__ = ["ALONE_SECONDS", "SECONDS", "Schedule"]
