"""Labels and checkpoints that cannot be used, at the command line: one clear line each, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import FakeSegmenter
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_labels import picture
from test_train import CONFIG

import floodmap.models.loading
import floodmap.training.finetune
from floodmap.errors import ModelError
from floodmap.masks.audit import audit
from floodmap.masks.labels import find_labels
from floodmap.masks.rules import FloodRule
from floodmap.masks.swaps import MOST, swapped_masks
from floodmap.models.digest import DIGEST, check_digest, with_digest
from floodmap.models.sam.flood_sam import FloodSam
from floodmap.training.config import TrainConfig
from floodmap.training.labelled import find_swapped_masks
from floodmap_cli.main import run

SIDE = 64
Spoil = Callable[[Path], None]


def mask(path: Path, values: tuple[int, ...] = (0, 1), shape_hw: tuple[int, int] = (SIDE, SIDE)) -> None:
    """Bands of these values from left to right."""
    cols = np.linspace(0, len(values), shape_hw[1], endpoint=False).astype(int)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.tile(np.array(values, np.uint8)[cols], (shape_hw[0], 1))).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four labelled pictures without problems."""
    for seed, name in enumerate("abcd"):
        picture(tmp_path / "set" / "images" / f"{name}.png", seed, SIDE)
        mask(tmp_path / "set" / "masks" / f"{name}.png", (0, 1) if seed % 2 else (1, 0, 0))
    return tmp_path / "set"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in a file as training writes it."""
    torch.manual_seed(0)
    state = {k: v.half() if v.is_floating_point() else v for k, v in FloodSam(CONFIG.encoder).state_dict().items()}
    header = {"architecture": "flood_sam", "config": json.dumps({"encoder": asdict(CONFIG.encoder)})}
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    save_file(state, path, metadata=with_digest(state, header))
    return path


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder with results of an earlier training and comparison."""
    folder = tmp_path / "mine"
    for name in ("w.safetensors", "w_run/log.csv", "w_run/last.pt", "report.html", "scores.csv", "summary.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"precious " + name.encode())
    return folder


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def command(name: str, data: Path, mine: Path, base: Path) -> list[str]:
    if name == "train":
        return ["train", str(data), "-o", str(mine / "w.safetensors"), "--base", str(base), "--device", "cpu"]
    return ["compare", str(data), "-o", str(mine), "--models", str(base), "--prompts", "none", "--device", "cpu"]


def refused(arguments: list[str], mine: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The error line that a command ends with; checks that the lines before are findings, and that no file changed."""
    before = contents(mine.parent)
    code = run([*arguments, *options])
    captured = capsys.readouterr()
    *listed, last = captured.err.splitlines()
    assert code == 1 and captured.out == "", captured.err
    assert all(line.startswith("floodmap: warning: ") for line in listed), captured.err
    assert last.startswith("floodmap: error: ") and "unexpected" not in last and "Traceback" not in last
    assert contents(mine.parent) == before
    return last


def every(spoil: Callable[[Path, str], None]) -> Spoil:
    def all_of(data: Path) -> None:
        for name in "abcd":
            spoil(data, name)

    return all_of


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def polygons(data: Path, name: str) -> None:
    (data / "masks" / f"{name}.png").unlink()
    (data / "masks" / f"{name}.gpkg").write_bytes(b"no polygons")


def jpeg(data: Path, name: str) -> None:
    path = data / "masks" / f"{name}.png"
    Image.open(path).save(path.with_suffix(".jpg"))
    path.unlink()


HOPELESS: dict[str, tuple[Spoil, str]] = {
    "missing": (every(lambda data, name: (data / "masks" / f"{name}.png").unlink()), "has no mask"),
    "jpeg": (every(jpeg), "not JPEG"),
    "size": (every(lambda data, name: mask(data / "masks" / f"{name}.png", shape_hw=(40, 50))), "50 x 40 pixels"),
    "open values": (every(lambda data, name: mask(data / "masks" / f"{name}.png", (0, 7))), "--flood-value"),
    "unscored": (every(lambda data, name: mask(data / "masks" / f"{name}.png", (255,))), "--flood-value"),
    "torn masks": (every(lambda data, name: cut(data / "masks" / f"{name}.png")), "cannot be read"),
    "torn pictures": (every(lambda data, name: cut(data / "images" / f"{name}.png")), "cannot be read"),
    "no pictures": (every(lambda data, name: (data / "images" / f"{name}.png").unlink()), "no labelled pictures"),
    "torn polygons": (every(polygons), "cannot be read"),
    "splits": (lambda data: (data / "splits.csv").write_text("picture\na\n") and None, "columns name and split"),
    "splits folder": (lambda data: (data / "splits.csv").mkdir(), "columns name and split"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "compare"])
@pytest.mark.parametrize("case", HOPELESS)
def test_labels_none_of_which_can_be_used_are_refused(
    case: str, name: str, data: Path, mine: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, told = HOPELESS[case]
    spoil(data)
    assert told in refused(command(name, data, mine, base), mine, capsys, "--overwrite")
    assert "already" in refused(command(name, data, mine, base), mine, capsys)


FINDINGS: dict[str, tuple[Spoil, str]] = {
    "missing mask": (lambda data: (data / "masks" / "a.png").unlink(), "a"),
    "stray mask": (lambda data: mask(data / "masks" / "z.png"), "z.png"),
    "size": (lambda data: mask(data / "masks" / "a.png", shape_hw=(SIDE, SIDE - 1)), "a"),
    "values": (lambda data: mask(data / "masks" / "a.png", (0, 1, 9)), "a"),
    "unreadable": (lambda data: cut(data / "images" / "a.png"), "a"),
    "unscored": (lambda data: mask(data / "masks" / "a.png", (255,)), "a"),
    "empty": (lambda data: mask(data / "masks" / "a.png", (0,)), "a"),
    "full": (lambda data: mask(data / "masks" / "a.png", (1,)), "a"),
    "duplicate": (
        lambda data: Image.open(data / "images" / "a.png").resize((SIDE, SIDE)).save(data / "images" / "d.png"), "d"
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", FINDINGS)
def test_every_finding_is_listed_and_strict_training_stops_there(
    kind: str, data: Path, mine: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, name = FINDINGS[kind]
    spoil(data)
    [finding] = audit(find_labels(data)).findings
    assert (finding.kind, finding.name) == (kind, name)
    before = contents(mine)
    code = run([*command("train", data, mine, base), "--overwrite", "--strict"])
    *listed, last = capsys.readouterr().err.splitlines()
    assert code == 1 and f"floodmap: warning: {finding}" in [" ".join(line.split()) for line in listed]
    assert "without --strict" in last and contents(mine) == before


@pytest.mark.slow
def test_a_comparison_lists_what_it_leaves_out_and_goes_on(
    data: Path, tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for spoil, _ in (FINDINGS["size"], FINDINGS["stray mask"]):
        spoil(data)
    mask(data / "masks" / "b.png", (0,))
    out = tmp_path / "new" / "out"
    assert run(command("compare", data, out, base)) == 0
    told = capsys.readouterr().err
    assert "left out: size: a: " in told and "warning: empty: b" in told and "stray mask: z.png" in told
    said = json.loads((out / "summary.json").read_text())
    assert {(one["kind"], one["name"]) for one in said["findings"]} >= {("size", "a"), ("empty", "b")}
    assert [one["name"] for one in said["pictures"]] == ["b", "c", "d"]


@pytest.mark.slow
def test_training_leaves_out_what_is_wrong_and_writes_a_digest(
    data: Path, tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = partial(TrainConfig, sizes=CONFIG.sizes, size_shares=CONFIG.size_shares)
    monkeypatch.setattr(floodmap.training.finetune, "TrainConfig", small)
    FINDINGS["values"][0](data)
    out = tmp_path / "out"
    assert run([*command("train", data, out, base), "--epochs", "1", "--val-share", "0.3"]) == 0
    assert "floodmap: warning: values: a: a.png has the values 9" in capsys.readouterr().err
    with safe_open(out / "w.safetensors", framework="pt") as file:
        header = file.metadata()
    state = load_file(out / "w.safetensors")
    check_digest(out, state, header)
    with pytest.raises(ModelError, match="changed or damaged"):
        check_digest(out, state, {**header, "calibration": "{}"})


@pytest.mark.slow
def test_without_a_name_results_lie_in_the_current_folder_and_the_last_line_says_where(
    data: Path, tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of masks with classes 0 to 9, in which 5 is flood and 0 not labelled."""
    for name in "abcd":
        mask(data / "masks" / f"{name}.png", (0, 1, 5, 9))
    small = partial(TrainConfig, sizes=CONFIG.sizes, size_shares=CONFIG.size_shares)
    monkeypatch.setattr(floodmap.training.finetune, "TrainConfig", small)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    settings = ["--flood-value", "5", "--ignore-value", "0", "--device", "cpu"]
    assert run(["train", "../set", "--base", str(base), "--epochs", "1", "--val-share", "0.3", *settings]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Use it: floodmap segment SCENE --model set.safetensors"
    with safe_open("set.safetensors", framework="pt") as file:
        made_of = json.loads(file.metadata()["training"])
    assert made_of["flood_values"] == [5] and made_of["ignored_values"] == [0]
    assert len(made_of["train"]) + len(made_of["val"]) == 4
    comparison = ["compare", "../set", "--models", "set.safetensors", "--prompts", "none", *settings]
    assert run(comparison) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert told == "Results: floodmap_output/ (report.html, scores.csv, summary.json)"
    assert run([*comparison, "--json", "--overwrite"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["pictures"] and captured.err.splitlines()[-1] == told
    assert sorted(path.name for path in Path().iterdir()) == ["floodmap_output", "set.safetensors", "set_run"]


@pytest.mark.slow
def test_one_picture_cannot_be_trained_on_but_compared(
    data: Path, mine: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "bcd":
        (data / "images" / f"{name}.png").unlink()
        (data / "masks" / f"{name}.png").unlink()
    assert "left to train on" in refused(command("train", data, mine, base), mine, capsys, "--overwrite")
    assert run([*command("compare", data, mine, base), "--overwrite"]) == 0


@pytest.mark.parametrize("how", ["folders", "empty folder", "file"])
def test_an_empty_val_split_is_refused(
    how: str, data: Path, mine: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if how == "file":
        (data / "splits.csv").write_text("name,split\na,train\nb,train\nc,test\n")
    else:
        (data / "train").mkdir()
        for folder in ("images", "masks"):
            (data / folder).rename(data / "train" / folder)
        for folder in ("images", "masks") if how == "empty folder" else ():
            (data / "val" / folder).mkdir(parents=True)
    assert "left to validate on" in refused(command("train", data, mine, base), mine, capsys, "--overwrite")
    told = refused(command("compare", data, mine, base), mine, capsys, "--overwrite", "--split", "val")
    assert "no usable picture in val" in told


def rewritten(base: Path, path: Path, state: dict[str, torch.Tensor] | None = None, **header: str) -> None:
    """The base with other tensors or another header; its digest stays, unless the header says otherwise."""
    with safe_open(base, framework="pt") as file:
        told = {**file.metadata(), **header}
    save_file(load_file(base) if state is None else state, path, metadata=told)


def with_first(base: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of the base, the first one changed."""
    state = load_file(base)
    name = min(name for name, tensor in state.items() if tensor.ndim == 4)
    return {**state, name: change(state[name]).contiguous()}


def without_first(base: Path) -> dict[str, torch.Tensor]:
    state = load_file(base)
    state.pop(min(name for name, tensor in state.items() if tensor.ndim == 4))
    return state


def flip(base: Path, path: Path) -> None:
    whole = bytearray(base.read_bytes())
    whole[-1000] ^= 1
    path.write_bytes(whole)


CHECKPOINTS: dict[str, Callable[[Path, Path], object]] = {
    "nothing": lambda base, path: path.write_bytes(b""),
    "text": lambda base, path: path.write_text("weights"),
    "cut in the header": lambda base, path: path.write_bytes(base.read_bytes()[:100]),
    "cut in the tensors": lambda base, path: path.write_bytes(base.read_bytes()[:-1]),
    "longer": lambda base, path: path.write_bytes(base.read_bytes() + b"more"),
    "foreign": lambda base, path: rewritten(base, path, architecture="unet"),
    "no header": lambda base, path: save_file(load_file(base), path),
    "other shape": lambda base, path: rewritten(base, path, config=json.dumps({"encoder": {"embed_dim": 32}})),
    "no config": lambda base, path: rewritten(base, path, config="{"),
    "fewer channels": lambda base, path: rewritten(base, path, with_first(base, lambda x: x[:-1])),
    "tensors missing": lambda base, path: rewritten(base, path, without_first(base)),
}  # fmt: skip
SEALED: dict[str, Callable[[Path, Path], object]] = {
    "bit flipped": flip,
    "other calibration": lambda base, path: rewritten(base, path, calibration=json.dumps({"scale": 2.0})),
    "not numbers": lambda base, path: rewritten(base, path, with_first(base, lambda x: x * torch.nan)),
}


def refuses_checkpoint(
    spoil: Callable[[Path, Path], object],
    name: str,
    data: Path,
    mine: Path,
    base: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = mine.parent / "given.safetensors"
    spoil(base, path)
    assert "given.safetensors" in refused(command(name, data, mine, path), mine, capsys, "--overwrite")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "compare"])
@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_that_does_not_fit_is_refused(
    case: str, name: str, data: Path, mine: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuses_checkpoint(CHECKPOINTS[case], name, data, mine, base, capsys)


@pytest.mark.parametrize("name", ["train", "compare"])
@pytest.mark.parametrize("case", SEALED)
def test_a_checkpoint_that_was_tampered_with_is_refused(
    case: str, name: str, data: Path, mine: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuses_checkpoint(SEALED[case], name, data, mine, base, capsys)


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 cut"])
@pytest.mark.parametrize("name", ["train", "compare"])
def test_a_pth_that_is_none_is_refused(
    content: bytes, name: str, data: Path, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = mine.parent / "given.pth"
    path.write_bytes(content)
    assert "given.pth" in refused(command(name, data, mine, path), mine, capsys, "--overwrite")


@pytest.mark.parametrize("changed", ["weight", "header", "name"])
def test_a_digest_fails_with_any_change(changed: str) -> None:
    state = {"a": torch.arange(6.0).half().reshape(2, 3), "b": torch.tensor(3), "c": torch.ones(2).bfloat16()}
    header = with_digest(state, {"config": "{}"})
    check_digest(Path("whole"), state, header)
    assert header[DIGEST] == with_digest(dict(reversed(state.items())), {"config": "{}"})[DIGEST]
    if changed == "weight":
        state["b"] = torch.tensor(4)
    elif changed == "name":
        state["d"] = state.pop("a")
    else:
        header["config"] = "{ }"
    with pytest.raises(ModelError, match="whole was changed"):
        check_digest(Path("whole"), state, header)


def test_without_a_digest_only_finite_numbers_are_required() -> None:
    check_digest(Path("old"), {"a": torch.ones(2)}, {})
    with pytest.raises(ModelError, match="no finite numbers"):
        check_digest(Path("old"), {"a": torch.tensor([1.0, torch.inf])}, {})
    with pytest.raises(ModelError, match="diverged"):
        with_digest({"a": torch.tensor([torch.nan])}, {})


@pytest.mark.slow
def test_polygons_are_labels_and_an_attribute_says_which_are_flood(tmp_path: Path) -> None:
    import geopandas
    import rasterio
    import shapely
    from rasterio.transform import from_origin

    grid = {"crs": "EPSG:32643", "transform": from_origin(500_000, 3_000_000, 1, 1)}
    rgb = np.random.default_rng(0).integers(1, 255, (3, SIDE, SIDE)).astype(np.uint8)
    for name in ("near", "far", "raster"):
        with rasterio.open(
            tmp_path / f"{name}.tif", "w", driver="GTiff", width=SIDE, height=SIDE, count=3, dtype="uint8", **grid
        ) as file:
            file.write(rgb)
    mask(tmp_path / "raster_mask.png")
    for name, west in (("near", 500_000), ("far", 600_000)):
        boxes = [shapely.box(west, 2_999_990, west + 20, 3_000_000), shapely.box(west, 2_999_940, west + 20, 2_999_950)]
        table = geopandas.GeoDataFrame({"class": ["water", "field"]}, geometry=boxes, crs=grid["crs"])
        table.to_file(tmp_path / f"{name}.gpkg")
    for flood_value, flooded in ((None, 400), ("class=water", 200)):
        found = audit(find_labels(tmp_path), flood_value=flood_value)
        assert [(one.kind, one.name) for one in found.findings if one.kind != "duplicate"] == [("unreadable", "far")]
        assert [one.name for one in found.usable] == ["near", "raster"]
        pieces = floodmap.training.labelled.pieces(found.usable[0], found.rule)
        assert sum(int((piece.mask == 1).sum()) for piece in pieces) == flooded


def test_pictures_of_one_stem_keep_apart(data: Path) -> None:
    Image.open(data / "images" / "a.png").save(data / "images" / "a.bmp")
    names = [one.name for one in find_labels(data).labelled]
    assert names == ["a.bmp", "a.png", "b", "c", "d"]


# Masks in each other's place


def pool(seed: int, shape_hw: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """A rectangle of flood, at a different place for each seed from 0 to 8."""
    flood, (height, width) = np.zeros(shape_hw, np.uint8), shape_hw
    row, col = divmod(seed, 3)
    flood[row * height // 3 : (row + 1) * height // 3, col * width // 3 : (col + 1) * width // 3] = 1
    return flood


def pools(folder: Path, masks: dict[str, int]) -> Path:
    """Pictures a, b, c ... with water, blue, at 0, 1, 2 ..., and masks with flood at these places."""
    for seed, name in enumerate(masks):
        flood = pool(seed)
        rgb = np.random.default_rng(seed).integers(0, 90, (SIDE, SIDE, 3)).astype(np.uint8)
        rgb[..., 2] = flood * 255
        for kind, pixels in (("images", rgb), ("masks", pool(masks[name]))):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"{name}.png")
    return folder


def test_swapped_masks_are_found_among_pictures_of_one_size_and_wrong_ones_are_not() -> None:
    names, places = list("abcdef"), [0, 2, 1, 3, 5, 7]
    predicted, masks = [pool(i) for i in range(6)], [pool(i) for i in places]
    sizes = [(SIDE, SIDE)] * 6
    [finding] = swapped_masks(names, predicted, masks, sizes)
    assert (finding.kind, finding.name) == ("swapped", "b") and "the mask of c" in finding.text
    sizes[1] = (SIDE, 2 * SIDE)
    assert not list(swapped_masks(names, predicted, masks, sizes))
    assert not list(swapped_masks(names, predicted, [pool(i) for i in range(6)], sizes))
    assert not list(swapped_masks([], [], [], []))


def test_dry_and_flooded_pictures_are_told_apart_too() -> None:
    dry, unseen = np.zeros((SIDE, SIDE), np.uint8), pool(8) * 255
    [finding] = swapped_masks(["wet", "dry"], [pool(4), dry], [dry | unseen, pool(4) | unseen], [(SIDE, SIDE)] * 2)
    assert finding.name == "wet"


@pytest.mark.slow
def test_thousands_of_suspects_are_compared_at_once() -> None:
    count = MOST + 500
    predicted = [pool(0)] * count
    masks = [pool(1)] * count
    masks[7], predicted[7], masks[9], predicted[9] = pool(5), pool(3), pool(3), pool(5)
    found = list(swapped_masks([f"{i}" for i in range(count)], predicted, masks, [(SIDE, SIDE)] * count))
    assert [(one.name, one.text.split()[6]) for one in found] == [("7", "9")]


def test_a_model_that_knows_floods_finds_them_in_a_folder(tmp_path: Path) -> None:
    labelled = find_labels(pools(tmp_path, {"a": 1, "b": 0, "c": 2, "d": 3})).labelled
    model = FakeSegmenter()
    assert [one.name for one in find_swapped_masks(model, labelled, FloodRule(values=(1.0,)))] == ["a"]
    model.knows_floods = False
    assert not find_swapped_masks(model, labelled, FloodRule(values=(1.0,)))


@pytest.mark.slow
def test_compare_and_train_warn_of_swapped_masks(
    tmp_path: Path, mine: Path, base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pools(tmp_path / "set", {"a": 0, "b": 2, "c": 1, "d": 3})
    for module in (floodmap.models.loading, floodmap.training.finetune):
        monkeypatch.setattr(module, "load_segmenter", lambda *_: FakeSegmenter())
    out = tmp_path / "out"
    assert run(command("compare", data, out, base)) == 0
    assert "floodmap: warning: swapped: b: its mask and the mask of c seem to be exchanged" in capsys.readouterr().err
    assert [one["kind"] for one in json.loads((out / "summary.json").read_text())["findings"]] == ["swapped"]
    assert "(1) is in summary.json" in (out / "report.html").read_text()
    before = contents(mine)
    assert run([*command("train", data, mine, base), "--overwrite", "--strict"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("floodmap: warning: swapped: b: ") and "1 findings" in told[1] and len(told) == 2
    assert contents(mine) == before
