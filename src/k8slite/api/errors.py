"""Errors as values: what went wrong, with which object and field, and what may be done.

Conflict, Unavailable and UnknownOutcome are different things: the first is certain and says
"read again", the second is certain and says "nothing happened, try again", the third says that
nobody knows.
"""

from __future__ import annotations

from dataclasses import dataclass

from k8slite.api.meta import Status, StatusCause, StatusDetails


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one field.

    ``path`` is the field's path as a user would write it (``spec.ports[0].targetPort``).
    ``reason`` is one of Required, Invalid, Duplicate, NotFound, NotSupported, Forbidden, TooLong.
    """

    path: str
    message: str
    reason: str = "Invalid"

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class ApiError(Exception):
    """An error of the API: an HTTP ``code``, a machine-readable ``reason``, one line of text."""

    code = 500
    reason = "InternalError"

    def __init__(
        self,
        message: str,
        *,
        kind: str = "",
        name: str = "",
        causes: tuple[StatusCause, ...] = (),
        retry_after: int = 0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.name = name
        self.causes = causes
        self.retry_after = retry_after

    def status(self) -> Status:
        details = StatusDetails(
            name=self.name, kind=self.kind, causes=self.causes, retry_after_seconds=self.retry_after
        )
        return Status(message=self.message, reason=self.reason, details=details, code=self.code)


class BadRequest(ApiError):
    code, reason = 400, "BadRequest"


class Unauthorized(ApiError):
    code, reason = 401, "Unauthorized"


class Forbidden(ApiError):
    code, reason = 403, "Forbidden"


class NotFound(ApiError):
    code, reason = 404, "NotFound"


class MethodNotAllowed(ApiError):
    code, reason = 405, "MethodNotAllowed"


class NotAcceptable(ApiError):
    code, reason = 406, "NotAcceptable"


class AlreadyExists(ApiError):
    code, reason = 409, "AlreadyExists"


class Conflict(ApiError):
    """The object changed since it was read; nothing was written."""

    code, reason = 409, "Conflict"


class Expired(ApiError):
    """The asked-for history is compacted away; list again."""

    code, reason = 410, "Expired"


class TooLarge(ApiError):
    code, reason = 413, "RequestEntityTooLarge"


class UnsupportedMediaType(ApiError):
    code, reason = 415, "UnsupportedMediaType"


class Invalid(ApiError):
    """The object is well formed and wrong; ``errors`` says which fields."""

    code, reason = 422, "Invalid"

    def __init__(self, kind: str, name: str, errors: list[FieldError]) -> None:
        lines = ", ".join(str(error) for error in errors)
        if len(errors) > 1:
            lines = f"[{lines}]"
        causes = tuple(
            StatusCause(reason=f"FieldValue{error.reason}", message=error.message, field=error.path)
            for error in errors
        )
        super().__init__(
            f'{kind} "{name}" is invalid: {lines}', kind=kind, name=name, causes=causes
        )
        self.errors = errors


class TooManyRequests(ApiError):
    code, reason = 429, "TooManyRequests"


class Unavailable(ApiError):
    """Nothing happened; try again."""

    code, reason = 503, "ServiceUnavailable"


class UnknownOutcome(ApiError):
    """The write may or may not have happened; read before trying again."""

    code, reason = 504, "Timeout"


def not_found(plural: str, name: str) -> NotFound:
    return NotFound(f'{plural} "{name}" not found', kind=plural, name=name)


def already_exists(plural: str, name: str) -> AlreadyExists:
    return AlreadyExists(f'{plural} "{name}" already exists', kind=plural, name=name)


def conflict(plural: str, name: str) -> Conflict:
    message = (
        f'Operation cannot be fulfilled on {plural} "{name}": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    return Conflict(message, kind=plural, name=name)


def forbidden(plural: str, name: str, why: str) -> Forbidden:
    return Forbidden(f'{plural} "{name}" is forbidden: {why}', kind=plural, name=name)


def _subclasses(base: type[ApiError]) -> dict[tuple[int, str], type[ApiError]]:
    found = {(base.code, base.reason): base}
    for sub in base.__subclasses__():
        if sub.__module__ == __name__:  # those of others need more than a Status has
            found.update(_subclasses(sub))
    return found


def from_status(status: Status) -> ApiError:
    """The error that a ``Status`` from the wire stands for (the inverse of ``ApiError.status``)."""
    details = status.details or StatusDetails()
    known = _subclasses(ApiError)
    cls = known.get((status.code, status.reason)) or next(
        (cls for (code, _), cls in known.items() if code == status.code), ApiError
    )
    error = cls.__new__(cls)
    ApiError.__init__(
        error, status.message, kind=details.kind, name=details.name, causes=details.causes,
        retry_after=details.retry_after_seconds,
    )  # fmt: skip
    if isinstance(error, Invalid):
        error.errors = [FieldError(c.field, c.message) for c in details.causes]
    if cls is ApiError:
        error.code, error.reason = status.code, status.reason
    return error
