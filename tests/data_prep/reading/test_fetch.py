"""`fetch` against a local server that answers as the hub does; then `prepare` from what it left, without it."""

import hashlib
import json
import re
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi, constants
from prepare_tools import data_settings, digests, write_text

from bert_lamb.data.manifest import read_manifest
from data_prep import fetch as stage
from data_prep.fetch import fetch
from data_prep.prepare import prepare
from data_prep.reading.hub_files import HubError, fetched_paths, hub_folder

COMMIT = "b04c8d1ceb2f5cd4588862100d08de323dccfbaa"


class Hub(BaseHTTPRequestHandler):
    """Listing and files of one dataset, as the hub's API gives them."""

    files: dict[str, bytes]
    asked: list[str]
    cut: dict[str, int]  # file: bytes after which the connection breaks, once
    listed: dict[str, bytes]  # whose size and SHA-256 are told

    def log_message(self, *args) -> None: ...

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        if re.fullmatch(rf"/api/datasets/some/text/revision/(main|{COMMIT})", path):
            siblings = [
                {"rfilename": name, "size": len(content), "blobId": "0" * 40, "lfs": {
                    "size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 130}}
                for name, content in self.listed.items()
            ]  # fmt: skip
            about = {"id": "some/text", "sha": COMMIT, "siblings": [*siblings, {"rfilename": "README.md", "size": 3}]}
            return self.send(json.dumps(about).encode(), {"Content-Type": "application/json"}, body)
        name = path.removeprefix(f"/datasets/some/text/resolve/{COMMIT}/")
        if name not in self.files:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        content = self.files[name]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        if body:
            self.asked.append(f"{name}+{start}")
        headers = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self.send(
            content[start:], headers, body, self.cut.pop(name, None) if body else None, 206 if start else 200
        )

    def send(self, content: bytes, headers: dict, body: bool, stop: int | None = None, status: int = 200) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content[:stop])
        if stop is not None:
            self.wfile.flush()
            self.connection.close()


def parquet(folder: Path, texts: list[str]) -> bytes:
    pq.write_table(pa.table({"id": [str(i) for i in range(len(texts))], "text": texts}), folder / "made.parquet")
    return (folder / "made.parquet").read_bytes()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    files = {f"en/train-{i}.parquet": parquet(tmp_path, write_text(i, 30)) for i in range(2)}
    files["bg/train-0.parquet"] = b"another language"
    Hub.files, Hub.listed, Hub.asked, Hub.cut = files, dict(files), [], {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(stage, "HfApi", partial(HfApi, endpoint=f"http://127.0.0.1:{server.server_port}", token=False))
    yield Hub
    server.shutdown()


def asked(tmp_path: Path, **given):
    return data_settings(root=str(tmp_path / "data"), hub=f"some/text@{COMMIT}:en/*.parquet", **given)


def test_what_was_fetched_is_prepared_without_a_network(hub, tmp_path):
    data = asked(tmp_path)
    with pytest.raises(HubError, match=r"run `make fetch` with the same settings .* data\.paths="):
        prepare(data, tmp_path / "store")
    fetch(data)
    assert [Path(p).relative_to(hub_folder(data)).as_posix() for p in fetched_paths(data)] == [
        "en/train-0.parquet", "en/train-1.parquet",
    ]  # fmt: skip
    assert all(
        Path(p).read_bytes() == hub.files[str(Path(p).relative_to(hub_folder(data)))] for p in fetched_paths(data)
    )
    hub.files.clear()
    prepare(data, tmp_path / "store")
    manifest = read_manifest(tmp_path / "store")
    assert manifest["counts"]["records"] == 60
    assert "hub" not in manifest["settings"]
    prepare(data_settings(paths=fetched_paths(data)), tmp_path / "local")
    assert digests(tmp_path / "local") == digests(tmp_path / "store")
    (hub_folder(data) / "en/train-1.parquet").unlink()
    with pytest.raises(HubError, match="is not, or not wholly, in"):
        fetched_paths(data)
    prepare(data, tmp_path / "store")  # raw text may be deleted once it is prepared


def test_a_second_fetch_goes_on_with_what_is_missing(hub, tmp_path, monkeypatch):
    data = asked(tmp_path)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 400)  # of 10 MB
    hub.cut["en/train-1.parquet"] = 1000
    size = len(hub.files["en/train-1.parquet"])
    fetch(data)  # the library takes up a broken connection by itself
    assert (hub_folder(data) / "en/train-1.parquet").stat().st_size == size
    again = [a for a in hub.asked if a.startswith("en/train-1")]
    assert again == ["en/train-1.parquet+0", "en/train-1.parquet+800"]
    hub.asked.clear()
    fetch(data)
    assert hub.asked == []
    (hub_folder(data) / "en/train-0.parquet").write_bytes(b"damaged on this disk")
    fetch(data)
    assert [a.split("+")[0] for a in hub.asked] == ["en/train-0.parquet"]
    assert fetched_paths(data)


def test_what_is_not_as_listed_is_put_aside(hub, tmp_path):
    data = asked(tmp_path)
    hub.listed["en/train-1.parquet"] = hub.files["en/train-1.parquet"][:-1] + b"?"
    with pytest.raises(HubError, match=r"train-1.parquet.damaged differs from what the hub lists \(size, SHA-256\)"):
        fetch(data)
    assert not (hub_folder(data) / "en/train-1.parquet").exists()
    with pytest.raises(HubError, match="not wholly"):
        fetched_paths(data)


def test_a_branch_is_pinned_by_the_first_fetch(hub, tmp_path):
    data = asked(tmp_path)
    data.hub = "some/text@main:en/*.parquet"
    fetch(data)
    (about,) = hub_folder(data).glob("fetched-*.json")
    assert json.loads(about.read_text())["commit"] == COMMIT
    hub.listed.clear()  # the branch has moved
    fetch(data)
    assert len(fetched_paths(data)) == 2


def test_out_of_reach_the_message_names_local_files(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "HfApi", partial(HfApi, endpoint="http://127.0.0.1:9", token=False))
    with pytest.raises(
        HubError,
        match=r"some/text@.* could not be fetched from the hub.* or name local files of the same text, data\.paths",
    ):
        fetch(asked(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("some/text@main", "owner/name@revision:pattern is expected"),
        (None, "data.hub=None: owner/name@revision:pattern is expected"),
        ("some/text@main:fr/*", "no file of some/text at b04c8d1c.* matches fr/*"),
        ("some/text@main:*.md", "the hub lists no SHA-256 for README.md"),
        ("some/none@main:*", "some/none@main:.* could not be fetched from the hub"),
    ],
)
def test_what_cannot_be_fetched_is_named(hub, tmp_path, name, message):
    data = asked(tmp_path)
    data.hub = name
    with pytest.raises(HubError, match=message):
        fetch(data)
