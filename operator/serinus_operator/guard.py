"""Is the admission policy there, without which no pods are made of what only a pod's creator may choose?

The policy itself asks the API server, when a ModelRelease is written, whether its writer may create such pods and read what they name.
"""

from __future__ import annotations

from serinus_operator.errors import NotFound, Rejected
from serinus_operator.kube import Kube
from serinus_operator.spec import Serving
from serinus_operator.template import is_guarded

_POLICY = "ValidatingAdmissionPolicy"


class Guard:
    """The policy of that name; an empty name says that this operator has none."""

    def __init__(self, kube: Kube, policy: str) -> None:
        self._kube, self._policy = kube, policy

    async def check(self, serving: Serving) -> None:
        """Raises Rejected when these pods need the policy and it is not in force."""
        if not is_guarded(serving.image, serving.template):
            return
        fields = "spec.serving.image and what spec.serving.template says beyond where pods run"
        if not self._policy:
            raise Rejected(f"{fields} need the chart's admission policy; install it with admissionPolicy.enabled=true")
        try:
            await self._kube.get(_POLICY, None, self._policy)
            binding = await self._kube.get(f"{_POLICY}Binding", None, self._policy)
        except NotFound as missing:
            raise Rejected(f"{fields} need the admission policy {self._policy}, which is gone ({missing})") from missing
        if binding["spec"].get("policyName") != self._policy or "Deny" not in binding["spec"]["validationActions"]:
            raise Rejected(
                f"{fields} need the admission policy {self._policy}, whose binding no longer denies anything"
            )
