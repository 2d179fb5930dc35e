"""`submit communities`: the communities of one head's tokens."""

from qkatlas.jobs.communities.spec import Communities
from qkatlas.jobs.loop.declaration import Declaration

JOB = Declaration(
    name="communities",
    summary="Find the communities of a finished full-vocab RUN: graph of nearest keys, Leiden, map.",
    spec=Communities,
    package=__name__,
    example="submit communities full-vocab-latest --neighbours 10",
    job="job:CommunitiesJob",
    sections="sections:SECTIONS",
    opens_model=False,
    uses_gpus=False,
)
