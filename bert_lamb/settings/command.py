"""Turns a stage's function into a command: composes `conf/` once, checks it, and words Hydra's errors for people."""

import argparse
import dataclasses
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bert_lamb.errors import EXIT_USAGE, message_for_people
from bert_lamb.settings.checks import SettingsError
from bert_lamb.settings.compose import (
    ArgumentError,
    Check,
    checked_settings,
    conf_dir,
    every_problem,
    is_sweep,
    plain_settings,
    read_arguments,
    register_schema,
    searched_folder,
)
from bert_lamb.settings.help import stage_help
from bert_lamb.settings.messages import argument_problem, compose_message
from bert_lamb.settings.schema import Settings
from bert_lamb.settings.yaml_files import SettingsFileError, first_line, load_yaml

NO_MULTIRUN = (
    "--multirun (-m) would run only this stage for each combination, without the stages before it; `bert-lamb sweep` "
    "(make sweep) runs the whole chain for each: bert-lamb sweep optimizer=lamb,adamw seed=0,1"
)


class TaskError(Exception):
    """What a task of a multirun could not do, on its way to the command that started it, maybe from another machine."""


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

    begun = False  # until then whatever is raised is about what was typed

    @functools.wraps(stage)
    def task(config: DictConfig) -> None:
        nonlocal begun
        begun = True
        logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
        try:
            overrides, folder = given_overrides(), _config_dir()
            if checked:
                settings = checked_settings(config, overrides, folder, check)
            else:
                settings = plain_settings(config, overrides, folder)
            stage(dataclasses.replace(settings, sources=sources_with(settings.sources, overrides)))
            sys.stdout.flush()
        except BrokenPipeError:  # `plan | head`: nobody reads on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)
        except Exception as error:
            message = message_for_people(error)
            if message is None:
                raise
            if HydraConfig.get().mode is RunMode.MULTIRUN:
                raise TaskError(message) from error
            sys.exit(_fail(message))  # here, since Hydra would print a line of its own first

    def run() -> None:
        nonlocal begun
        begun = False
        if {"--help", "-h"} & {*sys.argv[1:]}:
            print(stage_help(stage.__globals__["__spec__"].name))
            return
        try:
            given = _arguments(sys.argv[1:], multirun)
        except ArgumentError as error:
            sys.exit(_fail(str(error)))
        register_schema()
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and we word the message
        try:
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(task)()
        except TaskError as error:
            sys.exit(_fail(str(error)))
        except Exception as error:
            if type(error).__module__.startswith("submitit."):
                sys.exit(_fail(f"a task ended without a result: {error}"))
            if begun and not isinstance(error, HydraException | OmegaConfBaseException):
                raise
            sys.exit(_fail(_what_stopped_hydra(error, given)))

    return run


def _arguments(arguments: Sequence[str], multirun: bool) -> argparse.Namespace:
    """The command line as Hydra will read it; ArgumentError where Hydra would answer with a traceback."""
    if not multirun and {"-m", "--multirun"} & {*arguments}:
        raise ArgumentError(NO_MULTIRUN)
    if problem := argument_problem(arguments):
        raise ArgumentError(problem)
    given = read_arguments(arguments)
    if given.config_dir is not None and not (given.config_dir and Path(given.config_dir).is_dir()):
        raise ArgumentError(f"--config-dir={given.config_dir}: no such folder")
    return given


def _what_stopped_hydra(error: Exception, given: argparse.Namespace) -> str:
    """Every problem of a command line; of a sweep those of what all its trials have, else the first of a trial."""
    if given.cfg or given.info:
        return compose_message(error)
    overrides = [o for o in given.overrides if not (given.multirun and is_sweep(o))]
    return str(SettingsError(every_problem(overrides, given.config_dir, error)))


def given_overrides() -> list[str]:
    """What the command line of this process gave; nothing outside of a command."""
    if not HydraConfig.initialized():
        return []
    return OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)  # type: ignore[return-value]


def given_arguments() -> list[str]:
    """The same, with the --config-dir that they need: arguments for another stage's command."""
    folder = _config_dir()
    return [*([f"--config-dir={folder}"] if folder else []), *given_overrides()]


def _config_dir() -> str | None:
    return searched_folder(HydraConfig.get().runtime.config_sources) if HydraConfig.initialized() else None


def sources_with(sources: dict[str, str], overrides: Sequence[str]) -> dict[str, str]:
    """The sources of settings, where these overrides of the command line replaced a value, a group or a part of one."""
    parsed = OverridesParser.create().parse_overrides([*overrides])
    changed = [o.package or o.key_or_group for o in parsed if o.key_or_group != "experiment"]
    kept = {k: v for k, v in sources.items() if not any(k == c or k.startswith(f"{c}.") for c in changed)}
    return kept | dict.fromkeys(changed, "the command line")


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return EXIT_USAGE
