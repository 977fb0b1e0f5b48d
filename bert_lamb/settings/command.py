"""Turns a stage's function into a command: composes `conf/` once, checks it, and words Hydra's errors for people."""

import dataclasses
import functools
import logging
import os
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

from bert_lamb.errors import EXIT_USAGE, message_for_people
from bert_lamb.settings.checks import SettingsError, setting_problems
from bert_lamb.settings.messages import argument_problem, compose_message, unknown_key_message
from bert_lamb.settings.schema import Settings
from bert_lamb.settings.yaml_files import SettingsFileError, first_line, load_yaml

Check = Callable[[Settings], list[str]]


NO_MULTIRUN = (
    "--multirun (-m) would run only this stage for each combination, without the stages before it; `bert-lamb sweep` "
    "(make sweep) runs the whole chain for each: bert-lamb sweep optimizer=lamb,adamw seed=0,1"
)


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
    found, schema = load_yaml(path), OmegaConf.structured(Settings)
    try:
        return OmegaConf.to_object(OmegaConf.merge(schema, found))  # type: ignore[return-value]
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise SettingsFileError(f"{path} is damaged, or of another version: {first_line(error)}") from error


def settings_yaml(settings: Settings) -> str:
    """The settings as resolved, nothing left to interpolate."""
    return OmegaConf.to_yaml(OmegaConf.structured(settings))


def command(
    stage: Callable[[Settings], None] | None = None,
    *,
    check: Check | None = None,
    checked: bool = True,
    multirun: bool = False,
) -> Callable:
    """Wraps `stage(settings)` as a Hydra command that ends with one clear message instead of a traceback.

    Every UserError is printed as its message. `check` adds a stage's own checks;
    its problems stand in one message with those of the settings. checked=False leaves all checks to others.
    multirun=True takes Hydra's --multirun, which other stages answer with where sweeps are.
    """
    if stage is None:
        return functools.partial(command, check=check, checked=checked, multirun=multirun)

    @functools.wraps(stage)
    def task(config: DictConfig) -> None:
        logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
        try:
            settings: Settings = OmegaConf.to_object(config) if not checked else to_settings(config, check)  # type: ignore[assignment]
            stage(dataclasses.replace(settings, sources=sources_with(settings.sources, given_overrides())))
        except Exception as error:
            message = compose_message(error) if isinstance(error, OmegaConfBaseException) else message_for_people(error)
            if message is None:
                raise
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                raise TaskError(message) from error
            sys.exit(_fail(message))  # here, since Hydra would print a line of its own first

    def run() -> None:
        if not multirun and {"-m", "--multirun"} & {*sys.argv[1:]}:
            sys.exit(_fail(NO_MULTIRUN))
        if problem := argument_problem(sys.argv[1:]):
            sys.exit(_fail(problem))
        register_schema()
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and we word the message
        try:
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(task)()
        except (HydraException, OmegaConfBaseException) as error:
            sys.exit(_fail(compose_message(error)))
        except TaskError as error:
            sys.exit(_fail(str(error)))
        except Exception as error:
            if "Config group override must be a string" in str(error):  # a ValueError, though of Hydra
                sys.exit(_fail(compose_message(error)))
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
    return EXIT_USAGE
