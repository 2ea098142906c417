"""The loader: what it compiles, keeps, and says where it cannot."""

import os
import shutil
import signal

import pytest
import torch

from cgfe import native
from cgfe.kernels.simulation import runs_natively
from cgfe.kernels.training import is_supported

pytestmark = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")),
    reason="the kernels need a C++ compiler",
)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Forget what is compiled, before and after."""

    def forget():
        native.library.cache_clear()
        native._compiler.cache_clear()

    forget()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path
    forget()


def test_without_a_compiler_it_says_so_once(monkeypatch, caplog, fresh):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for _ in range(3):
        assert not runs_natively(torch.zeros(1))
        assert not is_supported(torch.zeros(1))
    assert len(caplog.records) == 1
    assert "no C++ compiler" in caplog.text


def test_a_broken_library_is_compiled_again(fresh, caplog, monkeypatch):
    assert native.library("simulation") is not None
    (whole,) = (fresh / "cgfe").glob("simulation-*.so")
    # In another folder, since a process loads no file twice.
    other = fresh / "other" / "cgfe" / whole.name
    other.parent.mkdir(parents=True)
    other.write_bytes(b"of another system")
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh / "other"))
    native.library.cache_clear()
    assert native.library("simulation") is not None
    assert other.stat().st_size == whole.stat().st_size
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_a_cache_that_cannot_be_written_is_done_without(fresh, caplog, monkeypatch):
    (fresh / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh / "file"))
    assert native.library("simulation") is not None
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_a_source_that_does_not_compile_says_why_once(fresh, caplog, monkeypatch):
    monkeypatch.setattr(native, "_with_headers", lambda text: "no C++")
    assert native.library("training", "-fopenmp") is None
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "training.cpp does not run" in caplog.text
    assert "error" in caplog.text


def test_options_that_a_compiler_does_not_know_are_left_out(fresh, caplog, monkeypatch):
    # Words behind the compiler's name are kept: a wrapper, or options.
    monkeypatch.setenv("CXX", "env c++")
    assert native.library("simulation", "-fno-such-option") is not None
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    native.in_parallel(lambda *_: None, 2, 2)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends a process that waits for threads which it does not have
        native.in_parallel(lambda *_: None, 2, 2)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
