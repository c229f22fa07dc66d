"""The tiny model's parts: SVD's own classes, small, and already sensible before their first training step.

`build()` gives the five components of a `StableVideoDiffusionPipeline`. Untrained, the VAE returns a picture a little
softened and the UNet answers "every frame is the conditioning picture", which training then sets in motion.

Why the starts are made by hand: diffusers fixes 32 groups in these networks' GroupNorms, so a narrow network has few
channels a group, and normalising them erases absolute colour. Here each signal `a` that must survive has a group of
its own, laid out [a, -a, K] or [a, -a, K, -K] with K from biases, so that the statistics hardly depend on `a`; it is
read back behind the activation as silu(u) - silu(-u) = u. All residual branches begin at zero.
"""

import re
from typing import Any

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

FRAMES = 14  # SVD's own
HEIGHT, WIDTH = 96, 160  # of the clips that it is trained on
LATENTS = 8  # channels: with four, photographs of this size came back at 25 dB
SIGNALS = 4  # of them are laid out by hand
ANCHOR = 4.0  # K above: large against latents of unit size, so that the norm's statistics are K's

# Three levels, so latents are a quarter of the picture: 24 x 40. 96 channels are the fewest with three a group.
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "block_out_channels": (96, 96, 128),
    "layers_per_block": 1,
    "latent_channels": LATENTS,
    "sample_size": WIDTH,
    "force_upcast": False,  # no activation leaves fp16's range
}

# Levels of 24 x 40, 12 x 20 and 6 x 10. The first only brings latents in and out (no residual block on the way down):
# movement is worked out lower down, where the picture's far side is a few convolutions away.
UNET = {
    "sample_size": (HEIGHT // 4, WIDTH // 4),
    "in_channels": 2 * LATENTS,
    "out_channels": LATENTS,
    "down_block_types": (
        "DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal",
    ),
    "up_block_types": ("CrossAttnUpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"),
    "block_out_channels": (96, 96, 96),
    "num_attention_heads": (3, 3, 3),
    "cross_attention_dim": 64,
    "addition_time_embed_dim": 64,
    "projection_class_embeddings_input_dim": 3 * 64,
    "num_frames": FRAMES,
}  # fmt: skip

# A CLIP vision tower in name and shape: 49 patches, two narrow layers, fixed at its seeded random start. It tells
# pictures apart, which is all that its one token can do here; where things are the UNet reads from the image latents.
IMAGE_ENCODER = {
    "image_size": 224, "patch_size": 32, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "projection_dim": 64, "hidden_act": "gelu",
}  # fmt: skip

# SVD's published scheduler, every field that the class reads, but for the lowest noise level (SVD's is 0.002). The last
# step gives what the network answers there, which at 0.002 is what it was given: of four steps three did the work.
SCHEDULER = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction", "timestep_type": "continuous", "timestep_spacing": "leading",
    "steps_offset": 1, "interpolation_type": "linear", "use_karras_sigmas": True, "sigma_min": 0.7,
    "sigma_max": 700.0,
}  # fmt: skip


def build_vae() -> AutoencoderKLTemporalDecoder:
    """An autoencoder that returns its picture, softened: means of 4x4 pixels as latents, blurred up again."""
    torch.manual_seed(0)
    vae = AutoencoderKLTemporalDecoder(**VAE)
    silence(vae)
    encoder, decoder = vae.encoder, vae.decoder
    with torch.no_grad():
        # Red, green, blue, and a fourth signal for what the means forget: luminance against its neighbour's.
        read = torch.zeros(SIGNALS, 3, 3, 3)
        read[torch.arange(3), torch.arange(3), 1, 1] = 1.0
        read[3, :, 1, 1], read[3, :, 1, 0], read[3, :, 0, 1] = 2 / 3, -1 / 3, -1 / 3
        write_signals(encoder.conv_in, read)
        mean = torch.zeros(SIGNALS, SIGNALS, 3, 3)
        mean[range(SIGNALS), range(SIGNALS), :2, :2] = 0.25  # the padding is right and below
        for block in encoder.down_blocks:
            carry_shortcuts(block)
            for conv in samplers_of(block):
                carry_signals(conv, mean)
        keep_scale(encoder.conv_norm_out)
        details = encoder.conv_out.weight[SIGNALS:LATENTS].clone()
        read_signals(encoder.conv_out, torch.eye(2 * LATENTS, SIGNALS))
        encoder.conv_out.weight[SIGNALS:LATENTS] = details  # as they come: training makes use of them
        bias_of(encoder.conv_out)[LATENTS:] = -12.0  # log variance: practically an autoencoder without noise
        vae.quant_conv.weight.copy_(torch.eye(2 * LATENTS)[:, :, None, None])
        bias_of(vae.quant_conv).zero_()

        write_signals(decoder.conv_in, point(torch.eye(SIGNALS, LATENTS)))
        blur = torch.zeros(SIGNALS, SIGNALS, 3, 3)
        blur[range(SIGNALS), range(SIGNALS)] = torch.outer(
            torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.25, 0.5, 0.25])
        )
        for block in decoder.up_blocks:
            carry_shortcuts(block)
            for conv in samplers_of(block):
                carry_signals(conv, blur)
        keep_scale(decoder.conv_norm_out)
        read_signals(decoder.conv_out, torch.eye(3, SIGNALS))
        decoder.time_conv_out.weight.zero_()
        decoder.time_conv_out.weight[range(3), range(3), 1] = 1.0
        bias_of(decoder.time_conv_out).zero_()
    return vae


def build_unet(scaling_factor: float, depth: int = 1) -> UNetSpatioTemporalConditionModel:
    """A UNet whose every frame is the conditioning picture; `scaling_factor` as in the VAE's configuration.

    `depth` is the number of blocks at the two lower levels on the way down (on the way up there is one more): 7.9, 11.5
    million parameters and 33, 46 GFLOP a clip and step for 1, 2.
    At high noise v-prediction asks for minus the clean latents, and the pipeline gives the image latents unscaled, so
    the start reads its four image channels times minus the scaling factor.
    """
    torch.manual_seed(0)
    layers: Any = (0, depth, depth)
    unet = UNetSpatioTemporalConditionModel(**UNET, layers_per_block=layers)
    silence(unet)
    with torch.no_grad():
        read = torch.zeros(SIGNALS, 2 * LATENTS)
        read[range(SIGNALS), range(LATENTS, LATENTS + SIGNALS)] = scaling_factor
        write_signals(unet.conv_in, point(read))
        # The last residual block sees [what comes from below, conv_in's output]; its shortcut passes the latter on.
        last = unet.get_submodule("up_blocks.2.resnets.0.spatial_res_block")
        assert isinstance(last, ResnetBlock2D)
        assert last.conv_shortcut is not None
        width = unet.conv_in.out_channels
        last.conv_shortcut.weight.mul_(0.3)
        last.conv_shortcut.weight[: 3 * SIGNALS] = 0.0
        for row in range(3 * SIGNALS):
            last.conv_shortcut.weight[row, last.in_channels - width + row] = 1.0
        bias_of(last.conv_shortcut).zero_()
        keep_scale(unet.conv_norm_out)
        read_signals(unet.conv_out, -torch.eye(LATENTS, SIGNALS))
    return unet


def build_image_encoder() -> CLIPVisionModelWithProjection:
    """A small vision tower, fixed by its seed; its token has about unit size."""
    torch.manual_seed(0)
    encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**IMAGE_ENCODER)).eval()
    with torch.no_grad():
        encoder.visual_projection.weight.normal_(0, IMAGE_ENCODER["hidden_size"] ** -0.5)
    return encoder.requires_grad_(False)


def build_pipeline(
    vae: AutoencoderKLTemporalDecoder, unet: UNetSpatioTemporalConditionModel
) -> StableVideoDiffusionPipeline:
    """The whole pipeline, ready for `save_pretrained`."""
    processor = CLIPImageProcessor(
        size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}, do_resize=True, do_center_crop=True
    )
    scheduler = EulerDiscreteScheduler(**SCHEDULER)
    return StableVideoDiffusionPipeline(vae, build_image_encoder(), unet, scheduler, processor)


@torch.no_grad()
def grow(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Take over the weights of an edition with fewer latent channels or fewer blocks, so that the model does as it did.

    Where a layer reads or gives two sets of latents (means and variances, clips and picture), each begins with the
    channels that both editions have. Blocks that are new hand on what they get. On the way up they come first, since
    the way back meets the last block of the way down first.
    """

    def before_growth(place: re.Match[str]) -> str:
        block, kind, index = place.groups()
        mixer = re.compile(rf"{block}\.resnets\.\d+\.time_mixer\.mix_factor")  # one in every block
        here, there = (sum(mixer.fullmatch(each) is not None for each in names) for names in (state, weights))
        return f"{block}.{kind}.{int(index) - here + there}"

    state = model.state_dict()
    for name, parameter in state.items():
        source = re.sub(r"^(up_blocks\.\d+)\.(resnets|attentions)\.(\d+)", before_growth, name)
        if source not in weights:
            if name.endswith("conv_shortcut.weight"):
                parameter.copy_(torch.eye(*parameter.shape[:2])[:, :, None, None])
            elif name.endswith("conv_shortcut.bias"):
                parameter.zero_()
            continue
        old, places = weights[source].to(parameter), []
        for size, before in zip(parameter.shape[:2], old.shape[:2], strict=True):
            sets = size // LATENTS if size != before else 1
            starts = range(0, size, size // sets)
            places.append(torch.cat([torch.arange(start, start + before // sets) for start in starts]))
        if old.shape != parameter.shape and not name.startswith(("encoder.conv_out", "quant_conv")):
            parameter.zero_()  # else the encoder would have nothing new to say, and the decoder no reason to listen
        if old.ndim == 0:
            parameter.copy_(old)
        else:
            parameter[(places[0][:, None], places[1]) if old.ndim > 1 else places[0]] = old


def encode(vae: AutoencoderKLTemporalDecoder, pictures: Tensor) -> Tensor:
    """Pictures (n, 3, H, W) in [-1, 1] as latents (n, `LATENTS`, H/4, W/4), unscaled."""
    return vae.encode(pictures, return_dict=False)[0].mode()


def decode(vae: AutoencoderKLTemporalDecoder, latents: Tensor, frames: int = 1) -> Tensor:
    """Latents (n, c, h, w), unscaled, as pictures (n, 3, 4h, 4w) about [-1, 1]; `frames` follow each other in n."""
    return vae.decode(latents, num_frames=frames, return_dict=False)[0]  # type: ignore[return-value]


# --- starts made by hand -----------------------------------------------------------------------------------------


def silence(model: nn.Module) -> None:
    """Zero what every residual branch adds: ResNet blocks' last convolution, attentions' and transformers' output."""
    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        in_block = ".resnets." in name or "temporal_res_block" in name
        if (
            (last == "conv2" and in_block)
            or last == "proj_out"
            or (name.endswith("to_out.0") and "transformer_blocks" not in name)
        ):
            zero(module)


def zero(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


def point(matrix: Tensor) -> Tensor:
    """(out, in) as a 3x3 kernel that looks at its own pixel only."""
    kernel = torch.zeros(*matrix.shape, 3, 3)
    kernel[:, :, 1, 1] = matrix
    return kernel


def bias_of(conv: nn.Conv2d | nn.Conv3d) -> Tensor:
    """The bias of a convolution that has one."""
    assert conv.bias is not None
    return conv.bias


def samplers_of(block: nn.Module) -> list[nn.Conv2d]:
    """The convolutions that lead to the next size, if any."""
    return [module.conv for module in block.modules() if isinstance(module, Downsample2D | Upsample2D)]  # type: ignore[misc]


def group_size(channels: int) -> int:
    return channels // 32


def write_signals(conv: nn.Conv2d, kernels: Tensor) -> None:
    """Let a convolution's first groups carry [a, -a, K(, -K)], `a` made from the inputs by `kernels` (4, in, 3, 3)."""
    size = group_size(conv.out_channels)
    for signal, kernel in enumerate(kernels):
        first = signal * size
        conv.weight[first : first + size] = 0.0
        conv.weight[first], conv.weight[first + 1] = kernel, -kernel
        bias_of(conv)[first : first + size] = torch.tensor([0.0, 0.0, ANCHOR, -ANCHOR])[:size]


def carry_signals(conv: nn.Conv2d, kernels: Tensor) -> None:
    """The same where the inputs are such groups already: `kernels` (4, 4, 3, 3) from signals to signals."""
    from_size, to_size = group_size(conv.in_channels), group_size(conv.out_channels)
    spread = torch.zeros(SIGNALS, conv.in_channels, *conv.kernel_size)
    for signal in range(SIGNALS):
        spread[:, signal * from_size] = kernels[:, signal] / 2
        spread[:, signal * from_size + 1] = -kernels[:, signal] / 2
    conv.weight[SIGNALS * to_size :, : SIGNALS * from_size] *= 0.5
    write_signals(conv, spread)


def carry_shortcuts(block: nn.Module) -> None:
    """Let 1x1 shortcuts between widths carry the signals unchanged."""
    for module in block.modules():
        shortcut = getattr(module, "conv_shortcut", None)
        if isinstance(shortcut, nn.Conv2d):
            carry_signals(shortcut, torch.eye(SIGNALS)[:, :, None, None])


def keep_scale(norm: nn.GroupNorm) -> None:
    """Set a norm's weight and bias so that a signal of usual size leaves it as it came."""
    size = group_size(norm.num_channels)
    usual = 0.25  # mean square of a signal
    mean = ANCHOR / 3 if size == 3 else 0.0
    variance = (2 * usual + ANCHOR**2) / 3 - mean**2 if size == 3 else (usual + ANCHOR**2) / 2
    norm.weight[: SIGNALS * size] = variance**0.5
    norm.bias[: SIGNALS * size] = mean


def read_signals(conv: nn.Conv2d, matrix: Tensor) -> None:
    """Let an output convolution give `matrix` (out, 4) times the signals, from silu(a) - silu(-a) = a."""
    size = group_size(conv.in_channels)
    conv.weight.zero_()
    bias_of(conv).zero_()
    for signal in range(SIGNALS):
        conv.weight[:, signal * size, 1, 1] = matrix[:, signal]
        conv.weight[:, signal * size + 1, 1, 1] = -matrix[:, signal]
