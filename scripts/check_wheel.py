"""Check the content of wheels: `python scripts/check_wheel.py dist/*.whl`, run from the repository's root.

Tests run on an editable install, in which files that are missing from the wheel are also found.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

REQUIRED = {
    "floodmap/py.typed",
    "floodmap/weights/finetuned.safetensors",
    "floodmap/weights/finetuned.json",
    "floodmap/output/styles/flood.qml",
    "floodmap/output/styles/unobserved.qml",
    "floodmap/output/styles/mask.qml",
    "floodmap/output/styles/probability.qml",
    "floodmap/output/templates/comparison.html",
}
MAX_WEIGHTS_BYTES = 25_000_000


def expected(root: Path) -> set[str]:
    """Return the names inside the wheel of all modules, weights, styles and templates of the working tree."""
    names = set(REQUIRED)
    for folder, package in (("floodmap", "floodmap"), ("cli/floodmap_cli", "floodmap_cli")):
        names |= {f"{package}/{path.relative_to(root / folder).as_posix()}" for path in (root / folder).rglob("*.py")}
    for folder in ("weights", "output/styles", "output/templates"):
        names |= {f"floodmap/{folder}/{path.name}" for path in (root / "floodmap" / folder).iterdir()}
    return names


def problems(wheel: Path, root: Path) -> list[str]:
    """Return one line for each problem of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        metadata = archive.read(next(name for name in sizes if name.endswith(".dist-info/METADATA"))).decode()
        scripts = archive.read(next(name for name in sizes if name.endswith(".dist-info/entry_points.txt"))).decode()
    wrong = [f"missing: {name}" for name in sorted(expected(root) - set(sizes))]
    wrong += [f"empty: {name}" for name in sorted(REQUIRED & set(sizes)) if not sizes[name] and "py.typed" not in name]
    packages = ("floodmap/", "floodmap_cli/")
    wrong += [f"foreign: {n}" for n in sorted(sizes) if not n.startswith(packages) and ".dist-info/" not in n]
    weights = sizes.get("floodmap/weights/finetuned.safetensors", 0)
    if weights > MAX_WEIGHTS_BYTES:
        wrong.append(f"too large: the shipped weights have {weights} bytes, {MAX_WEIGHTS_BYTES} at most")
    if "License-File: LICENSE" not in metadata:
        wrong.append("missing: LICENSE")
    if "floodmap = floodmap_cli.main:main" not in scripts:
        wrong.append("missing: the floodmap command")
    return wrong


def main(args: list[str]) -> int:
    """Check these wheels; return 1 if a wheel has problems, 2 without arguments."""
    if not args:
        print("usage: check_wheel.py WHEEL...", file=sys.stderr)
        return 2
    found = [(Path(arg), problems(Path(arg), Path.cwd())) for arg in args]
    for wheel, wrong in found:
        print(f"{wheel.name}: {'; '.join(wrong) or f'complete, {wheel.stat().st_size / 1e6:.1f} MB'}")
    return int(any(wrong for _, wrong in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
