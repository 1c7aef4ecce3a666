"""Records what librosa.load(path, sr=16000) makes of sounds, and a small MP3: sound.safetensors, sound.mp3.

Usage: python make_sound.py OUT_FOLDER
librosa resamples with soxr, quality HQ, which is called here; the sounds are computed as in tests/test_sound.c.
  RATE.CHANNELS   [samples]   of a second / 8 of a sound of that rate, in that many channels, at 16000 samples a second
sound.mp3 is half a second of the first sound at 44100, by FFmpeg."""
import math
import subprocess
import sys

import numpy as np
import soxr
import torch
from safetensors.torch import save_file

folder = sys.argv[1]


def sound(rate, channels, count):
    """16-bit samples [count, channels]: tones that rise, of another phase in each channel."""
    i, c = np.arange(count)[:, None], np.arange(channels)[None]
    t = i / rate
    return np.round(12000 * np.sin(2 * math.pi * (300 * t + 9000 * t * t) + c)).astype(np.int16)


out = {}
for rate, channels in (8000, 1), (16000, 2), (44100, 2), (48000, 8), (22050, 1):
    y = sound(rate, channels, rate // 8).astype(np.float32) / 32768
    y = y.mean(axis=1, dtype=np.float32)
    if rate != 16000:
        y = soxr.resample(y, rate, 16000, quality="HQ")
    n = math.ceil(rate // 8 * 16000 / rate)
    y = np.pad(y, (0, max(0, n - len(y))))[:n]
    out["%d.%d" % (rate, channels)] = torch.from_numpy(np.ascontiguousarray(y))
save_file(out, folder + "/sound.safetensors")
subprocess.run(["ffmpeg", "-loglevel", "error", "-y", "-f", "s16le", "-ar", "44100", "-ac", "1", "-i", "-", "-b:a", "32k",
                "-ar", "44100", folder + "/sound.mp3"], input=sound(44100, 1, 22050).tobytes(), check=True)
