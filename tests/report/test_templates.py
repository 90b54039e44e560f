"""Templates are rendered in a sandbox: whatever one holds, nothing runs, and it ends in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from leakaudit.document.schema import Report
from leakaudit.errors import UsageError
from leakaudit.report.formats.html import render_html, render_view
from leakaudit.report.views.view import View, build_view
from tests.report.builder import build

SYSTEM = ".__init__.__globals__.os.system('touch MARK')"
ATTACKS = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler" + SYSTEM + " }}",
    "{{ lipsum.__globals__['os'].popen('touch MARK').read() }}",
    "{{ joiner" + SYSTEM + " }}",
    "{{ namespace" + SYSTEM + " }}",
    "{{ (cycler|attr('__init__')|attr('__globals__')).os.system('touch MARK') }}",
    "{{ [cycler]|map(attribute='__init__.__globals__')|list }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(report) }}",
    "{{ ('{0.__class__.__mro__}'|safe).format(report) }}",
    "{{ '{x.__class__}'.format_map({'x': report}) }}",
    "{{ report.__class__.__init__.__globals__ }}",
    "{{ report.save('MARK') }}",
    "{{ report.model_copy() }}",
    "{{ report.to_json() }}",
    "{% set f = report.save %}{{ f('MARK') }}",
    "{{ report.findings|map('attr', 'model_copy')|list }}{{ (report.findings|first).model_copy() }}",
    "{{ range(10**9) }}",
    "{{ report.findings.clear() }}",
    "{% for x in range(3) %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "{{ loop }}",
    "{% include '../../../../etc/passwd' %}",
    "{% include '/etc/passwd' %}",
    "{% extends 'missing' %}",
    "{{ 1 // 0 }}",
    "{{ [1][report] }}",
    "{{ {}.x.y }}",
    "{{ ''|nofilter }}",
    "{% if %}",
)


@pytest.fixture(scope="module")
def report() -> Report:
    return build(victims=1, runs=1)


@pytest.fixture(scope="module")
def view(report: Report) -> View:
    return build_view(report)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_template_runs_nothing(
    attack: str, report: Report, view: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "report.html.j2").write_text(attack, encoding="utf-8")
    page, failure = "", f"template in {folder} failed"
    try:
        page = render_view(report, view, folder, "screen")
    except UsageError as error:
        failure = error.message
    assert failure.startswith(f"template in {folder} failed")
    assert "\n" not in failure
    for trace in ("<class '", "root:x:0", "<function", "<bound method", "schema"):
        assert trace not in page, "something private of the program is in the page"
    assert [path.name for path in tmp_path.iterdir()] == ["templates"]


def test_what_templates_need_still_works(report: Report, tmp_path: Path) -> None:
    (tmp_path / "report.html.j2").write_text(
        "{% import 'macros.html.j2' as show %}{% macro twice(x) %}{{ x }}{{ x }}{{ caller() }}{% endmacro %}"
        "{% call twice('a') %}c{% endcall %}{% for i in range(3) %}{{ loop.cycle('x', 'y') }}{% endfor %}"
        "{% block b %}B{% endblock %}{{ self.b() }}{{ dict(k=1).get('k') }}{{ 'u'.upper() }}{{ '{}'.format(5) }}"
        "{{ report.target.name|clip(40) }}{{ show.badge('high', 'measured') }}{{ ','.join(['p', 'q']) }}",
        encoding="utf-8",
    )
    page = render_html(report, tmp_path)
    assert page.startswith("aacxyxBB1U5" + report.target.name)
    assert page.rstrip().endswith("p,q")


def test_a_style_sheet_that_is_no_text_is_named(report: Report, tmp_path: Path) -> None:
    (tmp_path / "report.css").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="template in"):
        render_html(report, tmp_path)
