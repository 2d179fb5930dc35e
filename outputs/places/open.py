"""Which kind of folder a user's text names."""

from __future__ import annotations

import os
import re

from qkatlas.outputs.places.folder import Folder
from qkatlas.outputs.places.local_folder import LocalFolder
from qkatlas.outputs.places.object_folder import ObjectFolder


def open_folder(place: str | os.PathLike[str] | Folder) -> Folder:
    """The folder that a user names; nothing is read or written.

    Args:
        place: a path, `file://`, `s3://bucket/prefix` or `gs://bucket/prefix`, or a folder that is open already.

    Raises:
        ValueError: if it is empty or holds a zero byte, is in the home of an unknown user, its scheme is not supported,
            or the URI is wrong.
    """
    if isinstance(place, (LocalFolder, ObjectFolder)):
        return place
    text = os.fspath(place)  # type: ignore[arg-type]  # mypy cannot tell that the two are all there are
    if not text.strip():
        raise ValueError("the name of the folder is empty; give one, or . for the working directory")
    scheme, separator, rest = text.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return LocalFolder(at_home(text))
    if scheme == "file":
        if not rest.startswith("/"):
            raise ValueError(f"{text} names a host; write file:///path, or the path alone")
        return LocalFolder(at_home(rest))
    if scheme in ObjectFolder.SCHEMES:
        return ObjectFolder(text)
    raise ValueError(f"{scheme}:// is not supported; name a folder, s3://bucket/prefix or gs://bucket/prefix")


def at_home(text: str) -> str:
    """A path with a leading `~` or `~user` replaced by that user's home.

    Args:
        text: the path as a user writes it.

    Raises:
        ValueError: if nobody of that name is known here, or no path can be so called.
    """
    if "\0" in text:
        raise ValueError(f"{text!r} holds a zero byte, which no name of a file can; choose another")
    found = os.path.expanduser(text)
    if found.startswith("~"):
        raise ValueError(f"{text} is in the home of a user who is not known here; write ./{text} for a folder there")
    return found
