"""Band assignment: which bands of a raster are red, green, blue, near infrared and alpha."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rasterio.enums import ColorInterp

from floodmap.errors import SceneError

Role = Literal["red", "green", "blue", "nir"]
RGB: tuple[Role, ...] = ("red", "green", "blue")

_WORDS: dict[Role, tuple[str, ...]] = {
    "red": ("red", "rot", "rouge", "rojo", "rosso", "vermelho"),
    "green": ("green", "grn", "grün", "gruen", "vert", "verde"),
    "blue": ("blue", "blau", "bleu", "azul", "blu"),
    "nir": ("nir", "nir1", "nir08", "nir8", "infrared", "ir", "ir1", "pir", "vnir", "infrarrojo", "infrarouge"),
}  # fmt: skip
_OTHER_BANDS = frozenset({
    "edge", "re", "rededge", "coastal", "aerosol", "ultra", "deep", "yellow", "swir", "shortwave", "short", "thermal",
    "mid", "i", "ii", "narrow", "nir2", "ndvi", "ndwi", "index", "ratio", "pan",
})  # fmt: skip
"""Words in a band name that show that the band is not plain red, green, blue or near infrared.

Examples are `edge` in "red edge", `coastal` in "coastal blue", `short` in "short wave ir", and `i` in "green i" (a
second green band of PlanetScope)."""
_WAVELENGTHS_NM: dict[Role, tuple[float, float, float]] = {
    "blue": (440, 490, 519), "green": (520, 560, 600), "red": (620, 660, 690), "nir": (760, 840, 900),
}  # fmt: skip
"""For each role, the shortest, best and longest wavelength in nanometres.

Of several bands between the shortest and the longest wavelength, the band nearest to the best wavelength is used."""
_CODE = re.compile(r"(?:b|band ?)0*([0-9]{1,2})(a?)")
_SENSORS = re.compile(r"\b(sr|landsat|l[5789]|lc0[89]|le07|lt05|sentinel|s2[abc]?)\b")
_SENTINEL_2: dict[Role, str] = {"blue": "2", "green": "3", "red": "4", "nir": "8"}
_LANDSAT_8: dict[Role, str] = {"blue": "2", "green": "3", "red": "4", "nir": "5"}
_LANDSAT_5: dict[Role, str] = {"blue": "1", "green": "2", "red": "3", "nir": "4"}
_SPOT: dict[Role, str] = {"blue": "0", "green": "1", "red": "2", "nir": "3"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BandChoice:
    """Bands of a raster by role. Band numbers count from 1."""

    rgb: tuple[int, ...]
    """Bands of red, green and blue; or a single band, used as grey or as palette indices."""
    nir: int | None = None
    """Band of near infrared; None: not used."""
    nir_assumed: bool = False
    """True if `nir` is an assumption: neither the user nor the file says that this band is near infrared.

    The raster then has four bands, alpha not counted. If red, green and blue are known, `nir` is the fourth: the band
    that is none of these. If they are not known, `nir` is the last band."""
    alpha: int | None = None
    """Alpha band, in which 0 is transparent; None: there is no alpha band."""
    palette: bool = False
    """Whether the values of the single band are indices of a colour table."""
    guess: str = ""
    """Message about an assumed band assignment and the option that changes the assignment; empty without assumption."""

    @property
    def used(self) -> tuple[int, ...]:
        """Numbers of the bands that are read, near infrared last; alpha is not included."""
        return self.rgb if self.nir is None else (*self.rgb, self.nir)


def choose_bands(
    colorinterp: Sequence[ColorInterp],
    descriptions: Sequence[str | None] = (),
    *,
    wanted: tuple[int, ...] | None = None,
    name: object = "scene",
    colours_are_default: bool = False,
) -> BandChoice:
    """Assign the bands of a raster to red, green, blue, near infrared and alpha.

    The numbers given by the user decide. Without numbers, the names of the bands decide, then the colour
    interpretation, then the order of the bands. Names come before colour interpretation, because GDAL calls the first
    three bands of any file of three or four 8-bit bands red, green and blue.

    If the order decides, alpha bands are not counted. In a raster of one or two bands, the first band is grey. Three
    bands are RGB. Four bands are RGB and near infrared. In a raster of five or more bands, the first three are RGB.

    Args:
        colorinterp: colour interpretation of each band, as rasterio returns it.
        descriptions: name of each band, as rasterio returns it: `Red`, `NIR`, `665 nm` or Sentinel-2's `B04`, say.
        wanted: numbers, from 1, of one band (grey), three (RGB) or four (RGB and near infrared), given by the user;
            None: no numbers are given.
        name: name of the file, for messages.
        colours_are_default: True: the raster has four 8-bit bands, and its colour interpretation is only GDAL's default
            for such rasters. A choice by colour interpretation is then an assumption (see `BandChoice.guess`).

    Raises:
        SceneError: the length of `wanted` is not 1, 3 or 4, or `wanted` has the number of a band that does not exist.
    """
    alphas = [band for band, kind in enumerate(colorinterp, 1) if kind == ColorInterp.alpha]
    usable = [band for band in range(1, len(colorinterp) + 1) if band not in alphas]
    if wanted is not None:
        rgb, nir = _chosen_by_user(wanted, len(colorinterp), name)
        alphas = [] if alphas and alphas[-1] in wanted else alphas
        guess = ""
    else:
        rgb, nir, guess = _detected(colorinterp, descriptions, usable, colours_are_default)
        if not rgb:  # an alpha band and nothing else
            rgb, alphas = (alphas[0],), []
    names = {band: text for band, text in enumerate(descriptions, 1) if text and band in usable}
    assumed = wanted is None and nir is not None and colorinterp[nir - 1].name != "nir" and "nir" not in _by_name(names)
    palette = len(rgb) == 1 and colorinterp[rgb[0] - 1] == ColorInterp.palette
    guess = f"{name}: {guess}" if guess and not palette else ""
    alpha = alphas[-1] if alphas else None
    return BandChoice(rgb=rgb, nir=nir, nir_assumed=assumed, alpha=alpha, palette=palette, guess=guess)


def _chosen_by_user(wanted: tuple[int, ...], count: int, name: object) -> tuple[tuple[int, ...], int | None]:
    if len(wanted) not in (1, 3, 4):
        raise SceneError(f"{len(wanted)} bands chosen for {name}; choose 1 (grey), 3 (red, green, blue) or 4 (and NIR)")
    missing = [str(band) for band in wanted if not 1 <= band <= count]
    if missing:
        raise SceneError(f"{name} has no band {', '.join(missing)}; it has bands 1 to {count}")
    return (wanted, None) if len(wanted) < 4 else (wanted[:3], wanted[3])


def _detected(
    colorinterp: Sequence[ColorInterp], descriptions: Sequence[str | None], usable: list[int], default: bool
) -> tuple[tuple[int, ...], int | None, str]:
    """Find the colour bands and near infrared by names, colour interpretation and order, as in `choose_bands`.

    `usable` are the numbers of all bands except alpha. `default` is `colours_are_default` of `choose_bands`. Return
    three values: the numbers of the colour bands; the number of the near infrared band, or None; and a message if the
    assignment is an assumption, else an empty text.
    """
    names = {band: text for band, text in enumerate(descriptions, 1) if text and band in usable}
    named = _by_name(names)
    roles = {band: role for role, band in named.items()}
    informative = {
        band for band, text in names.items() if re.sub(r"(?i)^b(and)?[ _]*0*", "", text.strip()) != str(band)
    }
    by_colour: dict[str, int] = {}
    for band in usable:
        colour = colorinterp[band - 1].name
        if roles.get(band, colour) == colour:  # a band with the name NIR is not red
            by_colour.setdefault(colour, band)
    for known, sure in ((named, True), (by_colour, not default)):
        rgb = tuple(known[role] for role in RGB if role in known)
        if len(set(rgb)) < 3:
            continue
        fourth = [band for band in usable if band not in rgb and band not in informative and len(usable) == 4]
        nir = named.get("nir") or by_colour.get("nir") or (fourth[0] if fourth else None)
        return rgb, nir, "" if sure else _guess_text(rgb, nir, named)
    if len(usable) < 3:
        text = "it has two bands and no colours: band {0} alone is shown, as grey; choose others with --bands"
        return tuple(usable[:1]), None, text.format(*usable) if len(usable) == 2 else ""
    last = usable[3] if len(usable) == 4 and usable[3] not in informative else None
    nir = named.get("nir") or by_colour.get("nir") or last
    others = [band for band in usable if band != nir]
    rgb = _with_green_twice(named, usable) or tuple(others[:3] if len(others) >= 3 else usable[:3])
    nir = None if nir in rgb else nir
    plain = len(usable) == 3 and not informative  # three bands are hardly ever in another order
    return rgb, nir, "" if plain else _guess_text(rgb, nir, named)


def _with_green_twice(named: Mapping[Role, int], usable: Sequence[int]) -> tuple[int, ...]:
    """Return the bands of red, green and blue if the band names show green and only one of red and blue.

    The green band is then also used for the missing colour. Example: band 1 is called green, band 2 nir and band 3 red.
    The result is (3, 1, 1).

    The result is an empty tuple in two cases:

    - The names show all three colours, or green alone, or they do not show green.
    - The raster has three bands, alpha not counted, and one of them has no name that shows a role. This band is taken
      to be the missing colour. The caller then uses the three bands in the order of the file.

    Args:
        named: number of the band for each role that a band name shows.
        usable: numbers of all bands except alpha.
    """
    missing = [role for role in RGB if role not in named]
    nameless = [band for band in usable if band not in named.values()]
    if len(missing) != 1 or "green" not in named or (len(usable) == 3 and nameless):
        return ()
    return tuple(named.get(role, named["green"]) for role in RGB)


def _guess_text(rgb: tuple[int, ...], nir: int | None, named: Mapping[Role, int]) -> str:
    unknown = [role for role in RGB if role not in named] or list(RGB)
    infrared = "" if nir is None else f", band {nir} as near infrared"
    example = ",".join(map(str, (*reversed(rgb), *([nir] if infrared else []))))
    return (
        f"the file does not identify its {_joined(unknown)} band{'s' * (len(unknown) > 1)}; bands "
        f"{', '.join(map(str, rgb))} are used as red, green and blue{infrared}; if this is wrong, give the order, "
        f"for instance --bands {example}"
    )


def _joined(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _by_name(names: Mapping[int, str]) -> dict[Role, int]:
    """Return the number of the band for each role (red, green, blue, nir), as the names of the bands show it.

    `names` contains the name of each band, with the band number, from 1, as key. Roles that no name shows are left out.
    """
    plain = {band: " ".join(re.findall(r"[^\W_]+|\.", text.casefold())) for band, text in names.items()}
    return _by_code(plain) | _by_wavelength(names) | _by_word(plain)


def _by_word(names: Mapping[int, str]) -> dict[Role, int]:
    found: dict[Role, int] = {}
    for role, words in _WORDS.items():
        fitting = []
        for band, name in names.items():
            tokens = name.split()
            others = _OTHER_BANDS.union(*(_WORDS[other] for other in _WORDS if other != role))
            if (any(word in tokens for word in words) or name == role[0]) and not others.intersection(tokens):
                fitting.append((len(tokens), band))
        if fitting:
            found[role] = min(fitting)[1]  # fewest words: "red" before "red mean"
    return found


def _by_wavelength(names: Mapping[int, str]) -> dict[Role, int]:
    nanometres: dict[int, float] = {}
    for band, name in names.items():
        match = re.search(r"([0-9]+(?:\.[0-9]+)?) *(nm|nano|um|µm|μm|micro)", name.casefold())
        if match:
            nanometres[band] = float(match[1]) * (1 if match[2].startswith("n") else 1000)
    found: dict[Role, int] = {}
    for role, (shortest, best, longest) in _WAVELENGTHS_NM.items():
        fitting = [(abs(value - best), band) for band, value in nanometres.items() if shortest <= value <= longest]
        if fitting:
            found[role] = min(fitting)[1]
    return found


def _by_code(names: Mapping[int, str]) -> dict[Role, int]:
    """Return the number of the band for each role, as designations of Sentinel-2, Landsat or SPOT show it.

    Designations are B2, B04, B8A or SR_B4, for example. `names` contains the name of each band as `_by_name` prepares
    it: in lower case, with a space in place of each underscore or hyphen, so that SR_B4 is "sr b4". The result is empty
    if the names are no designations, or only numbers of the bands (B1, B2 and B3 for bands 1, 2 and 3).
    """
    codes: dict[str, int] = {}
    sensors = set()
    for band, name in names.items():
        match = _CODE.fullmatch(name) or next(filter(None, map(_CODE.fullmatch, name.split())), None)
        if match:
            codes.setdefault(match[1] + match[2], band)
            sensors.update(_SENSORS.findall(name))
    # The names B1, B2, B3 of bands 1, 2 and 3 are only numbers.
    only_counted = all(str(band) == code for code, band in codes.items()) and not sensors
    if not codes or only_counted:
        return {}
    if sensors & {"l5", "l7", "le07", "lt05"} or ("sr" in sensors and "6" not in codes and "7" in codes):
        table = _LANDSAT_5
    elif sensors & {"landsat", "l8", "l9", "lc08", "lc09"} and "8a" not in codes:
        table = _LANDSAT_8
    elif {"8", "8a"} & codes.keys() or sensors & {"sentinel", "s2", "s2a", "s2b", "s2c"}:
        table = _SENTINEL_2 if "8" in codes else _SENTINEL_2 | {"nir": "8a"}
    elif "0" in codes:
        table = _SPOT
    elif {"2", "3", "4"} <= codes.keys() and codes.keys() != {"1", "2", "3", "4"}:
        table = _LANDSAT_8
    else:
        table = _LANDSAT_5
    return {role: codes[code] for role, code in table.items() if code in codes}
