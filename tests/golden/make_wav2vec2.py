"""Records states of a small wav2vec 2.0 of transformers, and what the official S2V makes of them:
wav2vec2.safetensors.

Usage: python make_wav2vec2.py WAN2.2_CHECKOUT OUT.safetensors
Weights and samples are computed by value(name) of official.py, as in tests/test_wav2vec2.c.
  normalized.N          [N / STEP]                   every STEP-th of N samples, as the official processor makes them
  states.N              [states, rows / EACH, C]     every EACH-th row of all states for N samples
  buckets.N.FRAMES      [states, frames / EACH, C]   every EACH-th frame of the official program's buckets
  clips.N.FRAMES        []                           the number of clips of FRAMES frames"""
import sys
import types

import official
import torch
from official import value
from safetensors.torch import save_file
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

wan, out_path = sys.argv[1:]
sys.modules["librosa"] = types.ModuleType("librosa")
(audio,) = official.modules(wan, "wan.modules.s2v.audio_encoder")
STEP, EACH = 97, 13

config = Wav2Vec2Config(hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
                        conv_dim=[32] * 7, conv_kernel=[10, 3, 3, 3, 3, 2, 2], conv_stride=[5, 2, 2, 2, 2, 2, 2],
                        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, vocab_size=33, conv_bias=True,
                        do_stable_layer_norm=True, feat_extract_norm="layer", attn_implementation="eager")
model = Wav2Vec2ForCTC(config).eval().requires_grad_(False)


def official_name(name):
    return name.replace("parametrizations.weight.original0", "weight_g").replace("parametrizations.weight.original1",
                                                                                 "weight_v")


def weight(name, shape):
    if "norm.weight" in name:
        return 1 + value(name, shape) / 4
    return value(name, shape) / (2 if "weight_g" in name else 8)


model.load_state_dict({n: weight(official_name(n), tuple(p.shape)) for n, p in model.state_dict().items()})
processor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
out = {}
for count in 720, 90000:
    samples = (value("samples", (count,)) / 8 + 0.1).numpy()
    normalized = processor(samples, sampling_rate=16000, return_tensors="pt").input_values
    result = model.wav2vec2(normalized, output_hidden_states=True)
    # after the last norm, as in the transformers 4.49 to 4.51 that Wan2.2 requires; later ones leave it out
    states = torch.cat(result.hidden_states[:-1] + (result.last_hidden_state,))
    out["normalized.%d" % count] = normalized[0, ::STEP].contiguous()
    out["states.%d" % count] = states[:, ::EACH].contiguous()
    features = audio.linear_interpolation(states, input_fps=50, output_fps=30)
    encoder = object.__new__(audio.AudioEncoder)
    encoder.video_rate = 30
    for frames in 80, 12:
        buckets, clips = encoder.get_audio_embed_bucket_fps(features, fps=16, batch_frames=frames, m=0)
        out["buckets.%d.%d" % (count, frames)] = buckets.permute(1, 0, 2)[:, ::EACH].contiguous()
        out["clips.%d.%d" % (count, frames)] = torch.tensor(clips)
    print(count, tuple(states.shape), tuple(features.shape), clips)
save_file(out, out_path)
