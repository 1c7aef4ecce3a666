#!/usr/bin/env python3
"""Writes the valid inputs of the corpora, from which the fuzzers start: make_corpus.py WANMPI

Files that fuzzing has added (named by libFuzzer, or after what they broke) stay as they are."""
import json, pathlib, struct, subprocess, sys, tempfile, zipfile

import gguf, numpy
from safetensors.numpy import load_file

here = pathlib.Path(__file__).parent
golden = here.parent / "golden"


def save(target, name, data):
    folder = here / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def safetensors(tensors, metadata=None):
    header, at = ({"__metadata__": metadata} if metadata else {}), 0
    for name, dtype, shape, size in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + bytes(range(256)) * (at // 256) + bytes(range(at % 256))


def small_gguf(kind):
    """One tensor, all kinds of metadata."""
    with tempfile.TemporaryDirectory() as tmp:
        path = pathlib.Path(tmp) / "x.gguf"
        writer = gguf.GGUFWriter(path, "t5encoder")
        writer.add_custom_alignment(64)
        writer.add_array("comfy.gguf.orig_shape.a", [2, 128])
        writer.add_tokenizer_model("t5")
        writer.add_token_list(["<pad>", "</s>", "a"])
        writer.add_token_scores([0.0, 0.0, -1.5])
        writer.add_bool("tokenizer.ggml.add_space_prefix", True)
        blocks, width = gguf.GGML_QUANT_SIZES[kind]
        data = numpy.arange(256 // blocks * width, dtype="u1").reshape(1, -1)
        writer.add_tensor("a", data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def weights():
    save("safetensors", "dtypes", (golden / "dtypes.safetensors").read_bytes())
    save("safetensors", "small", safetensors([("a", "F32", [2, 3], 24), ("b.weight", "BF16", [5], 10),
                                              ("c", "F8_E4M3", [0, 4], 0), ("d", "I64", [], 8)]))
    save("safetensors", "metadata", safetensors([("x", "F16", [1, 1, 1, 1, 2], 4)], {"format": "pt"}))
    save("safetensors", "empty", safetensors([]))
    recorded = load_file(golden / "formats.safetensors")
    for name in ["scaled.safetensors", "comfy.safetensors"]:
        save("safetensors", name.split(".")[0], recorded["file." + name].tobytes())
    save("gguf", "blocks", recorded["file.blocks.gguf"].tobytes())
    for i, tensor in enumerate(["F32", "Q4_K"]):
        save("gguf", f"small{i}", small_gguf(getattr(gguf.GGMLQuantizationType, tensor)))
    save("pth", "fp8", recorded["file.nested.pth"].tobytes())
    for name in ["flat", "nested", "wrapped", "zip64", "deflated", "evil"]:
        path = golden / f"{name}.pth"
        save("pth", name, path.read_bytes())
        with zipfile.ZipFile(path) as z:
            for member in z.namelist():
                if member.endswith("/data.pkl"):
                    save("pickle", name, z.read(member))


def run_files():
    import h5py

    with tempfile.TemporaryDirectory() as tmp:
        for name, libver in [("plain", "earliest"), ("latest", "latest")]:
            path = pathlib.Path(tmp) / name
            with h5py.File(path, "w", libver=libver) as f:
                f["latents"] = numpy.ones((2, 1, 2, 2), "f4")
                f["noise"] = numpy.ones((2, 1, 2, 2), "f8")
                f["step"] = numpy.int64(1)
                f["solver/order"] = numpy.int32(2)
                f["solver/m0"] = numpy.zeros((2, 1, 2, 2), "f4")
                f["text/cond"] = numpy.ones((3, 4), "f2")
                f.attrs["request"] = '{"task": "t2v-1.3B"}'
                f.attrs["version"] = numpy.bytes_("1")
            save("runfile", name, path.read_bytes())


def synth(wanmpi, folder, name, flags):
    """The config and the safetensors header of a part that synth writes."""
    with tempfile.TemporaryDirectory() as tmp:
        out = pathlib.Path(tmp) / "c"
        subprocess.run([wanmpi, "synth", "--layers", "1", "--out", out, *flags], check=True,
                       stdout=subprocess.DEVNULL)
        data = (out / folder / name).read_bytes()
        return (out / folder / "config.json").read_bytes(), data[8:8 + struct.unpack("<Q", data[:8])[0]]


def checkpoints(wanmpi):
    shard, model = "diffusion_pytorch_model-00001-of-00001.safetensors", "diffusion_pytorch_model.safetensors"

    def index(header):
        names = [n for n in json.loads(header) if n != "__metadata__"]
        return json.dumps({"metadata": {"total_size": 1}, "weight_map": {n: shard for n in names}}).encode()

    for name, folder, file, flags in [
        ("images", "", model, ["--parts", "dit", "--preset", "tiny-flf2v-14B"]),
        ("image_encoder", "image_encoder", "model.safetensors",
         ["--parts", "clip", "--preset", "tiny-i2v-14B", "--diffusers"]),
        ("tiny", "", model, ["--parts", "dit", "--preset", "tiny"]),
    ]:
        config, header = synth(wanmpi, folder, file, flags)
        save("checkpoint", name, config + b"\xff" + index(header) + b"\xff" + header)
    save("checkpoint", "short_index", config + b"\xff" + json.dumps({"weight_map": {"a": shard}}).encode() + b"\xff" + header)
    save("checkpoint", "one_tensor", b'{"dim": 64}\xff{"weight_map":{"a":"%s"}}\xff' % shard.encode() +
         b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}')


def texts():
    for i, line in enumerate([
        {"prompt": "Two cats, boxing", "size": "832*480", "frame_num": 81, "base_seed": 3},
        {"prompt": "x", "sample_steps": 8, "sample_solver": "dpm++", "sample_shift": 3.5, "sample_guide_scale": 1,
         "save_file": "a.mp4", "fps": 16, "quality": 5, "tiled": True, "tile_size": "30,52"},
        {"negative_prompt": "", "frame_num": 1, "save_file": "b.png", "rand_device": "cuda", "cuda_sms": 132},
        {"prompt": "\u00e9", "run_file": "r.h5", "save_every": 2, "keep_frames": True, "noise": "n.h5", "text": "t.h5"},
        {"task": "t2v-1.3B", "ckpt_dir": "folder", "base_seed": 9223372036854775807},
    ]):
        save("request", f"line{i}", json.dumps(line).encode())
    for i, prompt in enumerate([
        "Two cats, boxing. They wear gloves!", "&lt;b&gt; &amp;amp; &#x41; &AMP; &notit; &#0; &#128;",
        "\u201cquotes\u201d \ufb01 \uff21\uff76\uff9e \u3000 \u0133 \u01c4", "a\r\nb\u2028c\x1b[31mred\x1b[0m \x07\ufeff",
        "</s><extra_id_0><pad> \u2581 <0xE7>", "e\u0301\u0300 \u1100\u1161\u11a8 \U0001d55c\u0301 \U0001f468\u200d\U0001f469",
        "\u4e24\u53ea\u732b\u5728\u6253\u62f3\u51fb", "\u0344 \u1e9b\u0323 \u03d3 \ufdfa \u1d160",
    ]):
        save("prompt", f"prompt{i}", prompt.encode())


def models():
    import sentencepiece

    with tempfile.TemporaryDirectory() as tmp:
        text, rules = pathlib.Path(tmp) / "text", pathlib.Path(tmp) / "rules.tsv"
        text.write_text("two cats boxing in the ring\nthe \u732b sat on a mat\n\u00e9t\u00e9 \u00fcber\n" * 20)
        rules.write_text("FF21\t41\n1D55C\t6B\n65 301\tE9\n2460\t31\n7F\t\n")
        for name, extra in [("identity", "--vocab_size=60 --normalization_rule_name=identity"),
                            ("rules", f"--vocab_size=40 --normalization_rule_tsv={rules}"),
                            ("bytes", "--vocab_size=330 --byte_fallback --user_defined_symbols=<x>"
                                      " --normalization_rule_name=identity")]:
            sentencepiece.SentencePieceTrainer.Train(
                f"--input={text} --model_prefix={tmp}/{name} --hard_vocab_limit=false"
                f" --minloglevel=2 --num_threads=1 {extra}")
            save("spiece", name, (pathlib.Path(tmp) / f"{name}.model").read_bytes())


def images():
    recorded = load_file(golden / "images.safetensors")
    for name in ["w21-420.jpg", "progressive.jpg", "cmyk.jpg", "turn-6.jpg", "alpha.png", "palette-4.png", "grey-16.png",
                 "turn-6.png", "palette.bmp", "lzw.tif", "turn-8.tif", "first.gif", "alpha.webp", "lossless.webp",
                 "animated.webp", "still.avif", "turned.mp4"]:
        save("media", name, recorded["file." + name].tobytes())


if __name__ == "__main__":
    weights()
    images()
    texts()
    checkpoints(sys.argv[1])
    run_files()
    models()
