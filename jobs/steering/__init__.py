"""`submit steering`: one head with scaled eigenvalues or singular values, or moved along a gradient."""

from qkatlas.jobs.loop.declaration import Declaration
from qkatlas.jobs.steering.spec import Steering

JOB = Declaration(
    name="steering",
    summary="Steer one head: scale its negative eigenvalues or singular values, or follow the gradient of its self "
    "score.",
    spec=Steering,
    package=__name__,
    example="submit steering --model planted-small --head L1H5",
    job="job:SteeringJob",
    sections="sections:SECTIONS",
)
