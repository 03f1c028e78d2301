"""diffusers' Wan networks, imported in one place so that this import stays as quick as it can be.

diffusers imports bitsandbytes whenever it is installed, which takes seconds, for quantizers that are not used here:
``models/devices.py`` builds quantized layers itself, and imports bitsandbytes only then.
"""

from diffusers.utils import import_utils

import_utils._bitsandbytes_available = False

from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d  # noqa: E402
from diffusers.models.transformers.transformer_skyreels_v2 import SkyReelsV2Transformer3DModel  # noqa: E402
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel  # noqa: E402

__all__ = ["AutoencoderKLWan", "SkyReelsV2Transformer3DModel", "WanCausalConv3d", "WanTransformer3DModel"]
