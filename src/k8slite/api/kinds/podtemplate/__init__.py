"""The PodTemplate kind, declared."""

from __future__ import annotations

from k8slite.api import mergekeys
from k8slite.api.kinds.podtemplate.columns import ARTICLE_COLUMNS, COLUMNS
from k8slite.api.kinds.podtemplate.rules import STRATEGY
from k8slite.api.kinds.podtemplate.types import PodTemplate
from k8slite.api.kinds.podtemplate.v1beta3 import from_v1beta3, to_v1beta3
from k8slite.api.scheme import Kind

POD_TEMPLATE = Kind(
    type=PodTemplate,
    kind="PodTemplate",
    plural="podtemplates",
    singular="podtemplate",
    strategy=STRATEGY,
    from_v1beta3=from_v1beta3,
    to_v1beta3=to_v1beta3,
    merge_keys=mergekeys.POD_TEMPLATE,
    article_columns=ARTICLE_COLUMNS,
    columns=COLUMNS,
)
