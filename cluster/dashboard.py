"""A cluster's dashboard: the Jobs API, with Ray's errors named and its answers as our own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from qkatlas.cluster.ray_cluster import AuthenticationError, jobs_client
from qkatlas.cluster.remote_job import COMMAND, JobState, LostDashboardError, UnknownJobError
from qkatlas.cluster.starting import first_line


class Dashboard:
    """A cluster's Jobs API: a `qkatlas.cluster.remote_job.JobsApi` that also takes and stops jobs.

    Args:
        address: `http://` or `https://` URL of the head's dashboard.

    Raises:
        ValueError: if no dashboard answers there, or it does not let us in.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        try:
            with self._answers():
                self._client = jobs_client(address)
        except (LostDashboardError, KeyError, TypeError) as error:
            reason = first_line(error.__cause__ or error).partition(". ")[0].rstrip(".")
            raise ValueError(
                f"no Ray dashboard answers at --address {address} ({reason}); "
                "give the URL of the head's dashboard, such as http://localhost:8265 through "
                "'ssh -L 8265:localhost:8265 HEAD'"
            ) from error

    def submit(self, job_id: str, entrypoint: str, folder: Path, metadata: Mapping[str, str]) -> None:
        """Send a folder, and run a shell command in it.

        Raises:
            LostDashboardError: if the cluster does not take the job, or cannot be asked any more.
        """
        with self._answers():
            self._client.submit_job(
                submission_id=job_id,
                entrypoint=entrypoint,
                runtime_env={"working_dir": str(folder)},
                metadata=dict(metadata),
            )

    def state(self, job_id: str) -> JobState:
        """Where a job stands.

        Raises:
            UnknownJobError: if there is none of this id.
        """
        with self._answers(job_id):
            if not re.fullmatch(r"[\w.-]*[\w-]", job_id):  # it becomes a part of a URL
                raise UnknownJobError(f"{job_id!r} is no id of a job; list these with: submit jobs")
            return _job_state(self._client.get_job_info(job_id))

    def states(self) -> list[JobState]:
        """Where every job stands that was submitted through the API."""
        with self._answers():
            return [_job_state(details) for details in self._client.list_jobs() if details.submission_id]

    def log(self, job_id: str) -> str:
        """All of a job's log."""
        with self._answers():
            return str(self._client.get_job_logs(job_id))

    def tail(self, job_id: str, pause: float) -> Generator[str]:
        """A job's log from its beginning, as it comes; an empty text after `pause` seconds without any."""
        with self._answers(), closing(asyncio.new_event_loop()) as loop:
            pieces: Any = self._client.tail_job_logs(job_id)
            coming: asyncio.Future[str] | None = None
            try:
                while True:
                    coming = coming or asyncio.ensure_future(anext(pieces), loop=loop)
                    arrived, _ = loop.run_until_complete(asyncio.wait([coming], timeout=pause))
                    if not arrived:
                        yield ""
                        continue
                    try:
                        piece = coming.result()
                    except StopAsyncIteration:
                        return
                    coming = None
                    yield piece
            finally:
                if coming is not None:
                    coming.cancel()
                    loop.run_until_complete(asyncio.wait([coming]))
                loop.run_until_complete(pieces.aclose())

    def stop(self, job_id: str) -> None:
        """Ask a job to stop; it takes some seconds.

        Raises:
            UnknownJobError: if there is none of this id.
        """
        with self._answers(job_id):
            self._client.stop_job(job_id)

    @contextmanager
    def _answers(self, job_id: str = "") -> Iterator[None]:
        """Give Ray's errors names, and what a user can do about them."""
        import aiohttp

        try:
            yield
        except AuthenticationError as error:
            answer = first_line(error).partition(":")[0]
            known = {"Authentication required": "none was sent", "Authentication failed": "it is not the one sent"}
            raise ValueError(
                f"the dashboard at {self._address} asks for the cluster's token ({known.get(answer, 'none is here')}); "
                "set RAY_AUTH_MODE=token, and put the token into RAY_AUTH_TOKEN or ~/.ray/auth_token"
            ) from error
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            if job_id and "status code 404" in str(error):
                raise UnknownJobError(
                    f"the cluster at {self._address} knows no job {job_id}; list its jobs with: submit jobs --all"
                ) from error
            raise LostDashboardError(
                f"the dashboard at {self._address} does not answer as it should ({first_line(error)}); look at the "
                "head, or try again"
            ) from error


def _job_state(details: Any) -> JobState:
    """Ray's description of a job as our own."""
    return JobState(
        job_id=details.submission_id or details.job_id,
        status=str(details.status.value),
        entrypoint=details.entrypoint,
        command=(details.metadata or {}).get(COMMAND),
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
        exit_code=details.driver_exit_code,
        message=details.message or "",
    )
