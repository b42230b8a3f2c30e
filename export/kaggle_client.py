"""Kaggle's calls for a submission, through the `kaggle` client: retried, resumed, failures as one line.

The client's own upload starts again when a connection drops (2.2 asks for a new upload each time, and omits a file from
the dataset when that fails), so blobs.py sends the bytes. The client makes every other call.
"""

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from export import blobs
from pipeline.errors import BadInput

Answer = TypeVar("Answer")


class Kaggle:
    """A signed-in client.

    `uploads`: see blobs.upload; the caller keeps it from one command to the next. `remember`: called after every change
    of `uploads`. Raises BadInput: no token, or one that Kaggle refuses.
    """

    def __init__(self, uploads: dict[str, Any], remember: Callable[[], None]):
        self.uploads, self.remember = uploads, remember
        self.api = _signed_in()
        self.secrets = [value for name in ("token", "key") if (value := self.api.config_values.get(name))]

    def dataset_version(self, name: str) -> int | None:
        """The current version; None where there is no such dataset or it is not the user's."""
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest

        request = ApiGetDatasetRequest()
        request.owner_slug, request.dataset_slug = name.split("/")
        found = self._call(f"looks for the dataset {name}", self._datasets("get_dataset", request), absent=True)
        return None if found is None else int(found.current_version_number or 1)

    def dataset_status(self, name: str) -> str:
        return self._call(f"asks for {name}", lambda: self.api.dataset_status(name))

    def upload_dataset(self, metadata: dict[str, Any], files: list[Path], note: str, version: int | None) -> int:
        """Sends the files, makes the dataset (`version` None) or its next version; returns the version."""
        from kagglesdk.datasets.types import dataset_api_service as types

        entries = []
        for path in files:
            entry = types.ApiDatasetNewFile()
            entry.token = self.upload(path)
            entries.append(entry)
        owner, slug = metadata["id"].split("/")
        if version is None:
            request = types.ApiCreateDatasetRequest()
            request.title, request.license_name = metadata["title"], metadata["licenses"][0]["name"]
            request.slug, request.owner_slug, request.is_private = slug, owner, True
            request.files = entries
            call = self._datasets("create_dataset", request)
        else:
            body = types.ApiCreateDatasetVersionRequestBody()
            body.version_notes, body.files = note, entries
            request = types.ApiCreateDatasetVersionRequest()
            request.owner_slug, request.dataset_slug, request.body = owner, slug, body
            call = self._datasets("create_dataset_version", request)
        newer = _newer(lambda: self.dataset_version(metadata["id"]), version)
        answer = self._call(f"makes version {(version or 0) + 1} of {metadata['id']}", call, newer)
        if not isinstance(answer, int):
            _refuse_error(answer.error, self._hidden)
        # A blob can go into one version only, so the next version must not use its token.
        self.uploads.clear()
        self.remember()
        return (version or 0) + 1

    def upload(self, path: Path) -> str:
        """Sends one file, from where an earlier try stopped; returns the blob's token."""
        from kagglesdk.blobs.types.blob_api_service import ApiBlobType, ApiStartBlobUploadRequest

        request = ApiStartBlobUploadRequest()
        request.type, request.name = ApiBlobType.DATASET, path.name
        request.content_length = path.stat().st_size
        request.last_modified_epoch_seconds = int(path.stat().st_mtime)
        begin = self._client(lambda client: client.blobs.blob_api_client.start_blob_upload(request))

        def begun() -> tuple[str, str]:
            answer = self._call(f"begins the upload of {path.name}", begin)
            return answer.token, answer.create_url

        return blobs.upload(path, begun, self.uploads, self.remember)

    def push_kernel(self, folder: Path, name: str) -> int:
        """Makes the notebook's next version, which starts it; returns the version."""
        newer = _newer(lambda: self.kernel_version(name), self.kernel_version(name))
        answer = self._call(f"pushes {name}", lambda: self.api.kernels_push(str(folder)), newer)
        if isinstance(answer, int):
            return answer
        _refuse_error(answer.error, self._hidden)
        for what in ("dataset", "competition", "model"):
            if invalid := getattr(answer, f"invalid_{what}_sources"):
                raise BadInput(f"Kaggle knows no {what} {', '.join(invalid)}, which the notebook attaches")
        return int(answer.version_number or 1)

    def kernel_version(self, name: str) -> int | None:
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

        request = ApiGetKernelRequest()
        request.user_name, request.kernel_slug = name.split("/")
        get = self._client(lambda client: client.kernels.kernels_api_client.get_kernel(request))
        found = self._call(f"looks for the notebook {name}", get, absent=True)
        return None if found is None else int(found.metadata.current_version_number or 1)

    def kernel_status(self, name: str) -> tuple[str, str]:
        """("queued" | "running" | "complete" | "error" | …, failure message)."""
        answer = self._call(f"asks for {name}", lambda: self.api.kernels_status(name))
        return answer.status.name.lower(), self._hidden(answer.failure_message or "")

    def submit(self, competition: str, kernel: str, version: int, message: str) -> None:
        """Submits the output of a notebook's version, with `message` as the description."""
        self._call(
            f"submits version {version} of {kernel}",
            lambda: self.api.competition_submit_code("submission.zip", message, competition, kernel, version, True),
            lambda: self.submission(competition, message),
        )

    def submission(self, competition: str, message: str) -> dict[str, str] | None:
        """Status, error and scores of the newest submission with this description, or None."""
        found = self._call(f"lists submissions to {competition}", lambda: self.api.competition_submissions(competition))
        for entry in found or []:
            if entry.description == message:
                return {
                    "status": entry.status.name.lower(),
                    "error": self._hidden(entry.error_description or ""),
                    "public": entry.public_score or "",
                    "private": entry.private_score or "",
                }
        return None

    def _datasets(self, method: str, request: Any) -> Callable[[], Any]:
        return self._client(lambda client: getattr(client.datasets.dataset_api_client, method)(request))

    def _client(self, use: Callable[[Any], Answer]) -> Callable[[], Answer]:
        def call() -> Answer:
            with self.api.build_kaggle_client() as client:
                return use(client)

        return call

    def _call(
        self, what: str, call: Callable[[], Any], arrived: Callable[[], Any] | None = None, absent: bool = False
    ) -> Any:
        """Makes a call; tries again when the connection drops or the server fails.

        Args:
            what: the call, for messages.
            arrived: asked after such a failure: did the call arrive after all? If so its return value is the answer,
                so nothing is made twice.
            absent: return None in place of BadInput where the thing asked for does not exist.

        Raises BadInput: Kaggle refuses, or cannot be reached.
        """
        import requests

        for number in range(blobs.TRIES):
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # the client prints advice
                    return call()
            except requests.HTTPError as error:
                code = error.response.status_code if error.response is not None else 0
                if absent and code in (403, 404):  # 403: Kaggle does not say whether it exists
                    return None
                if code < 500:
                    raise BadInput(explained(what, code, self._hidden(str(error)))) from None
                failure: Exception = error
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                failure = error
            except ValueError as error:  # the client's own refusals
                raise BadInput(f"guie {what}, but the client says: {self._hidden(str(error))}") from None
            blobs.pause(number, what, failure)
            if arrived is not None and (answer := arrived()):
                return answer
        raise BadInput(f"guie {what}, but Kaggle cannot be reached; run the same command again, it goes on from there")

    def _hidden(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "<token>")
        return " ".join(text.split())[:300]


def explained(what: str, code: int, said: str) -> str:
    """One line for a refusal of Kaggle's: what was done, why it was refused, what the user can do."""
    text = said.lower()
    if code == 401:
        reason = "Kaggle refuses the token: make a new one in its settings, section API"
    elif "rule" in text or "accept" in text:
        reason = "the competition's rules are not accepted: join it once on its page"
    elif any(word in text for word in ("deadline", "closed", "ended", "no longer accept")):
        reason = "the competition is closed to submissions"
    elif code == 429 or any(word in text for word in ("quota", "too many", "limit", "exceeded")):
        reason = "a quota is used up: wait, or free some"
    elif "phone" in text or "verif" in text:
        reason = "the account is not verified by phone, which notebooks and submissions need"
    elif code == 404:
        reason = "there is no such thing on Kaggle: are the names in submit.* right?"
    else:
        reason = f"Kaggle refuses ({code})"
    return f"guie {what}: {reason}" + (f" [{said}]" if said else "")


def _newer(ask: Callable[[], int | None], version: int | None) -> Callable[[], int | None]:
    """Asks for a version; the returned function returns it where it is newer than `version`, else None."""

    def newer() -> int | None:
        now = ask()
        return now if now is not None and now > (version or 0) else None

    return newer


def _refuse_error(error: str | None, hidden: Callable[[str], str]) -> None:
    if error:
        raise BadInput(explained("pushes", 400, hidden(error)))


def signed_in_user() -> str:
    """Who the client signs in as: of a token by one call, of kaggle.json without; BadInput where it cannot."""
    asked = "expected submit.user=NAME, your name on Kaggle, or a token that tells it"
    try:
        user = _signed_in().config_values.get("username")
    except BadInput as error:
        raise BadInput(f"{asked}: {error}") from None
    if not user:
        raise BadInput(asked)
    return user


def _signed_in() -> Any:
    verbose = {name: os.environ.pop(name) for name in ("VERBOSE", "VERBOSE_OUTPUT") if name in os.environ}
    # The client signs in when it is imported, exits when it cannot, and prints its headers when it is verbose.
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            from kaggle.api.kaggle_api_extended import KaggleApi

            api = KaggleApi()
            api.args = [argument for argument in api.args if argument not in ("--verbose", "-v")]
            api.authenticate()
    except SystemExit:
        raise BadInput("no Kaggle token, or a refused one: set KAGGLE_API_TOKEN or ~/.kaggle/kaggle.json") from None
    except OSError as error:
        raise BadInput(f"Kaggle cannot be reached to sign in ({type(error).__name__})") from None
    except ImportError as error:
        raise BadInput(f"submitting needs the package {error.name}: pip install kaggle") from None
    finally:
        os.environ.update(verbose)
    return api
