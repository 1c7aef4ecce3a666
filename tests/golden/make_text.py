#!/usr/bin/env python3
"""Makes spiece.model and text.safetensors: a small SentencePiece model like umT5's, and strings with the
results of the official tokenizer for them.

    pip install transformers==4.51.3 sentencepiece protobuf ftfy==6.3.1 regex numpy safetensors
    python3 tests/golden/make_text.py tests/golden

This transformers version is of the series that Wan2.1 was released with. It builds its fast tokenizer from
spiece.model in the same way as for google/umt5-xxl. text.safetensors has, as concatenated rows and offsets:
    clean_in, clean_out    strings before and after the official cleaning
    token_in, ids          prompts and their ids, truncated to 512 including EOS
    short_ids              the same, truncated to 16
"""
import html
import html.entities
import io
import json
import os
import random
import shutil
import sys
import tempfile

import ftfy
import numpy as np
import regex
import sentencepiece
from safetensors.numpy import save_file

EXTRA_IDS = 300  # as google/umt5-xxl

ENGLISH = """
Two anthropomorphic cats in comfy boxing gear and bright gloves fight intensely on a spotlighted stage.
A white cat wearing sunglasses sits on a surfboard at a summer beach, looking at the camera.
The camera follows a red fox through deep snow while the morning light turns golden.
An old fisherman mends his nets by the harbour, gulls crying over the quiet water.
A slow pan across a city street at night, neon signs reflected in puddles after the rain.
Close-up of hands kneading dough on a wooden table, flour drifting through the sunlight.
A drone shot over a winding mountain road, with clouds rolling below the peaks.
The astronaut walks over red sand, leaving footprints, while two moons rise behind the ridge.
A paper boat floats down a small stream in the forest, turning gently between the stones.
In a watercolor style, a girl with an umbrella crosses a bridge covered in cherry blossoms.
A steam train leaves the station; people on the platform wave and the smoke drifts away.
Cinematic lighting, shallow depth of field, realistic textures, high detail, smooth motion.
A blue butterfly lands on a yellow flower, then opens and closes its wings three times.
The dancer spins faster and faster until her dress becomes a circle of colour.
A robot waters the plants on a balcony; its eyes blink when the telephone rings.
Waves break against black rocks under a stormy sky, filmed in slow motion at 120 fps.
A chef throws vegetables into a wok, flames rising high above the kitchen stove.
Children run along the river with kites, laughing, as the wind pulls at the strings.
Time-lapse of a mushroom growing out of the moss, from the first day to the tenth.
The knight lowers his sword and looks up at the dragon, who is smiling politely.
An aerial view of green rice terraces, farmers in straw hats moving between the fields.
A woman in a grey coat reads a letter on the bench, then folds it and looks away.
Macro shot of a raindrop sliding down a leaf, the whole garden upside down inside it.
A vintage car drives through the desert, dust rising behind it, 1970s film grain.
The orchestra tunes its instruments before the conductor raises both hands.
Low quality, blurred details, overexposed, static, subtitles, worst quality, deformed hands.
"""

CHINESE = """
两只拟人化的猫穿着舒适的拳击装备和明亮的手套，在聚光灯下的舞台上激烈搏斗。
一只戴着墨镜的白猫坐在夏日海滩的冲浪板上，看着镜头。
镜头跟随一只红狐狸穿过厚厚的积雪，清晨的光线变成金色。
老渔夫在港口修补渔网，海鸥在平静的水面上鸣叫。
夜晚的城市街道，雨后的水洼里映着霓虹灯，镜头缓慢移动。
特写：一双手在木桌上揉面团，面粉在阳光中飘散。
无人机拍摄蜿蜒的山路，云海在山峰下翻滚。
宇航员走过红色的沙地，留下脚印，两个月亮从山脊后升起。
一只纸船沿着森林里的小溪漂流，在石头之间轻轻转动。
水彩风格，一个打着伞的女孩走过开满樱花的桥。
蒸汽火车离开车站，站台上的人们挥手，烟雾慢慢散去。
电影感的灯光，浅景深，真实的质感，细节丰富，动作流畅。
一只蓝色的蝴蝶落在黄色的花上，翅膀张开又合上三次。
舞者越转越快，裙子变成一个彩色的圆。
机器人在阳台上给植物浇水，电话响起时它眨了眨眼睛。
暴风雨的天空下，海浪拍打黑色的岩石，慢动作拍摄。
厨师把蔬菜扔进锅里，火焰高高升起。
孩子们拿着风筝沿着河边奔跑，笑声随风飘荡。
延时摄影，蘑菇从苔藓里长出来，从第一天到第十天。
骑士放下剑，抬头看着礼貌微笑的龙。
绿色梯田的航拍画面，戴草帽的农民在田间走动。
穿灰色大衣的女人在长椅上读信，然后把信折好，看向远方。
色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，残缺的，多余的手指，
画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走
镜头切换，镜头晃动，视频中的人在做动作，情绪激动剧烈，手快速抖动。
"""


def train(path):
    """Trains on random combinations of the sentences' parts, which gives enough text."""
    rng = random.Random(1)
    lines = []
    for text in (ENGLISH, CHINESE):
        sentences = text.split("\n")[1:-1]
        lines += sentences
        parts = [p for s in sentences for p in regex.findall(r"[^,.;，。：]+[,.;，。：]?", s)]
        for _ in range(4000):
            joined = "".join(rng.choice(parts) for _ in range(rng.randint(1, 4)))
            lines.append(joined.strip())
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, model_type="unigram", vocab_size=2000,
        normalization_rule_name="nmt_nfkc", character_coverage=1.0, byte_fallback=True,
        hard_vocab_limit=False, num_threads=1, pad_id=0, eos_id=1, bos_id=2, unk_id=3,
        minloglevel=2)
    with open(path, "wb") as f:
        f.write(out.getvalue())


def clean(text):
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return regex.sub(r"\s+", " ", text).strip()


CASES = r"""
|
| leading and trailing |
|two  spaces\tand\ttabs|
|line one\nline two\r\nline three\rline four\u2028five\u2029six\x85seven|
|\n\n\n|
|“Curly quotes”, ‘single ones’, it’s ʼn‛‟|
|"straight" and 'plain'|
|色调艳丽，过曝，静态，细节模糊不清，字幕！|
|（全角括号）：“引号”；《书名》、顿号……省略号。|
|ＬＯＵＤ　ＮＯＩＳＥＳ　１２３％＆|
|ﾊﾝｶｸ ｶﾀｶﾅ ﾃﾞｽ ﾊﾟﾝ｡｢｣､･ｰ|
|￦￥￡￢￣￤￨￩￪￫￬￭￮ ﾡﾢﾱￂￇ|
|ｱ゛ｶ゙ﾞ ｶﾞ|
|ﬁne ﬂuﬃest ﬀ ﬄ ﬅ ﬆ Ĳssel ĳs ŉ|
|Ǆ ǅ ǆ Ǉ ǈ ǉ Ǌ ǋ ǌ Ǳ ǲ ǳ|
|fish &amp; chips &lt;b&gt; &quot;x&quot; &#39;y&#39;|
|&amp;amp;amp; three times|
|&copy 2025 &reg &notit; &notin; &ampere &AMP &LT3|
|&eacute;&Eacute;&EACUTE;&SZLIG;&NTILDE; &nTILDE;|
|&CounterClockwiseContourIntegral; &fjlig; &NotEqualTilde; &bne;|
|&#20013;&#x6587;&#x1F600;&#128512;|
|&#0; &#x0; &#128; &#x80; &#150; &#x9f; &#129; &#13; &#10;|
|&#xD800; &#x110000; &#99999999999999999999; &#xFFFE; &#xFDD0; &#1; &#11; &#127;|
|&#59; &#x3b; &lt&#59; &amp&#x3b;gt&#59; &#12a; &#x; &#; &; & &&amp;& &#X41; &#x41 &#65 B|
|&hellip;it&#x2019;s &ldquo;quoted&rdquo;&nbsp;&ensp;&ZeroWidthSpace;end|
|<b>markup &amp; entity &copy;</b>|
|first &eacute; line\n<i> second &eacute; line\nthird &eacute; line|
|a &lt; b &amp;lt; c|
|&Tab;&NewLine;tab and line|
|\x1b[31mred\x1b[0m and \x1b[1;4mbold\x1b[m \x1b[？m \x1b[٣m \x1b[12|
|\x01\x02 bell\x07 back\x08 vt\x0b ff\x0c so\x0e us\x1f del\x7f|
|\ufeffbyte order mark\ufeff in the middle|
|\u206a\u206f \ufff9note\ufffaannotation\ufffb \ufffc object|
|soft\u00adhyphen zero\u200bwidth\u200cnon\u200djoiner word\u2060joiner|
|\u200eleft\u200fright \u202aembed\u202c \u2066isolate\u2069|
|nbsp\u00a0here thin\u2009space em\u2003space ogham\u1680space \u3000ideographic\u3000|
|e\u0301 a\u0308 n\u0303 o\u0323\u0302 \u1e9b\u0323 q\u0307\u0323|
|\u0041\u030a \u212b \u2126 \u0344 \u0958 \u2adc|
|\u1112\u1161\u11ab\u1100\u116e\u11a8 한국어 텍스트|
|ａ\u0301 ｶ\uff9e \uff9e\uff9f|
|مرحبا بالعالم، كيف حالك؟|
|ﷲ ﷺ ﻻ ﺍﻟﻌﺮﺑﻴﺔ مُحَمَّد|
|שָׁלוֹם עולם יִ|
|नमस्ते दुनिया क़ ज़|
|สวัสดีชาวโลก น้ำ ำ|
|Xin chào thế giới, đẹp lắm|
|Привет, мир! Ёлка и йод|
|日本語のテスト、こんにちは。が ぱ|
|😀 😃👍🏽 👨‍👩‍👧‍👦 👩🏾‍🚀 🏳️‍🌈 🇩🇪🇨🇳 ❤️ ☺ 1️⃣ 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f|
|🫠🫥🪿 🦙🦙 中🦙文|
|① ② Ⅷ ½ ² ³ ™ ℃ ㎏ ㈱ ﹏ … ‥ ´ ¨ ¯ ¸|
|𝓗𝓮𝓵𝓵𝓸 𝔚𝔬𝔯𝔩𝔡 𝟙𝟚𝟛|
|²\u0301 \ufffd\u0301 ①\u0301|
|\ufffd replacement \U000f0000 private \U0010fffd|
|▁ lower ▁▁ block a▁b|
|</s>|
|before</s>after|
|a </s> b <extra_id_0>c <extra_id_299> d <s>e <unk> f<pad>g|
|<extra_id_300> <extra_id_1 <extra_id_01> <EXTRA_ID_0> < /s>|
|&lt;/s&gt; &lt;extra_id_7&gt;|
|&amp;lt;/s&amp;gt;|
|<pad><pad>  <pad>|
|<0x41> <0xE4><0xB8><0xAD>|
|C:\\path\\file %s %d {curly} [square] ~tilde^ `tick` $5 €5 £5 |pipe|
|http://example.org/a?b=c&d=e&copy=1#frag user@example.org|
|naïve café Zürich Ærøskøbing Łódź İstanbul ǅ|
|x\u0300\u0316\u0301\u0317 stacked \u0315\u0300|
|Zalgo t\u0336e\u0337x\u0338t|
|视频中的人在做动作|
|English 中文 mixed混合text文本，no space|
|数字123和456，还有７８９。|
"""


def cases():
    for line in CASES.split("\n"):
        if line.startswith("|"):
            yield line[1:-1].encode("ascii", "backslashreplace").decode("unicode-escape")


def plain(rng):
    """A typical prompt, with some irregular characters."""
    parts = [p for text in (ENGLISH, CHINESE)
             for p in regex.findall(r"\S[^,.;，。：\n]*[,.;，。：]?", text)]
    joints = [" ", " ", "", "\n", "  ", "，", "\u3000", " — ", "“", "” ", "&amp;", "😀"]
    return "".join(rng.choice(parts) + rng.choice(joints) for _ in range(rng.randint(1, 9)))


RANGES = [(0x20, 0x7f), (0x20, 0x7f), (1, 0x20), (0x7f, 0x250), (0x2b0, 0x370), (0x590, 0x700),
          (0x900, 0xa00), (0xe00, 0xe80), (0x1100, 0x1200), (0x1e00, 0x2070), (0x2100, 0x2200),
          (0x2460, 0x2500), (0x3000, 0x3100), (0x4e00, 0x4e80), (0xac00, 0xac80), (0xf900, 0xfb50),
          (0xfe00, 0x10000), (0xff00, 0xfff0), (0x1d100, 0x1d800), (0x1f300, 0x1f700)]
NAMES = sorted(html.entities.html5) + sorted({n.upper() for n in html.entities.html5})


def hostile(rng):
    """Code points and entities from the ranges that the cleaning changes."""
    def one():
        kind = rng.random()
        if kind < 0.15:
            return "&" + rng.choice(NAMES)
        if kind < 0.2:
            return "&%s;" % rng.choice(NAMES).rstrip(";")[:rng.randint(1, 8)]
        if kind < 0.3:
            n = rng.choice([rng.randrange(0x180), rng.randrange(0x120000), 0xd800, 0xfffe])
            return rng.choice(["&#%d;", "&#x%x;", "&#X%X", "&#%d"]) % n
        if kind < 0.4:
            return rng.choice(["\r\n", "\r", "\n", "\x1b[1;31m", "&&", "&#", " ", "\u0301", "\x85"])
        first, end = rng.choice(RANGES)
        return "".join(chr(rng.randrange(first, end)) for _ in range(rng.randint(1, 4)))
    return "".join(one() for _ in range(rng.randint(1, 12)))


def unrepaired(text):
    """Whether ftfy has no encoding to repair in this text: make_mojibake.py is for those."""
    return ftfy.fix_text(text) == ftfy.fix_text(text, fix_encoding=False)


def packed(name, rows):
    """Concatenated rows of one dtype, and the offset of each."""
    offset = np.cumsum([0] + [len(r) for r in rows]).astype(np.int64)
    return {name: np.concatenate(rows), name + "_offset": offset}


def utf8(strings):
    return [np.frombuffer(s.encode(), dtype=np.uint8) for s in strings]


def main(folder):
    from transformers import T5TokenizerFast

    rng = random.Random(2)
    train(os.path.join(folder, "spiece.model"))
    with tempfile.TemporaryDirectory() as umt5:
        shutil.copy(os.path.join(folder, "spiece.model"), umt5)
        with open(os.path.join(umt5, "tokenizer_config.json"), "w") as f:
            json.dump({"tokenizer_class": "T5Tokenizer", "extra_ids": EXTRA_IDS}, f)
        tokenizer = T5TokenizerFast.from_pretrained(umt5)

    listed = list(cases())
    long = [" ".join(plain(rng) for _ in range(40)) for _ in range(6)]
    long += ["中文，猫在草地上行走。" * 80, "word " * 700, "</s>" * 600, "🦙" * 600, "a" * 2000]
    prompts = listed + long
    while len(prompts) < 200:
        text = plain(rng) if rng.random() < 0.7 else hostile(rng)
        if unrepaired(text):
            prompts.append(text)
    cleaned = [clean(p) for p in prompts]
    ids = [tokenizer(c, truncation=True, max_length=512)["input_ids"] for c in cleaned]
    short = [tokenizer(c, truncation=True, max_length=16)["input_ids"] for c in cleaned]

    texts = list(listed)
    while len(texts) < 600:
        text = hostile(rng)
        if unrepaired(text):
            texts.append(text)
    assert all(unrepaired(t) for t in prompts + texts)
    assert not any("\0" in t for t in prompts + texts)
    tensors = {}
    tensors.update(packed("token_in", utf8(prompts)))
    tensors.update(packed("ids", [np.array(i, dtype=np.int32) for i in ids]))
    tensors.update(packed("short_ids", [np.array(i, dtype=np.int32) for i in short]))
    tensors.update(packed("clean_in", utf8(texts)))
    tensors.update(packed("clean_out", utf8([clean(t) for t in texts])))
    save_file(tensors, os.path.join(folder, "text.safetensors"))
    print(len(prompts), "prompts,", sum(map(len, ids)), "ids,", len(texts), "texts;",
          tokenizer.vocab_size, "ids in the vocabulary")


if __name__ == "__main__":
    main(sys.argv[1])
