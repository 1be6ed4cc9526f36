"""Settings from the environment: typed, bounded, and no variable silently ignored."""

import os
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from atril_common.errors import InvalidInputError

SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def load_settings(settings_class: type[SettingsT]) -> SettingsT:
    """Build settings from the environment.

    Raises:
        InvalidInputError: a variable under the class's prefix is unknown, or a value is out of its
            bounds; the text names each variable, what it holds and what is allowed.
    """
    prefix = str(settings_class.model_config.get("env_prefix", ""))
    known = {f"{prefix}{name}".upper() for name in settings_class.model_fields}
    unknown = sorted(v for v in os.environ if v.startswith(prefix) and v.upper() not in known)
    if unknown:
        raise InvalidInputError(
            f"unknown setting {', '.join(unknown)}: the settings under {prefix} are "
            f"{', '.join(sorted(known))}"
        )
    try:
        return settings_class()
    except ValidationError as err:
        problems = "; ".join(
            f"{(prefix + '_'.join(str(p) for p in e['loc'])).upper()}={e['input']!r}: {e['msg']}"
            for e in err.errors()
        )
        raise InvalidInputError(f"bad setting: {problems}") from err
