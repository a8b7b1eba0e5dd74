"""What every test starts from."""

import os

import pytest
import torch

# Before any actor or subprocess starts: the small networks here are slower on many threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    """Work in an empty folder, where ``runs/`` will appear; its path."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
