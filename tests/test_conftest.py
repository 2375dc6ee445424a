"""The guard of conftest.py can fail, names what leaked, and keeps the leak from the next test."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest
import torch

LEAKS = {
    "grad mode": "torch.set_grad_enabled(False)",
    "default dtype": "torch.set_default_dtype(torch.float64)",
    "default device": "torch.set_default_device('meta')",
    "deterministic flag": "torch.use_deterministic_algorithms(True)",
    "number of threads": "torch.set_num_threads(2)",
    "anomaly mode": "torch.autograd.set_detect_anomaly(True, check_nan=False)",
    "autocast on cpu": "torch.set_autocast_enabled('cpu', True)",
    "float32 matmul precision": "torch.set_float32_matmul_precision('high')",
    "module_global_forward_hooks": "module.register_module_forward_hook(print)",
    "module_global_forward_pre_hooks": "module.register_module_forward_pre_hook(print)",
    "module_global_backward_hooks": "module.register_module_full_backward_hook(print)",
    "module_global_parameter_registration_hooks": "module.register_module_parameter_registration_hook(print)",
}


def test_the_guard_fails_each_leaking_test_and_only_these(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    tests = ["import torch", "from torch.nn.modules import module"]
    for i, leak in enumerate(LEAKS.values()):
        tests += [f"def test_leak_{i}(): {leak}", f"def test_clean_{i}(): pass"]
    (tmp_path / "test_leaks.py").write_text("\n".join(tests), encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-ra", "--color=no", str(tmp_path)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stdout + run.stderr
    assert f"{2 * len(LEAKS)} passed, {len(LEAKS)} errors" in run.stdout, run.stdout
    for i, name in enumerate(LEAKS):
        pattern = rf"ERROR at teardown of test_leak_{i} _+\nthe test leaked global state; {re.escape(name)}: "
        assert re.search(pattern, run.stdout), f"{name} went unnoticed:\n{run.stdout}"
    assert not re.search(r"ERROR .*test_clean", run.stdout), run.stdout


def test_one_thread() -> None:
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("again", [1, 2])
def test_each_test_starts_from_the_same_seed(again: int) -> None:
    torch.testing.assert_close(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(0)), rtol=0, atol=0)


def test_hypothesis_profile() -> None:
    settings = hypothesis.settings.default
    assert settings is not None
    assert settings.deadline is None
    assert settings.database is None
