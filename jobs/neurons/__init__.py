"""`submit neurons`: the tokens that neurons of the first MLP read through a group of heads, as a bag of them."""

from qkatlas.jobs.loop.declaration import Declaration
from qkatlas.jobs.neurons.spec import Neurons

JOB = Declaration(
    name="neurons",
    summary="What each neuron of the first MLP reads in a bag of tokens, how good that picture is, and its latents.",
    spec=Neurons,
    example="submit neurons --model planted-small --group L0H0,L0H2,L0H3",
    package=__name__,
    job="job:NeuronsJob",
    plan="plan:plan_neurons",
    sections="sections:SECTIONS",
    uses_gpus=False,
)
