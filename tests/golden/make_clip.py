"""Records results of the official image encoder for a small model: clip.safetensors.

Usage: python make_clip.py WAN2.1_CHECKOUT OUT.safetensors
Weights and images are computed by value(name) of official.py, as in tests/test_clip.c. The script also checks that
transformers' CLIPVisionModel agrees with the official module.
  in.WxH    [3, side, side] f32   what the official program makes of an image of W x H
  out.WxH   [tokens, C] f32       its tokens: the output before the last block"""
import sys

import official
import torch
import torchvision
from official import value
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel

wan, out_path = sys.argv[1:]
(clip,) = official.modules(wan, "wan.modules.clip")
SIZES = (37, 23), (56, 56), (20, 61)


def weight(name, shape):
    if "norm" in name and name.endswith("weight"):
        return 1 + value(name, shape) / 4
    return value(name, shape) / (1 if "embedding" in name and len(shape) == 3 else 8)


visual = clip.VisionTransformer(image_size=56, patch_size=14, dim=160, mlp_ratio=2, out_dim=32, num_heads=2,
                                num_layers=3, activation="gelu").eval().requires_grad_(False)
visual.load_state_dict({n: weight("visual." + n, tuple(p.shape)) for n, p in visual.state_dict().items()})
model = object.__new__(clip.CLIPModel)
model.dtype = torch.float32
model.model = torch.nn.Module()
model.model.visual, model.model.image_size = visual, visual.image_size
normalize = torchvision.transforms.Normalize(mean=[0.48145466, 0.4578275, 0.40821073],
                                             std=[0.26862954, 0.26130258, 0.27577711])
model.transforms = torchvision.transforms.Compose([normalize])

hugging = CLIPVisionModel(CLIPVisionConfig(hidden_size=160, intermediate_size=320, num_hidden_layers=3,
                                           num_attention_heads=2, image_size=56, patch_size=14, hidden_act="gelu"))
state = visual.state_dict()
renamed = {"embeddings.class_embedding": state["cls_embedding"].flatten(),
           "embeddings.position_embedding.weight": state["pos_embedding"][0],
           "embeddings.patch_embedding.weight": state["patch_embedding.weight"]}
for kind in "weight", "bias":
    renamed["pre_layrnorm." + kind] = state["pre_norm." + kind]
    renamed["post_layernorm." + kind] = state["post_norm." + kind]
    for i in range(3):
        ours, theirs = f"transformer.{i}.", f"encoder.layers.{i}."
        for a, b in zip("qkv", state[ours + "attn.to_qkv." + kind].chunk(3)):
            renamed[f"{theirs}self_attn.{a}_proj.{kind}"] = b
        for a, b in ("attn.proj", "self_attn.out_proj"), ("mlp.0", "mlp.fc1"), ("mlp.2", "mlp.fc2"), \
                    ("norm1", "layer_norm1"), ("norm2", "layer_norm2"):
            renamed[f"{theirs}{b}.{kind}"] = state[f"{ours}{a}.{kind}"]
prefix = "" if "embeddings.class_embedding" in hugging.state_dict() else "vision_model."
hugging.load_state_dict({prefix + n: v for n, v in renamed.items()}, strict=True)

out = {}
for w, h in SIZES:
    rgb = ((value("image.%dx%d" % (w, h), (h, w, 3)) * 64 + 63.5) * 2).to(torch.uint8)
    image = (rgb.permute(2, 0, 1).float() / 255).sub_(0.5).div_(0.5)
    pixels = torch.nn.functional.interpolate(image[None], size=(56, 56), mode="bicubic", align_corners=False)
    pixels = normalize(pixels.mul(0.5).add(0.5))[0]
    tokens = model.visual([image[:, None]])[0]
    other = hugging(pixel_values=pixels[None], output_hidden_states=True).hidden_states[-2][0]
    print(w, h, "official to transformers:", float((tokens - other).norm() / tokens.norm()))
    assert (tokens - other).norm() / tokens.norm() < 1e-5
    out["in.%dx%d" % (w, h)], out["out.%dx%d" % (w, h)] = pixels.contiguous(), tokens.contiguous()
save_file(out, out_path)
