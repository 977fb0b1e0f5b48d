"""The plan: `python -m bert_lamb.plan [overrides]`. What a recipe takes, and where each of its values comes from."""

from bert_lamb.data.manifest import read_manifest
from bert_lamb.data.store import StoreError
from bert_lamb.hardware import choose_precision, wait_passively_if_busy
from bert_lamb.optim import preset_values
from bert_lamb.parallel import device_count, run_device
from bert_lamb.planning.cost import budget, budget_text, vocabulary_size
from bert_lamb.planning.preflight import memory_warnings, unused_devices
from bert_lamb.planning.rates import measured_rates
from bert_lamb.run import data_folder, locate_run, precision_here
from bert_lamb.settings import Settings, as_dict, command, recipe_rows, without_effect


@command
def main(s: Settings) -> None:
    """Prints the plan; reads the prepared data's manifest where there is one, and times a few random batches."""
    try:
        manifest = read_manifest(data_folder(s))
    except StoreError:
        manifest = None
    device = run_device(s.hardware)
    precision = (
        precision_here(s, locate_run(s), device)
        if manifest
        else choose_precision(s.hardware.precision, device, s.model)
    )
    devices, size = device_count(s.hardware), vocabulary_size(s, manifest)
    plan = budget(s, devices, precision, manifest, measured_rates(s, devices, device, precision.name, size, None))
    warnings = [*unused_devices(s), *memory_warnings(s, plan)]
    print("\n".join([budget_text(s, plan), *(f"  warning: {warning}" for warning in warnings)]))
    if manifest is None:
        print(f"  (no prepared data in {data_folder(s)} yet: the size of the vocabulary is taken from data.vocab_size)")
    print("\nsettings that decide the result, and where each value comes from:")
    rows = recipe_rows(as_dict(s), preset_values(s.optimizer.preset), without_effect(s.optimizer.preset))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, source in rows:
        print(f"  {name:{widths[0]}}  {value:{widths[1]}}  {source}")


if __name__ == "__main__":
    wait_passively_if_busy()
    main()
