"""Every path of a token store and of its work folder, under one name each."""

from dataclasses import dataclass
from pathlib import Path

from bert_lamb.data.manifest import MANIFEST
from bert_lamb.data.store import SPLITS, documents_name, spans_name
from bert_lamb.data.vocabulary import VOCABULARY


@dataclass(frozen=True)
class StoreFolder:
    """A token store on disk, finished or begun."""

    path: Path

    @property
    def manifest_file(self) -> Path:
        """Written last: its presence says that the store is complete."""
        return self.path / MANIFEST

    @property
    def vocabulary_file(self) -> Path:
        return self.path / VOCABULARY

    def documents_file(self, split: str, shard_number: int) -> Path:
        return self.path / split / documents_name(shard_number)

    def spans_file(self, split: str, seq_len: int, pass_: int, shard_number: int) -> Path:
        """The instance table of one shard, length and pass."""
        return self.path / split / spans_name(seq_len, pass_, shard_number)

    def rejects_file(self, shard_number: int) -> Path:
        """Samples of what a slice held that is no document."""
        return self.path / "rejects" / f"rejects-{shard_number:05d}.jsonl"

    def questions_file(self, split: str) -> Path:
        """The embedded corpus' questions, "train" or "dev"."""
        return self.path / "squad" / f"{split}.json"

    def name_of(self, file: Path) -> str:
        """A file's name in the manifest."""
        return file.relative_to(self.path).as_posix()

    @property
    def work(self) -> Path:
        """What only an unfinished store needs; gone once the manifest is written."""
        return self.path / ".work"

    @property
    def plan_file(self) -> Path:
        """The input as it was read: checksums, and where it is cut."""
        return self.work / "plan.json"

    @property
    def lock_file(self) -> Path:
        """Held by the one task that reads the input and trains the vocabulary."""
        return self.work / "lock"

    @property
    def begun_file(self) -> Path:
        """What decides the store's bytes, as the run found it that began the store."""
        return self.work / "begun.json"

    def record_file(self, shard_number: int) -> Path:
        """What the manifest must know of one finished shard."""
        return self.work / f"shard-{shard_number:05d}.json"

    def signatures(self, key: str) -> Path:
        """The folder of the documents' signatures, for settings and input with this key."""
        return self.work / f"signatures-{key}"

    def make_folders(self) -> None:
        """The folders that shards are written into."""
        for name in (*SPLITS, "rejects"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        self.work.mkdir(exist_ok=True)
