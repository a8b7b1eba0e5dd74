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


@pytest.fixture(scope="module")
def pool():
    """The Ray backend with one cluster for all tests of a module; whoever was killed leaves it."""
    from pooled import pooled_backend  # Ray is slow to import, and few modules need it

    with pooled_backend() as backend:
        yield backend
