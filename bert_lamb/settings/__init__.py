from bert_lamb.settings.checks import SettingsError, setting_problems
from bert_lamb.settings.command import command, conf_dir, read_settings, register_schema, settings_yaml, to_settings
from bert_lamb.settings.recipe import RECIPE_PARTS, as_dict, difference, finetune_recipe, recipe, recipe_hash
from bert_lamb.settings.schema import (
    DataSettings,
    FinetuneSettings,
    HandoverSettings,
    HardwareSettings,
    MaskingSettings,
    ModelSettings,
    OptimizerSettings,
    PhaseSettings,
    RunSettings,
    Settings,
)

__all__ = [
    "RECIPE_PARTS",
    "DataSettings",
    "FinetuneSettings",
    "HandoverSettings",
    "HardwareSettings",
    "MaskingSettings",
    "ModelSettings",
    "OptimizerSettings",
    "PhaseSettings",
    "RunSettings",
    "Settings",
    "SettingsError",
    "as_dict",
    "command",
    "conf_dir",
    "difference",
    "finetune_recipe",
    "read_settings",
    "recipe",
    "recipe_hash",
    "register_schema",
    "setting_problems",
    "settings_yaml",
    "to_settings",
]
