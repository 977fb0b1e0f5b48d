"""Composes `conf/` and the arguments of a command into typed settings; every fault of the arguments in one message."""

import argparse
import copy
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from bert_lamb.errors import UserError
from bert_lamb.settings.checks import SettingsError, setting_problems
from bert_lamb.settings.messages import (
    compose_message,
    lacking_message,
    removal_message,
    several_message,
    unknown_key_message,
)
from bert_lamb.settings.schema import Settings

Check = Callable[[Settings], list[str]]
SEARCHED = "command-line"  # Hydra's name of the folder that --config-dir gives


class ArgumentError(UserError):
    """A command line that cannot be read."""


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


def compose_settings(arguments: Sequence[str]) -> Settings:
    """Settings as a command with these arguments would compose them: overrides, and --config-dir before them."""
    given = read_arguments(arguments)
    with _opened(given.config_dir):
        try:
            config = hydra.compose("config", given.overrides)
        except Exception as error:
            raise SettingsError(every_problem(given.overrides, given.config_dir, error)) from error
    return checked_settings(config, given.overrides, given.config_dir)


def checked_settings(
    config: DictConfig, overrides: Sequence[str], config_dir: str | None, check: Check | None = None
) -> Settings:
    """The composed config as plain dataclasses; SettingsError with every problem at once.

    overrides and config_dir are what it was composed from. check: further checks of a stage, run where the settings
    can be read.
    """
    settings = plain_settings(config, overrides, config_dir)
    if problems := setting_problems(settings) + (check(settings) if check else []):
        raise SettingsError(problems)
    return settings


def plain_settings(config: DictConfig, overrides: Sequence[str], config_dir: str | None) -> Settings:
    """The composed config as plain dataclasses, whatever their values are; SettingsError where a key or a value of
    another type stands in it, or a value is missing."""
    if [*_unreadable(config)]:
        raise SettingsError(every_problem(overrides, config_dir))
    return OmegaConf.to_object(config)  # type: ignore[return-value]


def read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Hydra's own options and the overrides; ArgumentError instead of a usage of many lines."""
    parser = get_args_parser()

    def refuse(message: str) -> None:
        raise ArgumentError(f"{message}; --help shows how settings are written")

    parser.error = refuse  # type: ignore[method-assign, assignment]
    return parser.parse_args([*arguments])


def every_problem(overrides: Sequence[str], config_dir: str | None, error: Exception | None = None) -> list[str]:
    """What is wrong with each of these overrides, and with the values where those can be checked.

    error: what Hydra stopped at; told where trying the overrides one by one finds nothing.
    """
    with _opened(config_dir):
        problems = _each_override(overrides)
    return problems or [compose_message(error) if error else "these settings cannot be composed"]


def is_sweep(override: str) -> bool:
    """Whether an override holds several values; one that cannot be read does not."""
    try:
        return any(o.is_sweep_override() for o in OverridesParser.create().parse_overrides([override]))
    except HydraException:
        return False


def _each_override(overrides: Sequence[str]) -> list[str]:
    """As every_problem: the form of each override, then files, then values, each on top of those that are sound."""
    problems, parsed = [], list[Override]()
    for override in overrides:
        try:
            parsed += OverridesParser.create().parse_overrides([override])
        except Exception as error:
            problems.append(compose_message(error))
    files = [o for o in parsed if _names_a_file(o)]
    chosen, wrong_files = _composable(files)
    problems += wrong_files
    try:
        base = hydra.compose("config", chosen, return_hydra_config=True)
    except Exception as error:
        return [*problems, compose_message(error)]
    values = [o for o in parsed if o not in files]
    config, refused = _applicable(base, values)
    unreadable = dict(_unreadable(config))
    problems += [*refused.values(), *_told_once(unreadable)]
    if wrong_files or not problems:  # without the files that were meant, values would be compared with those of others
        return problems
    left_out = [o for o in values if o.input_line in refused or any(_concerns(o, key) for key in unreadable)]
    try:
        config, _ = _applicable(base, [o for o in values if o not in left_out])
        with open_dict(config):
            del config["hydra"]
        found = setting_problems(OmegaConf.to_object(config))  # type: ignore[arg-type]
    except Exception:  # nothing can be said of values while others cannot be read
        return problems
    return problems + [f"{problem}{_without(left_out, problem)}" for problem in found]


def _composable(choices: list[Override]) -> tuple[list[str], list[str]]:
    """Those choices of files that go together, and what is wrong with each of the others."""
    good, problems = [str(o.input_line) for o in choices], list[str]()
    try:
        hydra.compose("config", good)
        return good, []
    except Exception:
        good = []
    for choice in choices:
        try:
            hydra.compose("config", [*good, str(choice.input_line)])
            good.append(str(choice.input_line))
        except Exception as error:
            problems.append(_about(choice.key_or_group, str(choice.input_line), compose_message(error)))
    return good, problems


def _applicable(base: DictConfig, overrides: Sequence[Override]) -> tuple[DictConfig, dict[str, str]]:
    """The config with those overrides that it takes, and what is wrong with each of the others."""
    config, problems = copy.deepcopy(base), dict[str, str]()
    OmegaConf.set_struct(config, True)
    for override in overrides:
        key, line = override.key_or_group, str(override.input_line)
        try:
            if override.is_sweep_override():
                problems[line] = several_message(key, line.partition("=")[2])
            else:
                ConfigLoaderImpl._apply_overrides_to_config([override], config)
        except Exception as error:
            told = removal_message(key) if override.is_delete() else compose_message(error)
            problems[line] = _about(key, line, told)
    return config, problems


def _about(key: str, line: str, message: str) -> str:
    """The message, with the override that it is about where it does not begin with that."""
    named = re.match(rf"(unknown setting ')?[+~]*{re.escape(key)}\b", message) or line in message
    return message if named else f"{line}: {message}"


def _without(left_out: Sequence[Override], problem: str) -> str:
    """Which overrides of the same group a problem of values was found without: they might have prevented it."""
    lines = [str(o.input_line) for o in left_out if f"{o.key_or_group.partition('.')[0]}." in problem]
    return f" (judged without {' '.join(lines)})" if lines else ""


def _names_a_file(override: Override) -> bool:
    loader = GlobalHydra.instance().config_loader()
    return override.package is not None or bool(loader.get_group_options(override.key_or_group))


def _concerns(override: Override, key: str) -> bool:
    return f"{key}.".startswith(f"{override.key_or_group}.") or f"{override.key_or_group}.".startswith(f"{key}.")


def _unreadable(config: DictConfig, schema: type = Settings, prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Keys of a composed config that are no settings or cannot be read, each with its message; None: lacks a value."""
    kinds = {f.name: f for f in dataclasses.fields(schema)}
    there = [*map(str, config)]
    for key in there:
        if key not in kinds and f"{prefix}{key}" != "hydra":
            yield f"{prefix}{key}", unknown_key_message(f"{prefix}{key}")
    for name, field in kinds.items():
        key, kind = f"{prefix}{name}", field.type
        try:
            if name not in there or OmegaConf.is_missing(config, name):
                yield key, None
            elif isinstance(kind, type) and dataclasses.is_dataclass(kind):
                yield from _unreadable(config[name], kind, f"{key}.")
            elif OmegaConf.is_config(value := config[name]):
                OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
        except Exception as error:
            yield key, _about(key, key, compose_message(error))


def _told_once(unreadable: dict[str, str | None]) -> Iterator[str]:
    """The messages; of all keys of a group that lack a value, one."""
    yield from (message for message in unreadable.values() if message)
    lacking = [key for key, message in unreadable.items() if message is None]
    for group in dict.fromkeys(key.partition(".")[0] for key in lacking):
        yield lacking_message(group, [key for key in lacking if key.partition(".")[0] == group])


@contextmanager
def _opened(config_dir: str | None) -> Iterator[None]:
    """Hydra over `conf/` and, after it, the folder of --config-dir, as a command searches them."""
    register_schema()
    opened = GlobalHydra.instance()
    before = opened.hydra  # that of a command, which asks while it runs
    opened.clear()
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            if config_dir:
                path = create_config_search_path(str(conf_dir()))
                folder = f"file://{Path(config_dir).absolute()}"
                path.prepend(provider=SEARCHED, path=folder, anchor=SearchPathQuery(provider="schema"))
                opened.clear()
                Hydra.create_main_hydra2(task_name="app", config_search_path=path)
            yield
    finally:
        opened.hydra = before


def searched_folder(sources: Sequence[Any]) -> str | None:
    """The folder of --config-dir among Hydra's sources of a command."""
    return next((str(source.path) for source in sources if source.provider == SEARCHED), None)
