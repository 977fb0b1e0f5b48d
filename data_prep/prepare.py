"""The data stage: `python -m data_prep.prepare [overrides]`. Raw text to the token store, on all cores.

Goes on where it was cut, does nothing where the store is complete, rebuilds what is missing or damaged.
"""

from contextlib import nullcontext
from pathlib import Path

from bert_lamb.settings import DataSettings, Settings, command
from data_prep.shards.folder import StoreFolder
from data_prep.store.build import StoreBuild
from data_prep.store.endings import worded_errors
from data_prep.store.plan_file import one_command_completes


@command(multirun=True)  # an array of independent tasks, each with its data.part
def main(s: Settings) -> None:
    """Prepares what the settings name."""
    with worded_errors(s.data):
        prepare(s.data, Path(s.data.root) / s.data.name)


def prepare(data: DataSettings, folder: Path) -> None:
    """Makes the token store in `folder`, whole, or the shards of one part of it."""
    build = StoreBuild(StoreFolder(folder), data)
    if build.is_complete:  # and maybe read-only
        build.check()
        return
    with one_command_completes(build.folder) if data.part is None else nullcontext():
        if build.is_complete:  # by the command that this one waited for, maybe with other settings
            build.check()
            return
        build.plan()
        build.vocabulary()
        build.shards()
        build.finish()


if __name__ == "__main__":
    main()
