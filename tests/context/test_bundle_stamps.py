"""Files are hashed once; afterwards their size and time of change are trusted, until either changes."""

import os

import pytest
from mechinterp_runner.context import bundle as module
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.schemas.errors import BundleError


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were hashed, in order."""
    seen = []
    original = module.sha256_of

    def counting(path):
        seen.append(path.name)
        return original(path)

    monkeypatch.setattr(module, "sha256_of", counting)
    return seen


@pytest.fixture
def stamps(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home" / "verified"


def flip(path, later: int = 10**9) -> None:
    """Change one byte, and the time of change by a second."""
    changed = path.stat().st_mtime_ns
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(changed, changed + later))


def test_the_first_open_hashes_every_file_and_the_second_none(small_bundle, stamps, hashed):
    first = Bundle.open(small_bundle, stamps=stamps)
    assert len(hashed) == len(first.manifest.files)
    hashed.clear()
    assert Bundle.open(small_bundle, stamps=stamps) == first
    assert hashed == []


@pytest.mark.parametrize("name", ["vocab.json", "sae.safetensors", "examples/levels.npy"])
def test_a_file_that_changed_after_it_was_hashed_is_noticed(small_bundle, stamps, hashed, name):
    Bundle.open(small_bundle, stamps=stamps)
    flip(small_bundle / name)
    with pytest.raises(BundleError, match="does not have the SHA-256"):
        Bundle.open(small_bundle, stamps=stamps)
    with pytest.raises(BundleError, match="does not have the SHA-256"):
        Bundle.open(small_bundle, stamps=stamps)


def test_a_touched_file_is_hashed_again_and_accepted(small_bundle, stamps, hashed):
    Bundle.open(small_bundle, stamps=stamps)
    os.utime(small_bundle / "vocab.json", ns=(0, 10**18))
    hashed.clear()
    bundle = Bundle.open(small_bundle, stamps=stamps)
    assert len(hashed) == len(bundle.manifest.files)


def test_a_truncated_or_missing_file_is_noticed_although_nothing_is_hashed(small_bundle, stamps):
    Bundle.open(small_bundle, stamps=stamps)
    path = small_bundle / "examples/levels.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match="bytes where the manifest says"):
        Bundle.open(small_bundle, hash_files=False)
    path.unlink()
    with pytest.raises(BundleError, match="is missing"):
        Bundle.open(small_bundle, hash_files=False)


def test_a_copy_elsewhere_is_hashed_for_itself(small_bundle, stamps, hashed, tmp_path):
    Bundle.open(small_bundle, stamps=stamps)
    hashed.clear()
    small_bundle.rename(tmp_path / "moved")
    Bundle.open(tmp_path / "moved", stamps=stamps)
    assert hashed


def test_without_stamps_every_open_hashes(small_bundle, hashed):
    Bundle.open(small_bundle)
    once = len(hashed)
    Bundle.open(small_bundle)
    assert len(hashed) == 2 * once > 0


def test_verifying_hashes_again_whatever_is_remembered(small_bundle, stamps, hashed):
    bundle = Bundle.open(small_bundle, stamps=stamps)
    hashed.clear()
    checked = []
    bundle.check(hash_files=True, progress=checked.append)
    assert len(hashed) == len(checked) == len(bundle.manifest.files)
    assert checked == list(bundle.manifest.files)
    path = small_bundle / "vocab.json"
    before = path.stat()
    flip(path, later=0)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    bundle.check(hash_files=False)
    with pytest.raises(BundleError, match=r"vocab\.json does not have the SHA-256"):
        bundle.check(hash_files=True)


def test_a_failed_check_is_not_remembered(small_bundle, stamps):
    flip(small_bundle / "vocab.json")
    with pytest.raises(BundleError, match="SHA-256"):
        Bundle.open(small_bundle, stamps=stamps)
    assert not stamps.exists()


def test_a_home_that_cannot_remember_only_means_hashing_again(small_bundle, tmp_path, hashed):
    (tmp_path / "verified").write_text("a file where the folder would be")
    Bundle.open(small_bundle, stamps=tmp_path / "verified")
    Bundle.open(small_bundle, stamps=tmp_path / "no" / "home" / "verified")
    assert len(hashed) > 0
    assert not (tmp_path / "no").exists()
