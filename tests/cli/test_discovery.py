"""A policy that was found, not named, runs no code: a marker file stands for an attack, and never appears."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from leakaudit.cli.options.policy import CODE, DATA
from leakaudit.cli.scan import scan
from leakaudit.errors import UsageError
from leakaudit.policy.read import find_policy
from tests.cli.build import CLASSES, export, leakaudit
from tests.conftest import smooth_images

EVIL = """
from pathlib import Path
Path({marker!r}).touch()
def build():
    import torch
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(432, 5))
def defend(update, generator):
    return update
def faces():
    import torch
    made = torch.nn.Sequential(torch.nn.Linear(4, 432), torch.nn.Sigmoid(), torch.nn.Unflatten(1, (3, 12, 12)))
    made.latent = 4
    return made
"""
TEMPLATE = "{{ cycler.__init__.__globals__.os.system('touch ran') }}"
FAST = ("--victims", "1", "--attack", "linear", "--controls", "none", "--mean", "0.5", "--std", "0.25", "-f", "html")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cloned repository whose author wants code to run; ``ran`` appears when any does."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "evil.py").write_text(EVIL.format(marker=str(tmp_path / "ran")))
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "report.html.j2").write_text(TEMPLATE)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, CLASSES))
    export(net, tmp_path / "model.onnx")
    torch.save({"1.weight": net[1].weight.detach(), "1.bias": net[1].bias.detach()}, tmp_path / "weights.pt")
    np.savez(tmp_path / "batch.npz", x=smooth_images(8), y=np.arange(8) % CLASSES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    return tmp_path


BAD = {
    'template-dir = "templates"': "template-dir",
    'template_dir = "templates"': "template-dir",
    'factory = "evil:build"': "factory",
    'generator = "evil:build"': "generator",
    "trust = true": "trust",
    'store = "s3://elsewhere/x"': "store",
    "unsafe-pickle = true": "unsafe-pickle",
    "unsafe_pickle = false": "unsafe-pickle",
    'defence = "evil:defend"': "defence",
    'defences = ["clip=1.0", "evil:defend"]': "defence",
    'defence = [["evil:defend"]]': "defence",
    'claim = ["evil:defend,x=1"]': "claim",
    'loss = "evil:defend"': "loss",
}


@pytest.mark.parametrize(("line", "key"), BAD.items())
@pytest.mark.parametrize("file", ["leakaudit.toml", "pyproject.toml"])
def test_a_found_policy_cannot_run_code(repository: Path, line: str, key: str, file: str) -> None:
    table = "[tool.leakaudit]\n" if file == "pyproject.toml" else ""
    (repository / file).write_text(f"{table}{line}\n")
    code, out, err = leakaudit("scan", "model.onnx", "--batch", "batch.npz", *FAST)
    assert code == 2
    assert out == ""
    assert err.startswith(f"Error: {repository / file}: {key} can run code, and does not count in a policy that was")
    assert err.splitlines()[1].startswith(f"Hint:  if you trust it, pass --{key} on the command line, or")
    assert len(err.splitlines()) == 2
    assert not (repository / "ran").exists()


def test_render_does_not_take_templates_from_a_found_policy(repository: Path) -> None:
    assert leakaudit("scan", "model.onnx", "-b", "batch.npz", "--fail-on", "never", *FAST, "-f", "json")[0] in (0, 5)
    (repository / "leakaudit.toml").write_text('template-dir = "templates"\n')
    code, _, err = leakaudit("render", "leakaudit-report/report.json", "-f", "html", "-o", "again")
    assert code == 2
    assert "template-dir can run code" in err
    assert not (repository / "again").exists()


@pytest.mark.parametrize("way", ["--policy", "environment", "command line"])
def test_named_by_the_user_it_counts(repository: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["scan", "weights.pt", "-b", "batch.npz", "--fail-on", "never", "--input-shape", "3,12,12", *FAST]
    if way == "--policy":
        (repository / "leakaudit.toml").write_text('factory = "evil:build"\n')
        command += ["--policy", "leakaudit.toml"]
    elif way == "environment":
        monkeypatch.setenv("LEAKAUDIT_FACTORY", "evil:build")
    else:
        command += ["--factory", "evil:build"]
    code, _, err = leakaudit(*command)
    assert code in (0, 5), err
    assert (repository / "ran").exists(), "the user's own factory runs"


def test_every_option_is_known_as_code_or_data() -> None:
    assert {p.name for p in scan.params} - {"policy"} == DATA | CODE
    assert not DATA & CODE


def test_without_a_repository_only_this_folder_counts(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "leakaudit.toml").write_text("")
    (tmp_path / "a" / "leakaudit.toml").write_text("")
    assert find_policy(inner) is None
    (inner / "leakaudit.toml").write_text("")
    assert find_policy(inner) == inner / "leakaudit.toml"


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_the_search_ends_at_the_repository(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "repo"
    (root / "a").mkdir(parents=True)
    (root / ".git").mkdir() if kind == "folder" else (root / ".git").write_text("gitdir: /elsewhere")
    (tmp_path / "leakaudit.toml").write_text("")
    assert find_policy(root / "a") is None
    (root / "leakaudit.toml").write_text("")
    assert find_policy(root / "a") == root / "leakaudit.toml"


def policy_in(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "leakaudit.toml").write_text("seed = 1\n")
    folder.chmod(0o755)
    (folder / "leakaudit.toml").chmod(0o644)
    return folder / "leakaudit.toml"


@pytest.mark.parametrize(
    ("file", "folder", "reason"),
    [
        (0o644, 0o755, ""),
        (0o646, 0o755, "it can be written by every user"),
        (0o644, 0o757, "its folder"),
        (0o644, 0o1777, ""),  # the sticky bit: others cannot replace my file
        (0o666, 0o1777, "it can be written by every user"),
    ],
)
def test_what_another_user_can_write_is_refused(tmp_path: Path, file: int, folder: int, reason: str) -> None:
    path = policy_in(tmp_path / "shared")
    path.chmod(file)
    path.parent.chmod(folder)
    if not reason:
        assert find_policy(path.parent) == path
        return
    with pytest.raises(UsageError, match=reason) as caught:
        find_policy(path.parent)
    assert f"the policy {path} is not used" in caught.value.message
    assert f"--policy {path}" in caught.value.hint


@pytest.mark.parametrize("group", ["own", "shared"])
def test_a_group_with_other_members_counts_as_another_user(
    tmp_path: Path, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = policy_in(tmp_path / "shared")
    path.chmod(0o664)
    monkeypatch.setattr("leakaudit.safety.ownership._private_group", lambda status: group == "own")
    if group == "own":
        assert find_policy(path.parent) == path
        return
    with pytest.raises(UsageError, match="can be written by the users of group"):
        find_policy(path.parent)


def test_a_private_group_has_nobody_else_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import grp
    import pwd

    from leakaudit.safety.ownership import _private_group

    status = tmp_path.stat()
    owner = pwd.getpwuid(status.st_uid)

    def group(name: str, members: list[str]) -> grp.struct_group:
        return grp.struct_group((name, "x", owner.pw_gid, members))

    for entry, expected in (
        (group(owner.pw_name, []), True),
        (group(owner.pw_name, [owner.pw_name]), True),
        (group(owner.pw_name, ["mallory"]), False),
        (group("staff", []), False),
    ):
        monkeypatch.setattr(grp, "getgrgid", lambda number, entry=entry: entry)
        assert _private_group(status) is expected


@pytest.mark.parametrize("whose", ["file", "folder"])
def test_what_another_user_owns_is_refused(tmp_path: Path, whose: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    path = policy_in(tmp_path / "shared")
    os.chown(path if whose == "file" else path.parent, 54321, -1)
    with pytest.raises(UsageError, match=r"belongs to another user \(number 54321\)"):
        find_policy(path.parent)


def test_the_caller_of_sudo_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from leakaudit.safety import ownership

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("SUDO_UID", raising=False)
    assert ownership._trusted_users() == {0}
    monkeypatch.setenv("SUDO_UID", "54321")
    assert ownership._trusted_users() == {0, 54321}
    monkeypatch.setattr(os, "geteuid", lambda: 77)
    assert ownership._trusted_users() == {0, 77}


def test_a_link_into_a_shared_folder_is_refused(tmp_path: Path) -> None:
    shared = policy_in(tmp_path / "shared")
    shared.parent.chmod(0o777)
    (tmp_path / "mine").mkdir(mode=0o755)
    (tmp_path / "mine" / "leakaudit.toml").symlink_to(shared)
    with pytest.raises(UsageError, match=r"its folder .*shared can be written by every user"):
        find_policy(tmp_path / "mine")


def test_an_unsafe_policy_is_one_line_and_can_be_named(repository: Path) -> None:
    (repository / "leakaudit.toml").write_text("victims = 1\nfail-on = 'never'\n")
    (repository / "leakaudit.toml").chmod(0o666)
    command = ("scan", "model.onnx", "-b", "batch.npz", *FAST)
    code, _, err = leakaudit(*command)
    assert code == 2
    assert err.splitlines()[0].endswith("is not used: it can be written by every user (mode 0666)")
    assert len(err.splitlines()) == 2
    assert leakaudit(*command, "--policy", "leakaudit.toml")[0] in (0, 5)


MODULES = {"factory": "own", "defence": "mine", "generator": "prior"}
SHADOWS = ("scipy", "adjustText", "dp_accounting", "torchvision", "weasyprint", "lpips", "onnxruntime", "psutil", "pip")


@pytest.mark.parametrize("named", [(), (*MODULES,)], ids=["nothing", "all of them"])
def test_only_the_named_modules_of_the_current_folder_are_imported(repository: Path, named: tuple[str, ...]) -> None:
    for name in SHADOWS:
        (repository / f"{name}.py").write_text(f"from pathlib import Path\nPath('{name}.ran').touch()\n")
    for option, module in MODULES.items():
        (repository / f"{module}.py").write_text(EVIL.format(marker=f"{option} was imported"))
    words = {"factory": ["--factory", "own:build", "--input-shape", "3,12,12"], "defence": ["--defence", "mine:defend"]}
    words["generator"] = ["--generator", "prior:faces"]
    command = ["scan", "weights.pt" if named else "model.onnx", "-b", "batch.npz", "--fail-on", "never", *FAST]
    command += [word for option in named for word in words[option]]
    program = "import sys; sys.path[:] = [p for p in sys.path if p]; from leakaudit.cli import main; main()"
    run = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, timeout=300)
    assert run.returncode in (0, 5), run.stderr
    assert [path.name for path in repository.glob("*.ran")] == []
    assert {option for option in MODULES if (repository / f"{option} was imported").exists()} == set(named)


def test_the_current_folder_leaves_the_path_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from leakaudit.safety.importing import current_folder_importable

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/somewhere"])
    paths = []

    def fails() -> None:
        with current_folder_importable():
            paths.append([*sys.path])
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert [*paths, sys.path] == [["/somewhere", str(tmp_path)], ["/somewhere"]]


def test_a_matplotlibrc_of_the_current_folder_does_not_change_figures(repository: Path) -> None:
    program = (
        "from leakaudit.report.views.figures import canvas_of\nimport matplotlib as mpl\n"
        "with canvas_of(3, 2) as (figure, axes):\n    print(mpl.rcParams['text.usetex'], mpl.rcParams['font.size'])"
    )
    (repository / "matplotlibrc").write_text("text.usetex: True\nfont.size: 30\n")
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert run.stdout.split() == ["False", "9.5"], run.stderr
