"""`submit full-vocab`: one head over the whole vocabulary."""

from qkatlas.jobs.full_vocab.spec import FullVocab
from qkatlas.jobs.loop.declaration import Declaration

JOB = Declaration(
    name="full-vocab",
    summary="Score every token against every token through one head: top-k keys and self statistics.",
    spec=FullVocab,
    package=__name__,
    example="submit full-vocab --model smollm2 --head L1H7 --top-k 32",
    job="job:FullVocabJob",
    plan="plan:plan_full_vocab",
    sections="sections:SECTIONS",
)
