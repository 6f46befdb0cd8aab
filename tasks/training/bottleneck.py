"""Bottleneck adapters as a method of PEFT, which has none: Houlsby (arXiv 1902.00751), Pfeiffer (2005.00247).

Owns the layer, its configuration and its registration. A layer adds up(act(down(h))) to what the wrapped
layer gives; `up` begins at zero, so an untrained adapter changes nothing. PEFT does saving, loading and
switching off. The sum is not linear in the input, so it cannot be merged into the base.
"""

from __future__ import annotations

from typing import Any

NAME = "bottleneck"
_AFTER_ATTENTION = (
    r"self_attn\.(?:o_proj|dense|out_proj)|attn\.c_proj|attention\.output\.dense|attn\.out_proj"
)
_AFTER_MLP = r"mlp\.(?:down_proj|c_proj|fc2|dense_4h_to_h)|(?<!self_attn)\.fc2|(?<!attention)\.output\.dense"
PLACES = {"houlsby": rf".*(?:{_AFTER_ATTENTION}|{_AFTER_MLP})", "pfeiffer": rf".*(?:{_AFTER_MLP})"}


def config(*, size: int, placement: str, task_type: str = "CAUSAL_LM") -> Any:
    """Return the PEFT configuration of a bottleneck of this width in this placement."""
    config_class = register()
    return config_class(bottleneck_size=size, placement=placement, task_type=task_type)


def register() -> Any:
    """Make the method known to PEFT, once per process, and return its configuration class."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import register_peft_method
    from peft.utils.peft_types import PeftType

    if NAME.upper() in PeftType.__members__:
        return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[NAME.upper()]]
    _extend(PeftType, NAME.upper())
    config_class, model_class = _config_class(), _model_class()
    register_peft_method(name=NAME, config_cls=config_class, model_cls=model_class)
    return config_class


def _extend(kinds: Any, name: str) -> None:
    """Add a member to PEFT's enumeration of methods: it refuses names that are not there."""
    member = str.__new__(kinds, name)
    member._name_ = member._value_ = name
    kinds._member_map_[name] = member
    kinds._member_names_.append(name)
    kinds._value2member_map_[name] = member


def _config_class() -> Any:
    from dataclasses import dataclass, field

    from peft.config import PeftConfig
    from peft.utils.peft_types import PeftType

    @dataclass
    class BottleneckConfig(PeftConfig):  # type: ignore[misc]
        """Width and placement of bottleneck adapters."""

        bottleneck_size: int = field(default=64)
        placement: str = field(default="houlsby")
        target_modules: str | None = field(default=None)
        exclude_modules: str | None = field(default=None)

        def __post_init__(self) -> None:
            super().__post_init__()
            self.peft_type = PeftType[NAME.upper()]
            self.target_modules = self.target_modules or PLACES[self.placement]

    return BottleneckConfig


def _model_class() -> Any:
    from peft.tuners.tuners_utils import BaseTuner

    layer_class = _layer_class()

    class BottleneckModel(BaseTuner):  # type: ignore[misc]
        """Wraps the layers that the configuration names."""

        prefix = f"{NAME}_"
        tuner_layer_cls = layer_class
        target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - PEFT's own form

        def _create_and_replace(  # noqa: PLR0917 - PEFT calls it so
            self,
            peft_config: Any,
            adapter_name: str,
            target: Any,
            target_name: str,
            parent: Any,
            **_: Any,
        ) -> None:
            if isinstance(target, layer_class):
                target.update_layer(adapter_name, peft_config)
                return
            wrapped = layer_class(target, adapter_name, peft_config)
            if adapter_name not in self.active_adapters:
                wrapped.requires_grad_(False)
            self._replace_module(parent, target_name, wrapped, target)

        def _check_merge_allowed(self) -> None:
            raise ValueError("A bottleneck adapter is not linear, so it cannot be merged into its base.")

    return BottleneckModel


def _layer_class() -> Any:
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    class BottleneckLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]
        """A layer followed by a bottleneck with a residual connection."""

        adapter_layer_names = ("bottleneck_down", "bottleneck_up")

        def __init__(self, base_layer: nn.Module, adapter_name: str, config: Any) -> None:
            super().__init__()
            self.base_layer = base_layer
            self.bottleneck_down = nn.ModuleDict({})
            self.bottleneck_up = nn.ModuleDict({})
            self.merged_adapters: list[str] = []
            self._active_adapter = adapter_name
            self.update_layer(adapter_name, config)

        def update_layer(self, adapter_name: str, config: Any) -> None:
            base = self.get_base_layer()
            # A Conv1D of GPT-2 keeps its weight transposed and says its output width as `nf`.
            width = getattr(base, "out_features", None) or base.nf
            self.bottleneck_down[adapter_name] = nn.Linear(width, config.bottleneck_size)
            self.bottleneck_up[adapter_name] = nn.Linear(config.bottleneck_size, width)
            nn.init.zeros_(self.bottleneck_up[adapter_name].weight)
            nn.init.zeros_(self.bottleneck_up[adapter_name].bias)
            self._move_adapter_to_device_of_base_layer(adapter_name)
            self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

        def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            result: torch.Tensor = self.base_layer(x, *args, **kwargs)
            if self.disable_adapters:
                return result
            for name in self.active_adapters:
                if name in self.bottleneck_down:
                    down = self.bottleneck_down[name]
                    hidden = nn.functional.gelu(down(result.to(down.weight.dtype)))
                    result = result + self.bottleneck_up[name](hidden).to(result.dtype)
            return result

    return BottleneckLayer
