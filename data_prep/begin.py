"""The first step of a store alone: `python -m data_prep.begin [overrides]`. Reads the input, trains the vocabulary.

An array of `prepare` tasks then finds both done, and no task waits for another.
"""

import logging
from pathlib import Path

from bert_lamb.data.manifest import MANIFEST
from bert_lamb.settings import Settings, command
from data_prep.prepare import begun, worded_errors
from data_prep.shards.tokenizer import given_vocabulary
from data_prep.store.resume import deciding_settings

log = logging.getLogger(__name__)


@command
def main(s: Settings) -> None:
    """Begins the store that the settings name."""
    folder = Path(s.data.root) / s.data.name
    with worded_errors(s.data):
        if (folder / MANIFEST).is_file():
            log.info("prepared already: %s", folder)
            return
        given = given_vocabulary(s.data) if s.data.vocab else None
        plan, _ = begun(s.data, folder, deciding_settings(s.data, given), given)
    log.info(
        "begun: %s, %d slices of %.1f MB; more data.parts would be idle", folder, len(plan.slices), plan.size / 1e6
    )


if __name__ == "__main__":
    main()
