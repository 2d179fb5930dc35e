"""`submit head-scan`: every head over the whole vocabulary, and on prompts."""

from qkatlas.jobs.head_scan.spec import HeadScan
from qkatlas.jobs.loop.declaration import Declaration

JOB = Declaration(
    name="head-scan",
    summary="Scan every head: self statistics, kin and spectrum over the whole vocabulary, and behaviour on prompts.",
    spec=HeadScan,
    package=__name__,
    example="submit head-scan --model planted-small --layers 0-1",
    job="job:HeadScanJob",
    plan="plan:plan_head_scan",
    sections="sections:SECTIONS",
)
