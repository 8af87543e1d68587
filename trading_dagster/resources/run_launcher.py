"""The run launcher as the webserver has it, which must not reach the Docker engine.

Belongs here: what the webserver does in the launcher's place. Runs are started by the daemon, with
`dagster_docker.DockerRunLauncher` itself, and their containers are stopped by the housekeeper (`housekeeping`).
"""

from dagster import DagsterRun
from dagster._core.launcher import LaunchRunContext
from dagster_docker import DockerRunLauncher


class WebserverRunLauncher(DockerRunLauncher):
    """Records that a run is to end, and leaves its container to the housekeeper."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Refuse: a run is queued, and the daemon launches it.

        Raises
        ------
        RuntimeError
        """
        raise RuntimeError(
            f"the webserver starts no containers, and was asked to start the run {context.dagster_run.run_id}; runs "
            "are queued for the daemon: leave QueuedRunCoordinator in its dagster.yaml"
        )

    def terminate(self, run_id: str) -> bool:
        """Mark a run as being cancelled; the housekeeper stops its container within seconds.

        Returns
        -------
        bool
            False for a run that is unknown or has ended.
        """
        run: DagsterRun | None = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run, "The housekeeper will stop the run's container.")
        return True
