"""The operator's few errors. Foreign ones are translated into these once, at the border (kube, registry, prometheus)."""


class SerinusError(Exception):
    """Base of every error that the operator raises on purpose; its text tells a user what to do."""


class InvalidSpec(SerinusError):
    """A ModelRelease that the API server let through and the operator cannot act on. `field` is a path such as spec.steps[2]."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class Unavailable(SerinusError):
    """A system beside us did not answer, or answered with a passing error; trying again later is right."""


class Conflict(SerinusError):
    """What we wrote was computed from an older object than the API server holds; observe again."""


class NotFound(SerinusError):
    """The named object does not exist."""


class Rejected(SerinusError):
    """A system beside us understood the call and refused it; the same call will be refused again until somebody acts."""


class Unauthorized(Rejected):
    """It does not know who we are: credentials are missing or wrong."""


class Forbidden(Rejected):
    """It knows who we are, or by which name we call it, and does not let us."""
