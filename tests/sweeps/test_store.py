"""The store: a result is there whole or not at all, and a cell has one driver alive."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leakaudit.document.status import CellStatus
from leakaudit.errors import AuditError, UsageError
from leakaudit.sweeps.places import Folder, Place, Remote, place_of
from leakaudit.sweeps.results import Facts, Result, unpack
from leakaudit.sweeps.store import Store

KEY, OTHER = "ab" * 32, "cd" * 32
FACTS = Facts(verdict="LEAKS (measured)", severity="high", inconclusive=False, failing=("LA201",), leaked=1, samples=4)
DONE = Result(key=KEY, status=CellStatus.DONE, seconds=1.5, policy="p", facts=FACTS, files={"report.json": b"{}"})


@pytest.fixture(params=["folder", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place_of(tmp_path / "store") if request.param == "folder" else place_of(f"memory://{tmp_path.name}/store")


@pytest.fixture
def stores(place: Place) -> Iterator[Callable[..., Store]]:
    made: list[Store] = []

    def make(lease: float = 60.0) -> Store:
        made.append(Store(place, lease))
        return made[-1]

    yield make
    for store in made:
        store.close()


def test_a_result_comes_back_as_it_was(stores: Callable[..., Store]) -> None:
    store = stores()
    assert store.get(KEY) is None
    assert store.finished() == set()
    store.put(DONE)
    assert store.get(KEY) == DONE
    assert store.get(KEY, head_only=True) == Result(**{**vars(DONE), "files": {}})
    assert store.finished() == {KEY}
    assert DONE.pack() == unpack(DONE.pack()).pack()


def test_results_without_a_report_are_forgotten_and_others_stay(stores: Callable[..., Store]) -> None:
    store = stores()
    store.put(DONE)
    store.put(Result(key=OTHER, status=CellStatus.TIME, reason="ended after 3 s"))
    store.forget([KEY, OTHER])
    assert store.finished() == {KEY}


def test_two_drivers_never_hold_one_cell(stores: Callable[..., Store]) -> None:
    one, two = stores(), stores()
    assert one.claim(KEY)
    assert not two.claim(KEY)
    assert two.claim(OTHER)
    one.release(KEY)
    assert two.claim(KEY)


def test_what_was_finished_meanwhile_cannot_be_claimed(stores: Callable[..., Store]) -> None:
    one, two = stores(), stores()
    assert one.claim(KEY)
    one.put(DONE)
    one.release(KEY)
    assert not two.claim(KEY)
    assert two.place.names("claims") == []


def test_many_threads_claim_a_cell_once(stores: Callable[..., Store]) -> None:
    drivers = [stores() for _ in range(8)]
    barrier, won = threading.Barrier(len(drivers)), []

    def race(driver: Store) -> None:
        barrier.wait()
        for key in (KEY, OTHER):
            if driver.claim(key):
                won.append(key)

    threads = [threading.Thread(target=race, args=(driver,)) for driver in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [KEY, OTHER]


def claim_of(store: Store, **changes: object) -> bytes:
    return json.dumps({**json.loads(store._content()), **changes}).encode()


def dead_process() -> int:
    return int(subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True).stdout)


def test_a_claim_ends_with_its_process(stores: Callable[..., Store], place: Place) -> None:
    store = stores()
    place.make(f"claims/{KEY}.0", claim_of(store, process=dead_process()))
    assert store.claim(KEY)
    assert place.names("claims") == [f"claims/{KEY}.1"]
    place.make(f"claims/{OTHER}.0", claim_of(store, started=12.0))  # the number lives, and is another process by now
    assert store.claim(OTHER)


def test_a_claim_of_another_machine_counts_while_it_changes(stores: Callable[..., Store], place: Place) -> None:
    store = stores(lease=0.3)
    for beat in range(3):
        place.write(f"claims/{KEY}.0", claim_of(store, machine="another", beat=beat))
        assert not store.claim(KEY)
        time.sleep(0.2)
    time.sleep(0.3)
    assert store.claim(KEY)


def test_a_half_written_claim_ages_like_a_foreign_one(stores: Callable[..., Store], place: Place) -> None:
    store = stores(lease=0.2)
    place.make(f"claims/{KEY}.0", b"")
    assert not store.claim(KEY)
    time.sleep(0.3)
    assert store.claim(KEY)


def test_a_held_claim_changes_as_long_as_it_is_held(stores: Callable[..., Store], place: Place) -> None:
    store = stores(lease=0.2)
    store.claim(KEY)
    first = place.read(f"claims/{KEY}.0")
    time.sleep(0.3)
    assert place.read(f"claims/{KEY}.0") != first
    store.close()
    assert place.names("claims") == []


def zipped(**files: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return stream.getvalue()


HEAD = f'{{"key": "{KEY}", "status": "done", "reason": "", "seconds": 1, "policy": "", "facts": null}}'


def with_flags(flags: int) -> bytes:
    """A result whose entries ask for a password, or for what else these bits of their headers say."""
    content = bytearray(DONE.pack())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(mark)
        while at >= 0:
            content[at + place] |= flags
            at = content.find(mark, at + 1)
    return bytes(content)


def with_broken_stream(name: str = "cell.json") -> bytes:
    """A result with a file whose first packed bytes are none that could be unpacked."""
    content = bytearray(DONE.pack())
    begin = content.find(name.encode()) + len(name)
    content[begin] |= 0b110  # a block of a kind that is not defined
    return bytes(content)


def packed_otherwise(method: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("cell.json", HEAD)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        with_flags(1), with_flags(0x20), with_broken_stream(), packed_otherwise(zipfile.ZIP_LZMA),
        zipped(**{"cell.json": "[" * 100_000}), zipped(**{"cell.json": HEAD.replace("1", '"soon"')}),
        zipped(**{"cell.json": HEAD.replace("null", '{"verdict": "FINE", "severity": "high", "inconclusive": false}')}),
        b"", b"no archive", DONE.pack()[:-30], zipped(other="x"), zipped(**{"cell.json": "[]"}),
        zipped(**{"cell.json": HEAD, "../report.json": "{}"}), zipped(**{"cell.json": HEAD, "/etc/report.json": "{}"}),
        zipped(**{"cell.json": HEAD.replace("done", "excellent")}),
    ],
    ids=range(15),
)  # fmt: skip
def test_what_is_no_result_is_none(content: bytes, stores: Callable[..., Store], place: Place) -> None:
    with pytest.raises(AuditError, match="a result in the store is damaged"):
        unpack(content)
    place.write(f"results/ab/{KEY}.zip", content)
    assert stores().get(KEY) is None
    assert stores().claim(KEY), "the cell is audited again"


def test_a_head_is_read_without_the_files(stores: Callable[..., Store], place: Place) -> None:
    """Who only counts unpacks no report; who goes on with a sweep audits a damaged cell again."""
    place.write(f"results/ab/{KEY}.zip", with_broken_stream("report.json"))
    assert stores().get(KEY, head_only=True) == Result(**{**vars(DONE), "files": {}})
    assert stores().get(KEY) is None
    assert stores().sound(KEY) is None
    assert stores().claim(KEY)


def test_a_result_under_another_name_is_none(stores: Callable[..., Store], place: Place) -> None:
    place.write(f"results/cd/{OTHER}.zip", DONE.pack())
    assert stores().get(OTHER) is None


def test_files_are_the_owners_only(tmp_path: Path) -> None:
    store = Store(Folder(tmp_path / "store"))
    store.put(DONE)
    store.claim(OTHER)
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert len(files) == 3
    assert (tmp_path / "store" / ".gitignore").read_text().splitlines()[-1] == "*"
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
    store.close()


def test_a_store_that_another_user_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    with pytest.raises(UsageError, match=r"shared is not used: it can be written by every user"):
        place_of(tmp_path / "shared")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"the store .*file cannot be used"):
        place_of(tmp_path / "file")


def test_a_url_that_nothing_reaches_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the store nowhere://x cannot be reached"):
        place_of("nowhere://x")
    assert isinstance(place_of(f"file://{tmp_path}/store"), Folder)
    assert isinstance(place_of("memory://x"), Remote)
    assert (tmp_path / "store").is_dir()


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_looking_makes_nothing(tmp_path: Path, scheme: str) -> None:
    store = Store(place_of(f"{scheme}{tmp_path}/away/store", make=False))
    assert store.finished() == set()
    assert store.get(KEY) is None
    store.close()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    with pytest.raises(UsageError, match="shared is not used"):
        place_of(f"{scheme}{tmp_path}/shared", make=False)
    assert not place_of(f"memory://{tmp_path.name}/looked", make=False).system.exists(f"/{tmp_path.name}")  # type: ignore[attr-defined]


def test_a_folder_of_a_url_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = Remote(f"memory://{tmp_path.name}/store")
    made: list[str] = []
    honest = remote.system.makedirs
    monkeypatch.setattr(remote.system, "makedirs", lambda path, **kw: (made.append(path), honest(path, **kw)))
    for number in range(3):
        remote.write(f"results/ab/{number}.zip", b"x")
    assert len(made) == 1
    assert len(remote.names("results")) == 3


def test_a_killed_writer_leaves_no_half_result(tmp_path: Path) -> None:
    """Many kills at moments that nobody chose: whatever can be read is whole."""
    program = (
        "import sys; from pathlib import Path; from leakaudit.sweeps.places import Folder\n"
        "from leakaudit.sweeps.results import Result; from leakaudit.document.status import CellStatus\n"
        "place = Folder(Path(sys.argv[1])); number = 0\n"
        "print('begins', flush=True)\n"
        "while True:\n"
        "    number += 1; key = f'{number % 7:064x}'\n"
        "    result = Result(key=key, status=CellStatus.DONE, files={'report.json': bytes(200_000)})\n"
        "    place.write(f'results/00/{key}.zip', result.pack())\n"
    )
    for kill in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "store")], stdout=subprocess.PIPE, env={**os.environ}
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05 + 0.07 * kill)
        process.kill()
        process.wait()
        process.stdout.close()
        for path in (tmp_path / "store").rglob("*.zip"):
            assert len(unpack(path.read_bytes()).files["report.json"]) == 200_000
