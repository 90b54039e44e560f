"""Files of the command line's tests, and the command itself in this process."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from click.testing import CliRunner
from torch import nn

CLASSES = 5


def export(module: nn.Module, path: Path, shape: tuple[int, ...] = (3, 12, 12)) -> Path:
    """Write a module as ONNX with a free batch dimension."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.zeros(1, *shape),), str(path), dynamo=False, opset_version=17,
            do_constant_folding=False, input_names=["input"], dynamic_axes={"input": {0: "N"}},
        )  # fmt: skip
    return path


def leakaudit(*args: object) -> tuple[int, str, str]:
    """Run the installed entry point's function in this process."""
    from leakaudit.cli import main

    runner = CliRunner()
    words = [str(a) for a in args]
    with runner.isolation() as (out, err, _):
        argv, sys.argv = sys.argv, ["leakaudit", *words]
        try:
            main()
            code: object = 0
        except SystemExit as stop:
            code = stop.code
        finally:
            sys.argv = argv
        return int(str(code or 0)), out.getvalue().decode(), err.getvalue().decode()
