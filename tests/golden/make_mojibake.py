#!/usr/bin/env python3
"""Makes mojibake.safetensors: prompts that were decoded with a wrong encoding, and texts that only look like
it, with the official cleaning of each (ftfy.fix_text, html.unescape twice, white space).

    pip install ftfy==6.3.1 regex numpy safetensors
    python3 tests/golden/make_mojibake.py tests/golden/mojibake.safetensors [COUNT]

    clean_in, clean_out    concatenated strings and offsets, as in text.safetensors"""
import html
import random
import sys

import ftfy
import numpy as np
import regex
from ftfy import badness, chardata
from safetensors.numpy import save_file

rng = random.Random(5)
PROMPTS = """
Ein schöner Garten mit grünen Bäumen, Straße im Süden, 20 °C
Une forêt enneigée à l'aube, façade d'un café, cœur léger
El niño juega en la playa, ¿quién es? ¡Qué día más bonito!
Um pão de queijo, à noite na estação, coração
Žluťoučký kůň úpěl ďábelské ódy
Zażółć gęślą jaźń, łódź na jeziorze
Árvíztűrő tükörfúrógép, őszi erdő
Şehirde güneş doğuyor, ağaçlar ve çiçekler, İstanbul
Smörgåsbord på en vacker ö i Östersjön, Ærøskøbing
Ο ήλιος ανατέλλει πάνω από τη θάλασσα
Рыжая лиса бежит по снегу, утренний свет
Київ уночі, її очі, ґанок
Āboli, ķirši un žagari, Rīga; Lietuva, ąžuolas
“Curly quotes” and ‘single ones’ — it’s a cat… really
A price of 5 € or £4, 30 × 40 cm, ½ cup, 10 µm ± 1, ©2024 ™ ®
两只猫在打拳击，色调艳丽，过曝
猫がソファで眠る、夕日
고양이가 창가에 앉아 있다
A robot 🤖 waves at 😀 people, 👩‍🚀 and 🏳️‍🌈
قطة تجلس على الأريكة
חתול יושב על הספה
แมวบนโซฟา
Xin chào thế giới
""".strip().split("\n")
KEPT = """
ÄÖÜ äöü ß ÀÁÂÃ and À la carte
Ã is a letter, Â too
voilà à propos d'Åland
NAÏVE CAFÉ ÉCOLE
(╯°□°)╯︵ ┻━┻ and ಠ_ಠ and Ò_Ó
Œuvre, œil, ŒUVRE
50 °C, Ø 12 mm, ≈ 3 √2
«Привет», — сказал он. „Hallo“ ‚da‘
РГВ ГОСТ ВГ
é¤ ¬ ¦ ~ ƒ(x) = 2x † ‡
Mac OS: Ž‡
\u0080\u0099 controls \u0091quoted\u0092
x² ×³ H²O 10¹²
""".strip().split("\n")
POINTS = [c for text in {**badness.MOJIBAKE_CATEGORIES, **chardata.UTF8_CLUES}.values() for c in text]
ENCODINGS = chardata.CHARMAP_ENCODINGS + ["windows-1252", "cp850", "iso-8859-15"]


def clean(text):
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return regex.sub(r"\s+", " ", text).strip()


def garble(text):
    """Decodes UTF-8 with a wrong encoding, once or twice, and damages the result as programs do."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        text = text.encode().decode(rng.choice(ENCODINGS[:4] + ENCODINGS), "replace")
        if rng.random() < 0.2:
            text = text.replace("\xa0", " ")
        if rng.random() < 0.1:
            text = text.replace("\xad", "")
    return text


def cesu(text):
    """CESU-8 that was decoded as Latin-1 or Windows-1252."""
    def units(c):
        b = c.encode("utf-16-be")
        return [chr(int.from_bytes(b[i:i + 2], "big")) for i in range(0, len(b), 2)]
    data = "".join(u for c in text for u in units(c)).encode("utf-8", "surrogatepass")
    return data.replace(b"\0", b"\xc0\x80").decode(rng.choice(["latin-1", "sloppy-windows-1252"]))


def random_text():
    return "".join(rng.choice(POINTS) if rng.random() < 0.6 else rng.choice("aeiz AE.,?!  09_\n\x1a\t<&")
                   for _ in range(rng.randint(1, 14)))


def part(text):
    at = rng.randrange(len(text))
    return text[at:at + rng.randint(2, 25)]


def packed(name, rows):
    offset = np.cumsum([0] + [len(r) for r in rows]).astype(np.int64)
    return {name: np.concatenate(rows), name + "_offset": offset}


texts = PROMPTS + KEPT
texts += [p.encode().decode("sloppy-windows-1252") for p in PROMPTS]
texts += [cesu(p) for p in PROMPTS[-6:]]
count = int(sys.argv[2]) if len(sys.argv) > 2 else 600
while len(texts) < count:
    kind = rng.random()
    if kind < 0.4:
        texts.append(garble(rng.choice(PROMPTS)))
    elif kind < 0.65:
        texts.append(rng.choice(PROMPTS) + rng.choice([" ", "\n", ""]) + garble(part(rng.choice(PROMPTS))) +
                     rng.choice([" ", ""]) + rng.choice(KEPT))
    elif kind < 0.7:
        texts.append(cesu(part(rng.choice(PROMPTS))))
    else:
        texts.append(random_text())
texts = [t.encode("utf-8", "replace").decode().replace("\0", "") for t in texts]
texts = [t for t in texts if t]
tensors = packed("clean_in", [np.frombuffer(t.encode(), dtype=np.uint8) for t in texts])
cleaned = [clean(t) for t in texts]
tensors.update(packed("clean_out", [np.frombuffer(t.encode(), dtype=np.uint8) for t in cleaned]))
save_file(tensors, sys.argv[1])
repaired = sum(ftfy.fix_text(t) != ftfy.fix_text(t, fix_encoding=False) for t in texts)
print(len(texts), "texts,", repaired, "of them repaired")
