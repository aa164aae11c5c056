"""Names on the wire between operator, server, registry and Prometheus: API group, labels, environment, tags, ports."""

from typing import Final

GROUP: Final = "serinus.dev"
API_VERSION: Final = "v1alpha1"
PLURAL: Final = "modelreleases"
KIND: Final = "ModelRelease"

# Labels of everything that belongs to a release. Pods carry release, revision and space, never a role: roles change, pods do not.
RELEASE_LABEL: Final = "serinus.dev/release"
REVISION_LABEL: Final = "serinus.dev/revision"
SPACE_LABEL: Final = "serinus.dev/space"

# The same labels on Prometheus series, spelt as Prometheus' pod discovery and a PodMonitor's `podTargetLabels` sanitise them.
RELEASE_SERIES_LABEL: Final = "serinus_dev_release"
REVISION_SERIES_LABEL: Final = "serinus_dev_revision"

# Annotations.
COMMAND_ANNOTATION: Final = "serinus.dev/command"
MODEL_VERSION_ANNOTATION: Final = "serinus.dev/model-version"
TEMPLATE_ANNOTATION: Final = "serinus.dev/template"

# Environment of a server container, written by the operator and read by the server's settings.
MODEL_URI_ENV: Final = "MLFLOW_MODEL_URI"
TRACKING_URI_ENV: Final = "MLFLOW_TRACKING_URI"
RELEASE_ENV: Final = "SERINUS_RELEASE"
NAMESPACE_ENV: Final = "SERINUS_NAMESPACE"
REVISION_ENV: Final = "SERINUS_REVISION"
DRAIN_SECONDS_ENV: Final = "SERINUS_DRAIN_SECONDS"
BACKEND_ENV: Final = "SERINUS_BACKEND"
BACKEND_REASON_ENV: Final = "SERINUS_BACKEND_REASON"
DTYPE_ENV: Final = "SERINUS_DTYPE"
DIGEST_ENV: Final = "SERINUS_MODEL_DIGEST"
VERIFY_AGAINST_ENV: Final = "SERINUS_VERIFY_AGAINST"
MAX_BATCH_TOKENS_ENV: Final = "SERINUS_MAX_BATCH_TOKENS"
QUEUE_TOKENS_ENV: Final = "SERINUS_QUEUE_TOKENS"
PREDICTION_LOG_ENV: Final = "SERINUS_PREDICTION_LOG"

# Secret in a release's namespace whose key `url` is the prediction log's sink; without it nothing is logged.
PREDICTION_LOG_SECRET: Final = "serinus-prediction-log"

# Tags that `serinus-server register` writes on a model version and the operator reads.
DIGEST_TAG: Final = "serinus.digest"
SPACE_TAG: Final = "serinus.space"

# HTTP.
HTTP_PORT: Final = 8001
HTTP_PORT_NAME: Final = "http"
REQUEST_ID_HEADER: Final = "x-request-id"
MODEL_VERSION_HEADER: Final = "x-model-version"
SPACE_HEADER: Final = "x-embedding-space"
DOCUMENT_IDS_HEADER: Final = "x-document-ids"  # comma-separated, one for each text; goes into the prediction log
HOP_HEADER: Final = "x-serinus-hop"  # on a request that one server passed to another: the space it came from
MIRROR_HEADER: Final = (
    "x-serinus-mirror"  # on a copy of a request that was answered already: the space that answered it
)


def space_service(release: str, space: str) -> str:
    """The Service over the pods of one vector space. With a release name of 40 characters and 16 hex digits it has 63."""
    return f"{release}-space-{space}"


def mirror_services(release: str) -> tuple[str, str]:
    """The headless Services over the pods that mirror requests and over those that get the copies, in a trial that keeps spaces apart."""
    return f"{release}-mirror-from", f"{release}-mirror-to"
