"""settings.yaml of a run, as it is met: one message where it is damaged, whoever wrote it."""

from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bert_lamb.errors import UserError
from bert_lamb.settings.schema import Settings

LARGEST = 1 << 20  # bytes; ours have some 5 KB
DEEPEST = 20  # levels; ours have 4


class SettingsFileError(UserError):
    """A settings.yaml that cannot be used."""


def load_yaml(path: Path) -> DictConfig:
    """The tree in a YAML file; SettingsFileError where there is none.

    What nests without end is refused before it is built, and so are aliases, with which a few lines can spell
    gigabytes.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise SettingsFileError(f"{path} is damaged: it is larger than {LARGEST >> 20} MiB")
        text, depth = path.read_bytes().decode("utf-8"), 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST or isinstance(event, yaml.AliasEvent):
                raise SettingsFileError(f"{path} is damaged: it nests without end, or repeats parts of itself")
            if isinstance(event, yaml.ScalarEvent) and "${" in event.value:  # could read the environment
                raise SettingsFileError(f"{path} is damaged: it holds ${{...}}, and settings of a run are resolved")
        tree = OmegaConf.create(text)
    except OSError as error:
        raise SettingsFileError(f"{path} cannot be read ({error.strerror or error})") from error
    except (ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise SettingsFileError(f"{path} is damaged: it cannot be read as settings ({first_line(error)})") from error
    if not isinstance(tree, DictConfig):
        raise SettingsFileError(f"{path} is damaged: it holds no settings")
    return tree


def mistyped(tree: DictConfig) -> str | None:
    """What this tree holds where today's settings want something else, in words; a key that either side lacks is
    passed over, since it came or went with another version."""
    try:
        OmegaConf.merge(OmegaConf.structured(Settings), _known(OmegaConf.to_container(tree), Settings))
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        return first_line(error)
    return None


def _known(tree: Any, kind: Any) -> Any:
    """The keys of a tree that a dataclass has too, those below included."""
    if not isinstance(tree, dict) or not is_dataclass(kind):
        return tree
    kinds = get_type_hints(kind)
    return {key: _known(value, kinds[key]) for key, value in tree.items() if key in kinds}


def first_line(error: Exception) -> str:
    """Of messages that go on for lines."""
    return (str(error) or type(error).__name__).splitlines()[0]
