"""`submit features`: what sparse autoencoders say a head does."""

from qkatlas.jobs.features.spec import Features
from qkatlas.jobs.loop.declaration import Declaration

JOB = Declaration(
    name="features",
    summary="What the features of sparse autoencoders say each head does: owners, sources, logits, QK attribution.",
    spec=Features,
    example="submit features --model planted-small --layers 1",
    package=__name__,
    job="job:FeaturesJob",
    plan="plan:plan_features",
    sections="sections:SECTIONS",
    uses_gpus=False,
)
