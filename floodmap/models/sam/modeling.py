"""Network modules of the package `segment_anything`, imported without the rest of that package.

The rest of `segment_anything` imports torchvision, and torchvision imports torch's compiler. Neither is needed here.
The import of both would take 1.2 s and 170 MB in every run.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

_PACKAGE, _NAME = "segment_anything", "segment_anything.modeling"


def _load_alone() -> None:
    """Import `segment_anything.modeling` without the package's `__init__`; later imports use the same module."""
    package = find_spec(_PACKAGE) if _PACKAGE not in sys.modules else None
    if package is None or not package.submodule_search_locations:
        return
    folder = Path(package.submodule_search_locations[0]) / "modeling"
    spec = spec_from_file_location(_NAME, folder / "__init__.py", submodule_search_locations=[str(folder)])
    if spec is None or spec.loader is None:
        return
    sys.modules[_NAME] = module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[_NAME]  # the import below then raises the package's own error
        raise


_load_alone()

from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer  # noqa: E402
from segment_anything.modeling.image_encoder import Attention, Block, get_rel_pos  # noqa: E402
from segment_anything.modeling.transformer import Attention as TwoWayAttention  # noqa: E402

__all__ = [
    "Attention",
    "Block",
    "ImageEncoderViT",
    "MaskDecoder",
    "PromptEncoder",
    "TwoWayAttention",
    "TwoWayTransformer",
    "get_rel_pos",
]
