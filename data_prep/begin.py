"""The first steps of a store alone: `python -m data_prep.begin [overrides]`. Reads the input, trains the vocabulary.

An array of `prepare` tasks then finds both done, and no task waits for another.
"""

import logging
from pathlib import Path

from bert_lamb.settings import Settings, command
from bert_lamb.words import counted
from data_prep.shards.folder import StoreFolder
from data_prep.store.build import StoreBuild
from data_prep.store.endings import worded_errors

log = logging.getLogger(__name__)


@command
def main(s: Settings) -> None:
    """Begins the store that the settings name."""
    folder = Path(s.data.root) / s.data.name
    with worded_errors(s.data):
        build = StoreBuild(StoreFolder(folder), s.data)
        if build.is_complete:
            log.info("prepared already: %s", folder)
            return
        plan = build.plan()
        build.vocabulary()
    log.info(
        "begun: %s, %s (%.1f MB in all); more data.parts than slices would be idle",
        folder,
        counted(len(plan.slices), "slice"),
        plan.size / 1e6,
    )


if __name__ == "__main__":
    main()
