"""Redaction: blurred images do not show what was in them, and nothing else brings it back."""

from __future__ import annotations

import base64
import csv
import io

import numpy as np
from PIL import Image

from leakaudit.document.redact import CELLS, SMALLEST, mosaic, redact
from leakaudit.document.schema import Report, TokenResult
from leakaudit.report.formats.csv import render_csv
from leakaudit.report.formats.html import render_html
from leakaudit.report.formats.junit import render_junit
from leakaudit.report.formats.markdown import render_markdown
from leakaudit.report.formats.sarif import render_sarif
from tests.report.builder import build, png


def pixels(uri: str) -> np.ndarray:
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")
    return np.asarray(image, dtype=np.float64) / 255


def images(report: Report) -> list[str]:
    found = []
    for attack in report.attacks:
        for result in attack.results:
            found += [uri for s in result.samples for uri in (s.original_png, s.reconstruction_png) if uri]
            found += [uri for shot in result.snapshots for uri in shot.images_png]
    return found


def test_a_blurred_image_depends_on_sixteen_averages_only() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    other = image.copy()
    cell = 32 // CELLS
    for row in range(0, 32, cell):
        for column in range(0, 32, cell):
            block = other[row : row + cell, column : column + cell].reshape(-1, 3)
            other[row : row + cell, column : column + cell] = rng.permutation(block).reshape(cell, cell, 3)

    def uri(array: np.ndarray) -> str:
        stream = io.BytesIO()
        Image.fromarray(array).save(stream, format="PNG")
        return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()

    assert not np.array_equal(image, other)
    assert mosaic(uri(image)) == mosaic(uri(other)), "pixels were shuffled within the cells"
    assert mosaic(uri(image)) != mosaic(uri(255 - image))


def test_small_images_are_left_out_where_large_ones_are_blurred() -> None:
    """Of 4 × 4 pixels, or of a row of 16 features, the averages are the sample."""
    rng = np.random.default_rng(0)
    for shape in ((4, 4), (1, 16), (SMALLEST - 1, 200), (200, SMALLEST - 1)):
        assert mosaic(png(rng.random((*shape, 3)))) is None, shape
    assert mosaic(png(rng.random((SMALLEST, SMALLEST, 3)))) is not None
    assert mosaic("data:image/png;base64,c2VjcmV0") is None, "what cannot be read cannot be blurred"
    small = redact(build(victims=1, runs=1, side=SMALLEST - 1), "blurred")
    assert images(small) == []
    assert images(redact(build(victims=1, runs=1, side=SMALLEST), "blurred"))


def test_a_mosaic_is_left_only_where_the_domain_says_that_it_hides_the_sample() -> None:
    report = build(victims=1, runs=1, side=SMALLEST)
    other = report.model_copy(update={"target": report.target.model_copy(update={"domain": "drawings of tables"})})
    assert images(redact(report, "blurred"))
    assert images(other)
    assert images(redact(other, "blurred")) == []


def test_every_image_is_redacted_and_every_score_stays() -> None:
    report = build(victims=2, runs=1)
    full = images(report)
    blurred, none = redact(report, "blurred"), redact(report, "none")
    assert len(images(blurred)) == len(full) > 0
    assert not set(images(blurred)) & set(full)
    assert images(none) == []
    for changed in (blurred, none):
        assert [s.psnr for a in changed.attacks for r in a.results for s in r.samples] == [
            s.psnr for a in report.attacks for r in a.results for s in r.samples
        ]
    assert images(report) == full, "the report itself is not changed"
    assert redact(none, "blurred") == none
    assert redact(blurred, "blurred") == blurred, "a mosaic is not blurred once more"


def test_texts_are_left_out_below_full() -> None:
    report = build(victims=1, runs=1)
    tokens = TokenResult(
        accuracy=1.0, precision=1.0, recall=1.0, original=[7001, 7002], recovered=[7001, None], found=[7001, 7003],
        words={7001: "secretword"}, skill=0.9,
    )  # fmt: skip
    attack = report.attacks[0]
    sample = attack.results[0].samples[0].model_copy(update={"tokens": tokens})
    results = [attack.results[0].model_copy(update={"samples": [sample]})]
    attacks = [attack.model_copy(update={"results": results})]
    target = report.target.model_copy(update={"vocabulary": 9000})
    text = report.model_copy(update={"attacks": attacks, "target": target})
    assert "secretword" in render_html(text)
    for view in (render_sarif(text), render_junit(text), render_markdown(text), render_csv(text)):
        assert not any(piece in view for piece in ("secretword", "7001", "7002", "7003"))
    (row,) = csv.DictReader(io.StringIO(render_csv(text)))
    assert (row["recall"], row["skill"]) == ("1.0", "0.9")
    for level in ("blurred", "none"):
        changed = redact(text, level)  # type: ignore[arg-type]
        for view in (render_html(changed), changed.to_json()):
            assert not any(piece in view for piece in ("secretword", "7001", "7002", "7003"))


def test_the_page_and_the_document_hold_no_private_pixel() -> None:
    report = build(victims=1, runs=1)
    secret = [uri.partition(",")[2] for uri in images(report)]
    for level in ("blurred", "none"):
        changed = redact(report, level)  # type: ignore[arg-type]
        for text in (render_html(changed), changed.to_json()):
            assert not any(piece in text for piece in secret)
    assert "private samples are left out" in render_html(redact(report, "none"))
    assert "private images are blurred or left out" in render_html(redact(report, "blurred"))
