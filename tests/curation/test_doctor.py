"""The doctor names the device that will compute, and what runs on it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from curation.backbone import describe_device
from curation.doctor import _device, _disk, _weights
from curation.errors import ConfigError, CurationError, WeightsError


def test_the_device_is_the_one_asked_for_then_the_projects_then_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "curation.toml").write_text('[backbone]\ndevice = "cuda:63"\n', encoding="utf-8")
    assert _device(tmp_path, "cpu").startswith("CPU, ")
    with pytest.raises(ConfigError, match="device 'cuda:63' is not there"):
        _device(tmp_path, None)
    assert _device(None, None) == describe_device("auto")


def test_a_gpu_is_named_with_its_memory_and_what_will_run_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA H200 number {device.index or 0}")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100 * 1024**3, 139 * 1024**3))
    words = describe_device("cuda:1")
    assert words == "NVIDIA H200 number 1, 100 of 139 GiB free: the whole network is fine-tuned in bf16"


def test_the_network_is_the_projects(tmp_path: Path) -> None:
    chosen = '[backbone]\nname = "resnet18"\nweights = "/gone/model.safetensors"\n'
    (tmp_path / "curation.toml").write_text(chosen, encoding="utf-8")
    with pytest.raises(WeightsError, match=r"/gone/model\.safetensors does not exist"):
        _weights(tmp_path)


def test_the_disk_is_the_one_that_the_project_is_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = {tmp_path: 1024**3, Path.cwd(): 5 * 1024**3}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=room[folder]))
    with pytest.raises(CurationError, match=rf"only 1\.0 GiB are free in {re.escape(str(tmp_path))}"):
        _disk(tmp_path)
    assert _disk(None) == "5 GiB free"
