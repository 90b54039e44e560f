"""Nothing private in any file of a redacted run: pixels, tokens, words, labels, class names, file and folder names."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import pytest

from tests.cli.build import leakaudit
from tests.cli.canaries import CLASS, FILE, FOLDER, KINDS, WORD, Secret, make_secret, needs_pypdf, watched, written

TEXTS = ("json", "html", "sarif", "junit", "markdown", "csv")
ALL = (*TEXTS, "pdf")
COMMON = ("--preset", "quick", "--controls", "none")
IMAGES = ("--attack", "linear", "--attack", "ig", "--set", "ig.iterations=12", "--set", "ig.restarts=1", "--victims", 1)
WORDS = ("--attack", "embedding", "--victims", 1)
ROWS = ("--attack", "linear", "--attack", "lp", "--victims", 1)
SIGNALS = ("--attack", "ig", "--set", "ig.iterations=12", "--set", "ig.restarts=1", "--victims", 1)
SIGNALS = (*SIGNALS, "--task", "regression", "--loss", "mse")
MODES = {
    "plain": ("images", "scan", IMAGES),
    "both": ("images", "scan", (*IMAGES, "--mode", "both")),
    "checkpoints": ("images", "scan", (*IMAGES, "--checkpoints", "OTHER")),
    "update": ("images", "scan", (*IMAGES, "--update", "UPDATE")),
    "text": ("texts", "scan", WORDS),
    "rows": ("rows", "scan", ROWS),
    "signals": ("signals", "scan", SIGNALS),
    "text, both": ("texts", "scan", (*WORDS, "--mode", "both")),
    "defend": ("images", "defend", (*IMAGES, "--defence", "bits=8", "--steps", 2)),
}
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of WeasyPrint's profile


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Secret]:
    return {kind: make_secret(kind, tmp_path_factory.mktemp("root")) for kind in KINDS}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """Folders for the report, temporary files and the cache; the working folder is another one."""
    folders = tuple(tmp_path / name for name in ("out", "temporary", "cache"))
    for folder in (*folders, tmp_path / "here"):
        folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folders[1]))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("LEAKAUDIT_CACHE_DIR", str(folders[2]))
    monkeypatch.delenv("LEAKAUDIT_CACHE", raising=False)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folders[0] / "summary.md"))
    monkeypatch.chdir(tmp_path / "here")
    return folders[0], folders[1], folders[2]


def run(secret: Secret, mode: str, out: Path, formats: tuple[str, ...], *more: object) -> str:
    _, command, options = MODES[mode]
    named = {"OTHER": secret.other, "UPDATE": secret.update}
    words = [named.get(str(word), word) for word in options]
    wanted = [word for name in formats for word in ("-f", name)]
    batch = secret.one if mode == "update" else secret.batch
    code, _, err = leakaudit(command, secret.model, "-b", batch, "-o", out, *wanted, *COMMON, *words, *more)
    gc.collect()
    assert code in (0, 1, 5), err
    return err


def hits(secret: Secret, places: tuple[Path, Path, Path]) -> dict[str, set[str]]:
    looked = {name: secret.found(content, name) for name, content in written(*places)}
    assert any(name.endswith("report.json") for name in looked)
    return {name: found for name, found in looked.items() if found}


@pytest.mark.parametrize(
    ("mode", "kinds", "formats"),
    [
        ("plain", {"pixels", CLASS, FILE}, ("json", "html")),
        ("text", {WORD, CLASS, FILE}, ("json", "html")),
        ("rows", {WORD, CLASS, FILE, "number canarycol"}, ("json", "html")),
        ("signals", {FILE}, ("json", "html")),
        pytest.param("plain", {"pixels", CLASS, FILE}, ("json", "pdf"), marks=pytest.mark.slow),
        pytest.param("text", {WORD, CLASS, FILE}, ("json", "pdf"), marks=pytest.mark.slow),
    ],
)
def test_the_search_finds_what_a_full_report_shows(
    secrets: dict[str, Secret], places: tuple[Path, Path, Path], mode: str, kinds: set[str], formats: tuple[str, ...]
) -> None:
    needs_pypdf()
    secret = secrets[MODES[mode][0]]
    with watched():
        run(secret, mode, places[0], formats, "--evidence", "full", "--pdf-variant", "pdf/a-3u")
    found = hits(secret, places)
    for name in formats:
        seen = {hit for path, kinds in found.items() if path.endswith(f"report.{name}") for hit in kinds}
        assert kinds <= seen, name
        assert any(hit.startswith("number") for hit in seen), name
        assert FOLDER not in seen, "folders stay out at any level"
    assert len(list(places[2].rglob("*"))) > 2, "results are cached at full evidence"


def check(secret: Secret, mode: str, places: tuple[Path, Path, Path], formats: tuple[str, ...], *more: object) -> None:
    with watched():
        run(secret, mode, places[0], formats, *more)
    assert hits(secret, places) == {}
    for folder, what in ((places[1], "temporary files stay"), (places[2], "reconstructions are cached")):
        left = [path.name for path in folder.rglob("*") if path.is_file()]
        assert set(left) <= {".ses"}, what  # of onnxruntime, which holds a random identifier


@pytest.mark.parametrize(
    ("mode", "level"),
    [
        ("both", "none"),
        ("checkpoints", "blurred"),
        ("text, both", "blurred"),
        ("rows", "blurred"),
        ("rows", "none"),
        ("signals", "blurred"),
    ],
)
def test_nothing_private_is_in_the_text_formats(
    secrets: dict[str, Secret], places: tuple[Path, Path, Path], mode: str, level: str
) -> None:
    check(secrets[MODES[mode][0]], mode, places, TEXTS, "--evidence", level)


def test_nothing_private_is_in_the_archive(secrets: dict[str, Secret], places: tuple[Path, Path, Path]) -> None:
    needs_pypdf()
    check(secrets["texts"], "text", places, ("pdf", "json"), "--evidence", "none", "--pdf-variant", "pdf/a-3u")


def test_ci_and_render_hide_as_much(
    secrets: dict[str, Secret], places: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = secrets["texts"]
    monkeypatch.setenv("CI", "true")
    check(secret, "text, both", places, ("json", "html"))
    monkeypatch.delenv("CI")
    shown = places[0].parent / "shown"
    run(secret, "text, both", shown, ("json",), "--evidence", "full", "--no-cache")
    wanted = [word for name in TEXTS for word in ("-f", name)]
    for level in ("none", "blurred"):
        with watched():
            leakaudit("render", shown / "report.json", "-o", places[0], *wanted, "--evidence", level)
        assert hits(secret, places) == {}


@pytest.mark.slow
@pytest.mark.parametrize("level", ["none", "blurred"])
@pytest.mark.parametrize(
    ("mode", "variant"), [*((mode, "pdf/a-3u") for mode in MODES), ("plain", "pdf/ua-1"), ("text", "pdf/ua-1")]
)
def test_nothing_private_is_in_any_file(
    secrets: dict[str, Secret], places: tuple[Path, Path, Path], mode: str, level: str, variant: str
) -> None:
    """The archive has the pages of the accessible variant, and the document attached."""
    needs_pypdf()
    check(secrets[MODES[mode][0]], mode, places, ALL, "--evidence", level, "--pdf-variant", variant)
