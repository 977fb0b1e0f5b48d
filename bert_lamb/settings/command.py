"""Turns a stage's function into a command: composes `conf/` once, checks it, and words Hydra's errors for people."""

import dataclasses
import difflib
import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bert_lamb.errors import UserError
from bert_lamb.settings.checks import SettingsError, setting_problems
from bert_lamb.settings.schema import Settings

Check = Callable[[Settings], list[str]]

GROUP_FOLDERS = {"phase1": "phase (phase@phase1=...)", "phase2": "phase (phase@phase2=...)"}
EXIT_SETTINGS = 2  # the shell's usual code for wrong usage


class TaskError(Exception):
    """What a task of a multirun could not do, on its way to the command that started it, maybe from another machine."""


def conf_dir() -> Path:
    """The folder of configs: inside an installed wheel, else at the top of the checkout."""
    packaged = Path(__file__).parents[1] / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "conf"


def register_schema() -> None:
    """Makes known to Hydra the dataclasses, so that an unknown key or a wrong type stops it, and `phase_steps`."""
    ConfigStore.instance().store(name="settings_schema", node=Settings)
    OmegaConf.register_new_resolver("phase_steps", phase_steps, replace=True)


def phase_steps(number: int, sequences: int, phase1_share: float, global_batch: int) -> int:
    """Steps of phase 1 or 2 where both read so many sequences in batches of one size.

    Half a step goes to phase 1: arXiv 1904.00962 has 15,625 = 14,063 + 1,562.
    """
    total = round(sequences / max(1, global_batch))  # a batch of 0 is told of by the checks
    first = int(phase1_share * total + 0.5)
    return first if number == 1 else total - first


def to_settings(config: DictConfig, check: Check | None = None) -> Settings:
    """The composed config as plain dataclasses, checked; SettingsError with every problem at once.

    check: further checks of a stage, run where the settings alone are sound enough to look at data and devices.
    """
    unknown = _unknown_keys(config)
    if unknown:
        raise SettingsError([unknown_key_message(key) for key in unknown])
    settings: Settings = OmegaConf.to_object(config)  # type: ignore[assignment]
    problems = setting_problems(settings) + (check(settings) if check else [])
    if problems:
        raise SettingsError(problems)
    return settings


def compose_settings(overrides: Sequence[str]) -> Settings:
    """Settings as a command with these overrides would compose them."""
    register_schema()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return to_settings(hydra.compose("config", list(overrides)))


def read_settings(path: Path) -> Settings:
    """Settings that a stage wrote beside its results; composes nothing."""
    schema = OmegaConf.structured(Settings)
    return OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.load(path)))  # type: ignore[return-value]


def settings_yaml(settings: Settings) -> str:
    """The settings as resolved, nothing left to interpolate."""
    return OmegaConf.to_yaml(OmegaConf.structured(settings))


def command(
    stage: Callable[[Settings], None] | None = None, *, check: Check | None = None, checked: bool = True
) -> Callable:
    """Wraps `stage(settings)` as a Hydra command that ends with one clear message instead of a traceback.

    Every UserError is printed as its message. `check` adds a stage's own checks;
    its problems stand in one message with those of the settings. checked=False leaves all checks to others.
    """
    if stage is None:
        return functools.partial(command, check=check, checked=checked)

    @functools.wraps(stage)
    def task(config: DictConfig) -> None:
        logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
        try:
            settings: Settings = OmegaConf.to_object(config) if not checked else to_settings(config, check)  # type: ignore[assignment]
            stage(dataclasses.replace(settings, sources=sources_with(settings.sources, given_overrides())))
        except Exception as error:
            if not isinstance(error, UserError):
                raise
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                raise TaskError(str(error)) from error
            sys.exit(_fail(str(error)))  # here, since Hydra would print a line of its own first

    def run() -> None:
        register_schema()
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and we word the message
        try:
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(task)()
        except (HydraException, OmegaConfBaseException) as error:
            sys.exit(_fail(compose_message(error)))
        except TaskError as error:
            sys.exit(_fail(str(error)))
        except Exception as error:
            if not type(error).__module__.startswith("submitit."):
                raise
            sys.exit(_fail(f"a task ended without a result: {error}"))

    return run


def given_overrides() -> list[str]:
    """What the command line of this process gave; nothing outside of a command."""
    return [*HydraConfig.get().overrides.task] if HydraConfig.initialized() else []


def sources_with(sources: dict[str, str], overrides: Sequence[str]) -> dict[str, str]:
    """The sources of settings, where these overrides of the command line replaced a value, a group or a part of one."""
    parsed = OverridesParser.create().parse_overrides([*overrides])
    changed = [o.package or o.key_or_group for o in parsed if o.key_or_group != "experiment"]
    kept = {k: v for k, v in sources.items() if not any(k == c or k.startswith(f"{c}.") for c in changed)}
    return kept | dict.fromkeys(changed, "the command line")


def compose_message(error: Exception) -> str:
    """Hydra's and OmegaConf's errors as: key, value, nearest valid key."""
    text = "\n".join(str(e) for e in (error, error.__cause__) if e is not None)
    unknown = re.search(r"Key '([^']+)' (?:is not in struct|not in '\w+')", text)
    override = re.search(r"Could not override '([^']+)'", text)
    full = re.search(r"full_key: (\S+)", text)
    if unknown:
        named = override or full or unknown
        return unknown_key_message(named.group(1).lstrip("+~"))
    value = re.search(r"Value '(.+?)' (?:of type '\w+' could not be converted to|is not a valid) (\w+)", text)
    if value and full:
        return f"{full.group(1)}={value.group(1)}: a value of type {value.group(2).lower()} is expected"
    if full and re.search(r"\w+ is not a ListConfig", text):
        return f"{full.group(1)}: a list is expected; write {full.group(1)}=[first,second]"
    if full and re.search(r"is not a subclass of \w+Settings", text):
        key = full.group(1)
        folder = GROUP_FOLDERS.get(key, key)
        return f"{key} is a group of settings: choose a file of conf/{folder}, or set {key}.<key>=value"
    unreadable = getattr(error, "override", None)
    if unreadable:
        return (
            f"{unreadable} cannot be read as key=value ({text.splitlines()[0]}); values with blanks or other signs "
            """stand in quotes of their own: 'data.paths=["/my texts"]'"""
        )
    return text.split("\nSee ")[0]


def unknown_key_message(key: str) -> str:
    """Names the key and the valid ones nearest to it."""
    keys = _all_keys()
    groups = sorted({k.rpartition(".")[0] for k in keys if "." in k})
    same_group = [k for k in keys if k.rpartition(".")[0] == key.rpartition(".")[0]]
    near = [k for k in same_group if "." in key and k.endswith(key.rpartition(".")[2])]
    near += [k for k in difflib.get_close_matches(key, keys + groups, n=3, cutoff=0.6) if k not in near]
    hint = f"did you mean {' or '.join(near[:3])}?" if near else "`--cfg job` lists every key"
    return f"unknown setting {key!r}; {hint}"


def _all_keys(schema: type = Settings, prefix: str = "") -> list[str]:
    """Every dotted key of a dataclass tree."""
    keys = []
    for f in dataclasses.fields(schema):
        if dataclasses.is_dataclass(f.type):
            keys += _all_keys(f.type, f"{prefix}{f.name}.")  # type: ignore[arg-type]
        else:
            keys.append(prefix + f.name)
    return keys


def _unknown_keys(config: DictConfig, schema: type = Settings, prefix: str = "") -> list[str]:
    """Keys that `+key=` forced into the config although no field has that name."""
    types = {f.name: f.type for f in dataclasses.fields(schema)}
    unknown = []
    for key in map(str, config):
        inner = types.get(key)
        if inner is None:
            unknown.append(f"{prefix}{key}")
        elif dataclasses.is_dataclass(inner):
            unknown += _unknown_keys(config[key], inner, f"{prefix}{key}.")  # type: ignore[arg-type]
    return unknown


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return EXIT_SETTINGS
