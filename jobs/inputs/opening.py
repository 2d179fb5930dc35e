"""Jobs that are about a model: how it is opened."""

from __future__ import annotations

from typing import ClassVar, Generic, Self, TypeVar

from qkatlas.jobs.inputs.model import Model
from qkatlas.jobs.inputs.resolve import resolve
from qkatlas.jobs.loop.job import Host, Job
from qkatlas.pipeline.models.families import FAMILIES

Spec = TypeVar("Spec")


class ModelJob(Job[Spec], Generic[Spec]):
    """A job about one model.

    Args:
        spec: what is asked for.
        model: the model.

    Raises:
        ValueError: if the request does not fit the model.
    """

    families: ClassVar[tuple[str, ...]] = tuple(FAMILIES)
    """Families of models that it computes exactly; a job that does not compute all of them says which."""

    def __init__(self, spec: Spec, model: Model) -> None:
        family = model.checkpoint.architecture.family
        if family not in self.families:
            raise ValueError(
                f"submit {self.name} does not compute models of the family {family} (--model {model.name}), only of "
                f"{', '.join(self.families)}; submit full-vocab does"
            )
        self.spec = spec
        self._model = model

    @property
    def model(self) -> Model:
        """The model."""
        return self._model

    @classmethod
    def open(cls, spec: Spec, host: Host) -> Self:
        """Open the model that `--model` names, and fit the request to it.

        Raises:
            ValueError: if there is no such model, it is not supported, or the request does not fit it.
        """
        return cls(spec, open_model(host))


def open_model(host: Host) -> Model:
    """The model that a program handed over, or else the one that `--model` names, made or downloaded if it has to be.

    Raises:
        ValueError: if there is no such model, or it is not supported.
    """
    model: Model
    if host.loaded is not None:
        model = host.loaded.open(host.say)
    else:
        model = Model.open(host.request.model, resolve(host.request.model, host.say), host.say)
    if model.vocabulary.doubt is not None:
        host.say(f"warning: {model.vocabulary.doubt}")
    return model
