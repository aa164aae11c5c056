"""The server's errors, and the one table that turns them into HTTP answers."""

from __future__ import annotations

from typing import Final


class ServerError(Exception):
    """Base of what the server raises on purpose. The text goes to the client, with the field it is about where there is one."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class BadRequest(ServerError):
    """The request cannot be read."""


class InvalidInput(ServerError):
    """The request can be read, and asks for what is not possible."""


class TooLarge(ServerError):
    """A text, a list of texts or a body over its limit."""


class OtherSpace(ServerError):
    """The client pins an embedding space that this server does not serve."""


class NeighbourFailed(ServerError):
    """The server of the space that the client pins gave no answer."""


class Overloaded(ServerError):
    """The queue is full. `retry_after_seconds` is when it should have room."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_seconds} s")
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceeded(ServerError):
    """The client's own deadline, or the server's, passed before the answer."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:g} s")
        self.seconds = seconds


class Unauthorized(ServerError):
    """No bearer token, or one that is not known here."""


class EncoderFailed(ServerError):
    """The encoder failed on this text; others of the batch were answered."""


class EncoderCrashed(ServerError):
    """The encode loop has ended; nothing more is served and readiness has fallen."""


class UnsafeModel(ServerError):
    """A model folder that would run code or read elsewhere; the text names the file."""


class ModelUnavailable(ServerError):
    """The model could not be fetched, or is not what its manifest says."""


class LogUnavailable(ServerError):
    """The prediction log cannot be written or read now; no prediction fails because of it."""


STATUS: Final[dict[type[ServerError], tuple[int, str]]] = {
    BadRequest: (400, "bad_request"),
    InvalidInput: (422, "invalid_input"),
    TooLarge: (413, "too_large"),
    OtherSpace: (409, "other_space"),
    NeighbourFailed: (504, "neighbour_failed"),
    Overloaded: (429, "overloaded"),
    DeadlineExceeded: (504, "deadline_exceeded"),
    Unauthorized: (401, "unauthorized"),
    EncoderFailed: (500, "encoder_failed"),
    EncoderCrashed: (503, "encoder_crashed"),
}
