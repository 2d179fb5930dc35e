"""`submit ablation`: what every head's behaviour rests on."""

from qkatlas.jobs.ablation.spec import Ablation
from qkatlas.jobs.loop.declaration import Declaration

JOB = Declaration(
    name="ablation",
    summary="Ablate every component and every head, and measure the heads above: what does a behaviour rest on?",
    spec=Ablation,
    package=__name__,
    example="submit ablation --model planted-small --in-process",
    job="job:AblationJob",
    sections="sections:SECTIONS",
)
