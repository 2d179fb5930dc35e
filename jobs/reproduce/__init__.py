"""`submit reproduce`: the published figures of GPT-2 small's L1H5 beside what a model shows."""

from qkatlas.jobs.loop.declaration import Declaration
from qkatlas.jobs.reproduce.spec import Reproduce

JOB = Declaration(
    name="reproduce",
    summary="Compare a model with the published figures of GPT-2 small's L1H5: one row and verdict for each.",
    spec=Reproduce,
    package=__name__,
    example="submit reproduce --model gpt2",
    job="job:ReproduceJob",
    sections="sections:SECTIONS",
)
