"""The life of a pod template on its way into the store."""

from __future__ import annotations

from msgspec.structs import replace

from k8slite.api import validation as check
from k8slite.api.errors import FieldError
from k8slite.api.kinds.pod import checks
from k8slite.api.kinds.pod.defaults import default_spec
from k8slite.api.kinds.podtemplate.types import PodTemplate, PodTemplateSpec
from k8slite.api.scheme import Strategy
from k8slite.api.validation import Errors


def default_template(template: PodTemplateSpec) -> PodTemplateSpec:
    """The defaults of a template, wherever it stands."""
    spec = default_spec(template.spec)
    return template if spec is template.spec else replace(template, spec=spec)


def template(body: PodTemplateSpec, path: str) -> Errors:
    """What a template must fulfil, wherever it stands."""
    yield from check.carried(body.metadata, f"{path}.metadata")
    yield from checks.spec(body.spec, f"{path}.spec")


def _default(obj: PodTemplate) -> PodTemplate:
    body = default_template(obj.template)
    return obj if body is obj.template else replace(obj, template=body)


def _checks(new: PodTemplate, old: PodTemplate | None) -> Errors:
    yield from check.metadata(new.metadata, check.dns_subdomain)
    yield from template(new.template, "template")
    if old is not None:
        yield from check.metadata_update(new.metadata, old.metadata)


def _validate(new: PodTemplate, old: PodTemplate | None) -> list[FieldError]:
    return check.collected(_checks(new, old))


STRATEGY = Strategy(default=_default, validate=_validate, generation_of=lambda obj: obj.template)
