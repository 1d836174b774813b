"""The JSON schema of a study, so that an editor completes and checks a space as it is typed.

`python -m spinlock.search.schema noa > search_spaces/noa.schema.json` writes a shipped one; the
first line of a space names it for editors that read YAML's language server.
"""

import json
import sys
from typing import Any

from pydantic.json_schema import models_json_schema

from spinlock.config import known_paths
from spinlock.search.parameter import Parameter
from spinlock.search.space import Study
from spinlock.search.trainable import Trainable
from spinlock.search.trainables import TRAINABLES


def study_schema(trainable: Trainable) -> dict[str, Any]:
    """Study's schema with `training` and the paths of `space`, `when` and `start` filled in."""
    by_model, definitions = models_json_schema(
        [(Study, "validation"), (trainable.model, "validation")],
        title=f"Study of {trainable.name}",
    )
    schema: dict[str, Any] = definitions["$defs"]
    study = schema[Study.__name__]
    training = schema[trainable.model.__name__]
    training.pop("required", None)  # what a space searches, it does not also set
    study["properties"]["training"] = by_model[(trainable.model, "validation")]
    paths = {"enum": known_paths(trainable.model)}
    study["properties"]["space"]["propertyNames"] = paths
    study["properties"]["start"]["items"]["propertyNames"] = paths
    conditions, _ = schema[Parameter.__name__]["properties"]["when"]["anyOf"]  # or null
    conditions["propertyNames"] = paths
    return {**definitions, **by_model[(Study, "validation")]}


if __name__ == "__main__":
    print(json.dumps(study_schema(TRAINABLES[sys.argv[1]]), indent=1))
