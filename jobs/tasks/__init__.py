"""`submit tasks`: which head does which job, measured against a matched control."""

from qkatlas.jobs.loop.declaration import Declaration
from qkatlas.jobs.tasks.spec import Tasks

JOB = Declaration(
    name="tasks",
    summary="Measure which tasks rest on which heads, each prompt beside a matched control.",
    spec=Tasks,
    package=__name__,
    example="submit tasks --model planted-small --tasks induction,succession-days",
    job="job:TasksJob",
    plan="plan:plan_tasks",
    sections="sections:SECTIONS",
)
