"""`submit positions`: where each head looks whatever is there, and how far that picture holds."""

from qkatlas.jobs.loop.declaration import Declaration
from qkatlas.jobs.positions.spec import Positions

JOB = Declaration(
    name="positions",
    summary="Where each head looks whatever is there: its positional kernel, and its error against real attention.",
    spec=Positions,
    example="submit positions --model planted-small --layers 0-1",
    package=__name__,
    job="job:PositionsJob",
    plan="plan:plan_positions",
    sections="sections:SECTIONS",
)
