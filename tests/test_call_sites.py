"""Every place in the package where text becomes code, or an object is built by a file's word, with its reason.

No `eval`, `exec` or `compile` stands in the package, and no ``torch.fx`` code generation over what a file says.
A new call of one of these fails here until its reason is written down.
"""

from __future__ import annotations

import ast
from pathlib import Path

import leakaudit

PACKAGE = Path(leakaudit.__file__).parent
WATCHED = frozenset({
    "eval", "exec", "compile", "__import__", "import_module", "GraphModule", "recompile", "symbolic_trace",
    "Interpreter", "make_fx", "script", "trace_module", "aot_compile", "run_path", "run_module",
    "system", "popen", "Popen", "execv", "spawnv", "from_string", "sympify", "parse_expr", "lambdify",
    "literal_eval", "treespec_loads", "resolve_name",
})  # fmt: skip
"""Names that are watched whoever they belong to."""
LOADERS = frozenset({
    "torch.load", "torch.jit.load", "torch.export.load", "torch.hub.load", "torch.compile",
    "torch.package.PackageImporter", "torch.ops.load_library", "torch.classes.load_library", "pickle.load",
    "pickle.loads", "pickle.Unpickler", "joblib.load", "dill.loads", "marshal.loads", "yaml.load", "np.load",
    "numpy.load", "point.load", "variant.load", "ctypes.CDLL", "subprocess.run",
})  # fmt: skip
"""Loaders, by their full names."""
HARMLESS = {"re.compile", "self.system"}

ALLOWED: dict[tuple[str, str], str] = {
    ("__init__.py", "import_module"): "names of the package's own modules, from a table in the source",
    ("cli/__init__.py", "import_module"): "names of the package's own commands, from a table in the source",
    (
        "safety/importing.py",
        "importlib.import_module",
    ): "the function that the user names with --factory, --defence, --loss or --generator",
    ("risk/jacobian.py", "importlib.import_module"): "a constant: torch's forward-mode decompositions",
    ("target/parts.py", "ctypes.CDLL"): "the C library of this process, for malloc_trim and mallopt",
    ("target/archives.py", "torch.load weights_only=True"): "numbers",
    ("target/archives.py", "torch.load weights_only=False"): "--unsafe-pickle, which says that it runs code",
    ("target/archives.py", "torch.jit.load"): "--trust, which says that the program can read and write files",
    ("target/exported/read.py", "torch.load weights_only=True"): "numbers of the format before torch 2.8",
    ("scoring/perceptual.py", "torch.load weights_only=True"): "numbers of the perceptual metric",
    ("client/readers/npz.py", "np.load allow_pickle=False"): "numbers",
    ("safety/npz.py", "np.load allow_pickle=False"): "numbers",
    ("client/rounds/fobs.py", "np.load allow_pickle=False"): "numbers",
    ("plugins.py", "point.load"): "attacks, defences, formats and readers of installed packages, by their entry points",
    ("tasks/base.py", "resolve_name"): "a constant of the task's class",
    ("client/readers/labels.py", "resolve_name"): "a constant of the task's class",
    ("scoring/base.py", "resolve_name"): "a constant of the domain's class",
    ("client/readers/base.py", "resolve_name"): "a constant of the domain's class",
    (
        "report/domains/__init__.py",
        "resolve_name",
    ): "a table in the source, or a constant of an installed domain's class",
    ("matching/step.py", "make_fx"): "records tensor operators; names come from counters (tests/matching/test_step.py)",
    ("matching/step.py", "graph.recompile"): "the graph that make_fx has recorded",
    ("matching/step.py", "_inductor.compile"): "the graph that make_fx has recorded",
}


def sites(path: Path) -> list[tuple[str, int]]:
    """The watched calls of a source file and their lines; a keyword that decides about pickles is part of the name."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            found += [
                (ast.unparse(base), node.lineno) for base in node.bases if ast.unparse(base).endswith("GraphModule")
            ]
        if isinstance(node, ast.Name) and node.id in ("eval", "exec", "compile", "__import__"):
            found.append((node.id, node.lineno))
        if not isinstance(node, ast.Call) or (
            isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec", "compile")
        ):
            continue
        name = ast.unparse(node.func)
        if name.endswith(".eval") and not node.args:  # the mode of a module
            continue
        if (name.rpartition(".")[2] in WATCHED or name in LOADERS) and name not in HARMLESS:
            deciding = [k for k in node.keywords if k.arg in ("weights_only", "allow_pickle")]
            found.append((" ".join([name, *(f"{k.arg}={ast.unparse(k.value)}" for k in deciding)]), node.lineno))
    return found


def test_every_call_site_has_a_reason() -> None:
    seen = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE).as_posix()
        for name, line in sites(path):
            assert (where, name) in ALLOWED, f"{where}:{line} calls {name}: say why no file decides what it runs"
            seen.add((where, name))
    assert seen == set(ALLOWED), f"no longer there: {set(ALLOWED) - seen}"


def test_nothing_of_the_kind_is_imported_under_another_name() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                renamed = [alias.name for alias in node.names if alias.asname is not None]
                assert set(renamed) <= {"numpy", "operator", "torch.nn.functional", "matplotlib", "tomli"}, (
                    f"{path}: {renamed}"
                )
            if isinstance(node, ast.ImportFrom):
                module = node.module or ""
                for alias in node.names:
                    full = f"{module}.{alias.name}"
                    assert alias.asname is None or alias.name not in WATCHED, f"{path}: {full} as {alias.asname}"
                    assert full not in LOADERS, f"{path} imports {full}"
                    assert not module.startswith(("torch._export", "torch.export")), f"{path} uses torch's own loader"


def test_new_sites_are_seen(tmp_path: Path) -> None:
    source = tmp_path / "new.py"
    source.write_text(
        "class P(fx.GraphModule): pass\neval(text)\ntorch.load(p)\nfx.GraphModule(r, g)\nre.compile('x')\nm.eval()\n"
        "torch.export.load(p)\nnp.load(p, allow_pickle=True)\nlist(map(exec, texts))\n"
    )
    assert sorted(name for name, _ in sites(source)) == [
        "eval", "exec", "fx.GraphModule", "fx.GraphModule", "np.load allow_pickle=True", "torch.export.load",
        "torch.load",
    ]  # fmt: skip
