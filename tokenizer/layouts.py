"""Brings weights of other convolutional tokenizers into our layout, and finds their shape.

Known are the layouts of diffusers (`VQModel`, `AutoencoderKL`), taming-transformers and LlamaGen. They have the same
layers under other names.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenizer.conv import ConvConfig
from tokenizer.foreign import Foreign
from tokenizer.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from tokenizer.kl import KLConfig
from tokenizer.parts import BottleneckConfig
from tokenizer.quantizers import CosineVQConfig, VQConfig
from training.errors import BadInput

LAYOUTS = {
    "encoder.down_blocks.": "diffusers", "encoder.down.": "taming-transformers", "encoder.conv_blocks.": "LlamaGen",
}  # fmt: skip
"""The layouts, by the beginning of a name that only they have."""

LEFT_OUT = ("loss.", "discriminator.", "ema.", "model_ema.", "quantize.codebook_used")
"""Beginnings of names of tensors that only their training needs."""

_LEVEL = r"(?:down_blocks|up_blocks|down|up|conv_blocks)\.(\d{1,3})"
_PARTS = tuple(
    (re.compile(rf"(encoder|decoder)\.{theirs}\.(?P<inside>.+)"), ours)
    for theirs, ours in (
        (r"conv_in", r"first"),
        (rf"{_LEVEL}\.(?:resnets|block|res)\.(\d{{1,3}})", r"levels.\2.residual\3"),
        (rf"{_LEVEL}\.(?:attentions|attn)\.(\d{{1,3}})", r"levels.\2.attention\3"),
        (rf"{_LEVEL}\.(?:downsamplers\.0|downsample)", r"levels.\2.down"),
        (rf"{_LEVEL}\.(?:upsamplers\.0|upsample)", r"levels.\2.up"),
        (r"(?:mid_block\.resnets\.0|mid\.block_1|mid\.0)", r"middle.residual0"),
        (r"(?:mid_block\.attentions\.0|mid\.attn_1|mid\.1)", r"middle.attention0"),
        (r"(?:mid_block\.resnets\.1|mid\.block_2|mid\.2)", r"middle.residual1"),
        (r"(?:conv_norm_out|norm_out)", r"last.0"),
        (r"conv_out", r"last.2"),
    )
)
_INSIDE = {
    "nin_shortcut": "shortcut", "conv_shortcut": "shortcut", "group_norm": "norm",
    "q": "query", "k": "key", "v": "value", "proj_out": "out",  # taming-transformers and LlamaGen
    "to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "out", "proj_attn": "out",  # diffusers, new and old
}  # fmt: skip
_BETWEEN = {"quant_conv": "quantizer.project_in", "post_quant_conv": "quantizer.project_out"}


def imported(foreign: Foreign, image_size: int | None) -> tuple[ImageTokenizer, str]:
    """Build an image tokenizer with the weights of another code base.

    Args:
        foreign: the checkpoint.
        image_size: height and width of pictures. None takes it from the checkpoint's settings.

    Returns:
        The tokenizer in eval mode, float32, and the name of the layout. Latents are standardised if the settings beside
        a Gaussian have a `scaling_factor`, and not otherwise.

    Raises:
        BadInput: the layout is unknown, or a tensor is missing, unknown, of another shape or not finite.
    """
    layout = next((LAYOUTS[start] for start in LAYOUTS if any(n.startswith(start) for n in foreign.tensors)), None)
    if layout is None:
        raise BadInput(f"{foreign.file}: not the weights of a known tokenizer ({', '.join(LAYOUTS.values())})")
    settings = _settings(foreign)
    theirs = {name: tensor for name, tensor in foreign.tensors.items() if not name.startswith(LEFT_OUT)}
    ours = _renamed(foreign, theirs)
    try:
        backbone = _backbone(foreign, ours, settings.get("norm_num_groups", 32))
        bottleneck = _gaussian(ours) if _is_gaussian(ours) else _quantizer(ours, layout)
    except KeyError as error:
        raise BadInput(f"{foreign.file}: lacks the tensor {error.args[0]}, in our layout") from None
    config = ImageTokenizerConfig(
        image_size=image_size or _image_size(foreign, settings), backbone=backbone, quantizer=bottleneck
    )
    model = _loaded(foreign, config, ours)
    scale, shift = settings.get("scaling_factor"), settings.get("shift_factor") or 0.0
    if isinstance(bottleneck, KLConfig) and isinstance(scale, float) and scale > 0 and isinstance(shift, float):
        model.latent_std.fill_(1 / scale)
        model.latent_mean.fill_(shift)
    return model, layout


def _settings(foreign: Foreign) -> dict[str, Any]:
    """The settings of the network. Raises `BadInput` for those that our layers cannot express."""
    values = foreign.config
    for name in ("model", "params", "ddconfig"):
        values = values.get(name, values) if isinstance(values, dict) else {}
    if not isinstance(values, dict):
        raise BadInput(f"{foreign.file}: the settings beside it have no mapping model.params.ddconfig")
    usual = {"act_fn": ("silu", "swish"), "norm_type": ("group",), "attn_type": ("vanilla",)}
    for name, known in usual.items():
        if values.get(name, known[0]) not in known:
            raise BadInput(f"{foreign.file}: has {name} {values[name]!r:.80}: must be {' or '.join(known)}")
    return values


def _image_size(foreign: Foreign, settings: Mapping[str, Any]) -> int:
    size = settings.get("sample_size", settings.get("resolution"))
    if not isinstance(size, int):
        raise BadInput(f"{foreign.file}: does not say for which size of pictures it is: give --image_size, such as 256")
    return size


def _renamed(foreign: Foreign, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by their names in our layout. Convolutions of one pixel become matrices, as ours are."""
    ups = [int(match[1]) for name in theirs if (match := re.match(r"decoder\.up\.(\d{1,3})\.", name))]
    ours = {}
    for name, tensor in theirs.items():
        own = _own_name(name, max(ups, default=0))
        if own is None or own in ours:
            raise BadInput(f"{foreign.file}: has an unknown tensor {name:.200}")
        is_matrix = ".attention" in own or own.startswith(("quantizer.", "codebook"))
        ours[own] = tensor.flatten(1) if is_matrix and tensor.shape[2:] == (1, 1) else tensor
        wanted = 1 if re.search(r"\.bias$|\.norm|\.last\.0\.", own) else 2 if is_matrix else 4
        if ours[own].ndim != wanted or not tensor.numel():
            raise BadInput(
                f"{foreign.file}: {name:.200} has the shape {tuple(tensor.shape)}: must be {wanted}-dimensional"
            )
    return ours


def _own_name(name: str, last_up: int) -> str | None:
    if name == "quantize.embedding.weight":
        return "codebook"
    module, _, kind = name.rpartition(".")
    if module in _BETWEEN:
        return f"{_BETWEEN[module]}.{kind}"
    # taming-transformers counts the decoder's levels from full resolution, all others from the lowest
    name = re.sub(r"^decoder\.up\.(\d{1,3})\.", lambda found: f"decoder.up.{last_up - int(found[1])}.", name)
    for pattern, ours in _PARTS:
        if match := pattern.fullmatch(name):
            module, dot, kind = match["inside"].rpartition(".")
            return f"{match[1]}.{match.expand(ours)}.{_INSIDE.get(module, module)}{dot}{kind}"
    return None


def _backbone(foreign: Foreign, ours: Mapping[str, Tensor], groups: Any) -> ConvConfig:
    """The shape of the backbone. Raises `KeyError` for a missing tensor."""
    channels, widths = len(ours["encoder.first.weight"]), []
    for level in range(_count(ours, r"encoder\.levels\.(\d+)\.")):
        widths.append(len(ours[f"encoder.levels.{level}.residual0.conv2.weight"]))
    if any(width % channels for width in widths):
        shown = ", ".join(map(str, widths))
        raise BadInput(f"{foreign.file}: its levels have {shown} channels: must be multiples of {channels}")
    if not isinstance(groups, int):
        raise BadInput(f"{foreign.file}: norm_num_groups is {groups!r:.80}: must be a whole number")
    return ConvConfig(
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        encoder_blocks=_count(ours, r"encoder\.levels\.0\.residual(\d+)\."),
        decoder_blocks=_count(ours, r"decoder\.levels\.0\.residual(\d+)\."),
        attention=tuple(i for i in range(len(widths)) if f"encoder.levels.{i}.attention0.norm.weight" in ours),
        mid_attention="encoder.middle.attention0.norm.weight" in ours,
        width=len(ours["encoder.last.2.weight"]),
        groups=groups,
    )


def _quantizer(ours: dict[str, Tensor], layout: str) -> BottleneckConfig:
    """The shape of the quantizer. Puts its codebook into `ours`."""
    codebook = ours.pop("codebook").float()
    size, dim = codebook.shape
    unit = layout == "LlamaGen"
    if unit:
        codebook = F.normalize(codebook, dim=-1)
    ours["quantizer._codebook.embed"] = ours["quantizer._codebook.embed_avg"] = codebook[None]
    return CosineVQConfig(size=size, dim=dim) if unit else VQConfig(size=size, dim=dim)


def _is_gaussian(ours: Mapping[str, Tensor]) -> bool:
    """Whether the encoder returns mean and log variance: twice as many channels as the decoder takes."""
    return "codebook" not in ours and len(ours["encoder.last.2.weight"]) == 2 * ours["decoder.first.weight"].shape[1]


def _gaussian(ours: dict[str, Tensor]) -> BottleneckConfig:
    """The shape of the Gaussian. Puts its tensors into `ours`.

    Our encoder and decoder have the same width. So the decoder gets more channels, which are zero.
    """
    width = len(ours["encoder.last.2.weight"])
    half = width // 2
    nothing = {  # the same as no such layers, which some models leave out
        "project_in.weight": torch.eye(width), "project_in.bias": torch.zeros(width),
        "project_out.weight": torch.eye(half), "project_out.bias": torch.zeros(half),
    }  # fmt: skip
    given = {name: ours.pop(f"quantizer.{name}", usual) for name, usual in nothing.items()}
    for kind in ("weight", "bias"):
        both = given[f"project_in.{kind}"]
        dim = len(both) // 2
        ours[f"quantizer.mean.{kind}"], ours[f"quantizer.log_variance.{kind}"] = both[:dim], both[dim:]
    ours["quantizer.project_out.weight"] = F.pad(given["project_out.weight"], (0, 0, 0, width - half))
    ours["quantizer.project_out.bias"] = F.pad(given["project_out.bias"], (0, width - half))
    ours["decoder.first.weight"] = F.pad(ours["decoder.first.weight"], (0, 0, 0, 0, 0, width - half))
    return KLConfig(dim=dim)


def _count(names: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max((int(match[1]) for name in names if (match := re.match(pattern, name))), default=0)


def _loaded(foreign: Foreign, config: ImageTokenizerConfig, ours: Mapping[str, Tensor]) -> ImageTokenizer:
    model = ImageTokenizer(config)
    own = model.state_dict()
    theirs = {"latent_mean", "latent_std", "quantizer._codebook.initted", "quantizer._codebook.cluster_size"}
    wrong = [f"lacks the tensor {name}" for name in own.keys() - ours.keys() - theirs]
    wrong += [f"has an unknown tensor {name}" for name in ours.keys() - own.keys()]
    for name in own.keys() & ours.keys():
        if own[name].shape != ours[name].shape:
            wrong.append(f"has {name} of shape {tuple(ours[name].shape)} and not {tuple(own[name].shape)}")
        elif not ours[name].isfinite().all():
            wrong.append(f"has nan or infinite numbers in {name}")
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise BadInput(f"{foreign.file}: {min(wrong)}, in our layout{more}")
    model.load_state_dict(ours, strict=False)
    return model.eval()
