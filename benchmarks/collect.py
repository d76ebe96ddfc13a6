"""A whole collect of 5,000 JPEGs against imagededup and against bare decoding, and the near-duplicate search over a million hashes.

Usage: python benchmarks/collect.py PHOTOS [--images 5000] [--rounds 3] [--work FOLDER]

Not within five minutes of another run: ext4 steps over every file deleted in that time when it makes a new one.

PHOTOS: a folder with JPEGs of 640x480 (blood cells). Each is cut, stretched and flipped into as many different ones as asked for; they are made once
and kept in the work folder. `vs_imagededup`: how many times faster than imagededup's PHash encode and search with two workers. `vs_bare_decode`:
images a second against nothing but reading and decoding at 1/8 size in grey by two processes. `search_1m_s`: all pairs within 6 bits among a million
random hashes with 2,000 planted pairs, in a process of its own whose peak memory is measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from pipelines.core.champion import ChampionRecord, write_champions
from pipelines.stages.collect import work

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "collect.json"
WORKERS = 2
RADIUS_BITS = 6


def make_photos(photos: Path, folder: Path, count: int) -> None:
    """Fill `folder` with `count` different JPEGs of about the size in bytes of the originals."""
    originals = sorted(photos.glob("*.jpg"))
    if not originals:
        sys.exit(f"{photos} has no *.jpg: name a folder of photos")
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        target = folder / f"{number:06d}.jpg"
        left, top = int(rng.integers(0, 160)), int(rng.integers(0, 120))
        flip = int(rng.integers(-1, 3))
        if target.exists():
            continue
        image = cv2.imread(str(originals[number % len(originals)]))
        assert image is not None
        cut = cv2.resize(image[top : top + 360, left : left + 480], (640, 480), interpolation=cv2.INTER_CUBIC)
        content = cv2.imencode(".jpg", cv2.flip(cut, flip) if flip < 2 else cut, [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes()
        target.write_bytes(content)


def decode(paths: list[str]) -> int:
    """Read and decode at 1/8 size, nothing else."""
    for path in paths:
        with open(path, "rb") as file:
            image = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
        assert image is not None
    return len(paths)


def bare_decode_s(paths: list[str]) -> float:
    """Seconds of `decode` over all by two processes that have been started and warmed before."""
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        pool.map(decode, [paths[:20]] * WORKERS, chunksize=1)
        start = time.perf_counter()
        pool.map(decode, [paths[offset : offset + 100] for offset in range(0, len(paths), 100)], chunksize=1)
        return time.perf_counter() - start


def collect_s(inbox: Path, folder: Path) -> float:
    """Seconds of the collect stage into a new folder."""
    folder.mkdir()
    (folder / "params.yaml").write_text("classes: [{name: cell}]\n")
    (folder / "fetched").mkdir()
    shutil.copytree(ROOT / "data/lists", folder / "lists")
    write_champions(folder / "screener.json", ChampionRecord())
    return again_s(inbox, folder)


def again_s(inbox: Path, folder: Path) -> float:
    """Seconds of the collect stage as the folder stands."""
    settings = {"params": "params.yaml", "lists": "lists", "screener": "screener.json", "store": "champions"}
    names = {**settings, "fetched": "fetched", "raw": "raw", "work": "work", "metrics": "collect.json"}
    start = time.perf_counter()
    work(argparse.Namespace(inbox=inbox, **{option: folder / name for option, name in names.items()}))
    return time.perf_counter() - start


IMAGEDEDUP = """
import sys, time
from imagededup.methods import PHash
if __name__ == "__main__":
    method = PHash(verbose=False)
    start = time.perf_counter()
    codes = method.encode_images(image_dir=sys.argv[1], num_enc_workers=2)
    method.find_duplicates(encoding_map=codes, max_distance_threshold=6, num_dist_workers=2)
    print(time.perf_counter() - start)
"""

SEARCH = """
import resource, sys, time
import numpy as np
from pipelines.collect.hash_index import candidate_pairs
rng = np.random.default_rng(0)
hashes = rng.integers(0, 2**64, int(sys.argv[1]), dtype=np.uint64)
planted = rng.permutation(len(hashes))[:4000].reshape(2, -1)
for copy, original in planted.T:
    bits = rng.permutation(64)[: rng.integers(0, 7)].astype(np.uint64)
    hashes[copy] = hashes[original] ^ np.bitwise_or.reduce(np.uint64(1) << bits, initial=np.uint64(0))
start = time.perf_counter()
found = {tuple(pair) for block in candidate_pairs(hashes, 6) for pair in block.tolist()}
seconds = time.perf_counter() - start
missed = {(min(a, b), max(a, b)) for a, b in planted.T.tolist()} - found
print(seconds, len(missed), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2))
"""


def run_script(source: str, argument: str) -> list[float]:
    """The numbers that a script prints in its last line, run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "script.py"
        script.write_text(source)
        done = subprocess.run([sys.executable, str(script), argument], check=True, capture_output=True, text=True)
    return [float(part) for part in done.stdout.splitlines()[-1].split()]


def main() -> None:
    """Measure, print one JSON object, write it to results/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path, default=Path("build/collect"))
    parser.add_argument("--only-prepare", action="store_true", help="make the images and stop")
    args = parser.parse_args()
    inbox = args.work / f"inbox-{args.images}"
    make_photos(args.photos, inbox / "camera", args.images)
    if args.only_prepare:
        return
    paths = [str(path) for path in sorted((inbox / "camera").iterdir())]
    bare, ours = [], []
    with tempfile.TemporaryDirectory(dir=args.work) as out:
        for number in range(args.rounds):  # in turn, so that a slow minute of the machine meets both
            bare.append(bare_decode_s(paths))
            # each in a folder of its own, all removed at the end, see above
            ours.append(collect_s(inbox, Path(out) / str(number)))
        again = again_s(inbox, Path(out) / str(number))
    (theirs_s,) = run_script(IMAGEDEDUP, str(inbox / "camera"))
    search_s, missed, peak_mb = run_script(SEARCH, str(args.hashes))
    collect_median = statistics.median(ours)
    result = {
        "images": len(paths),
        "mean_bytes": statistics.mean(Path(path).stat().st_size for path in paths),
        "collect_s": ours,
        "collect_again_s": again,
        "bare_decode_s": bare,
        "imagededup_s": theirs_s,
        "hashes": args.hashes,
        "search_1m_s": search_s,
        "search_missed_planted": int(missed),
        "search_peak_rss_mb": peak_mb,
        "ratios": {"vs_imagededup": theirs_s / collect_median, "vs_bare_decode": statistics.median(bare) / collect_median},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
