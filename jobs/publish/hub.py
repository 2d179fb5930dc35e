"""Sends a data set to the Hugging Face hub, as one commit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEME = "hf://"
"""What the URI of a place on the hub begins with."""

_FORM = f"{SCHEME}datasets/"
_NEW = frozenset({".gitattributes"})
"""What a repository holds that nobody has written to."""

_LOG_IN = "log in with: hf auth login, or set HF_TOKEN to a token that may write"
_REFUSED = {
    401: f"the hub does not know the token; {_LOG_IN}",
    403: f"the token may not write there; {_LOG_IN}",
    404: "there is no such user or organisation, or the token may not see it",
}
"""What status codes of the hub mean for one who pushes."""


@dataclass(frozen=True, kw_only=True)
class DataSetRepository:
    """A data set on the hub that can be written to.

    Attributes:
        name: `OWNER/NAME`.
        token: of the user; never shown.
    """

    name: str
    token: str = field(repr=False)

    @classmethod
    def of(cls, uri: str) -> DataSetRepository:
        """Read where to send to, and find the token: in the environment (HF_TOKEN), or of the saved login.

        Nothing is asked of the hub yet.

        Args:
            uri: `hf://datasets/OWNER/NAME`.

        Raises:
            ValueError: if it is none, or there is no token.
        """
        from huggingface_hub import get_token

        name = uri.removeprefix(_FORM)
        if not uri.startswith(_FORM) or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII):
            raise ValueError(f"{uri} is no data set of the hub; give {_FORM}OWNER/NAME")
        token = get_token()
        if not token:
            raise ValueError(f"{uri} needs a token; {_LOG_IN}")
        return cls(name=name, token=token)

    def push(self, folder: Path, *, private: bool, message: str) -> str:
        """Send a folder; one that was published there before is replaced, in one commit.

        Args:
            folder: a data set, as `publish` writes it.
            private: whether a repository that is made for it is private; one that is there stays what it is.
            message: of the commit.

        Returns:
            The address of the data set.

        Raises:
            ValueError: if the hub cannot be reached, refuses, or the repository holds other things.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

        api = HfApi(token=self.token)
        shown = not are_progress_bars_disabled()
        disable_progress_bars()
        try:
            with self._refusals(api):
                address = api.create_repo(self.name, repo_type="dataset", private=private or None, exist_ok=True)
                self._require_ours(set(api.list_repo_files(self.name, repo_type="dataset")))
                api.upload_folder(
                    repo_id=self.name,
                    repo_type="dataset",
                    folder_path=folder,
                    commit_message=message,
                    delete_patterns=["data/*"],
                )
        finally:
            if shown:
                enable_progress_bars()
        return str(address)

    def _require_ours(self, files: set[str]) -> None:
        """Check that nothing of others is replaced, or mixed with what is sent."""
        if files - _NEW and "run.json" not in files:
            raise ValueError(f"{_FORM}{self.name} holds files that are no published run; name a data set that is new")

    @contextmanager
    def _refusals(self, api: HfApi) -> Iterator[None]:
        """Say in one line why the hub did not take it."""
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
        from huggingface_hub.errors import HTTPError as Unanswered  # type: ignore[attr-defined]  # of its own httpx

        where = f"{_FORM}{self.name} was not written"
        try:
            yield
        except HfHubHTTPError as error:
            status: Any = error.response.status_code
            said = _REFUSED.get(status) or f"the hub answers {status}: {error.server_message or 'no reason given'}"
            raise ValueError(f"{where}: {said}") from error
        except (Unanswered, OfflineModeIsEnabled) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"{where}: {api.endpoint} cannot be reached ({reason})") from error
