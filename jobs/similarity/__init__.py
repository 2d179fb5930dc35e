"""`submit similarity`: score minus self score against cosine similarity."""

from qkatlas.jobs.loop.declaration import Declaration
from qkatlas.jobs.similarity.spec import Similarity

JOB = Declaration(
    name="similarity",
    summary="Score minus self score against cosine similarity, over all pairs of tokens.",
    spec=Similarity,
    package=__name__,
    example="submit similarity --model smollm2 --head L1H7",
    job="job:SimilarityJob",
    sections="sections:SECTIONS",
)
