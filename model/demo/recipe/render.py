"""Synthetic captioned clips: one to three coloured shapes that move over a background.

A clip is made in three steps:

    scene(rng)            the content: a dict (objects, background, camera, light)
    caption(scene, rng)   a caption, in English or Chinese, in many wordings
    render(params, ...)   the pixels, on any device, many clips at once, with soft edges

The seed determines everything. Lengths are in units of the frame's height, times in units of the clip (0:
first frame, 1: last frame), so one scene can be drawn at any size and length.

Some (colour, shape, motion) triples are excluded from training: see `held_out`.
"""

import math
import random

import torch

COLOURS = {  # name: (rgb, English words, Chinese words)
    "red": ((222, 40, 40), ["red"], ["红色", "红"]),
    "orange": ((245, 135, 20), ["orange"], ["橙色", "橘色"]),
    "yellow": ((245, 222, 45), ["yellow"], ["黄色", "黄"]),
    "green": ((45, 165, 65), ["green"], ["绿色", "绿"]),
    "cyan": ((55, 208, 218), ["cyan", "turquoise"], ["青色"]),
    "blue": ((45, 85, 220), ["blue"], ["蓝色", "蓝"]),
    "purple": ((140, 55, 190), ["purple", "violet"], ["紫色"]),
    "pink": ((246, 130, 182), ["pink"], ["粉色", "粉红色"]),
}

SHAPES = {  # name: (number in render(), English words, Chinese words)
    "circle": (0, ["circle", "circle", "ball", "disc"], ["圆形", "圆", "球"]),
    "ring": (1, ["ring", "ring", "hoop"], ["圆环", "环"]),
    "square": (2, ["square", "square", "box"], ["正方形", "方块"]),
    "triangle": (3, ["triangle"], ["三角形"]),
    "star": (4, ["star"], ["星星", "五角星"]),
}

SIZES = {  # name: (radius, English words, Chinese words)
    "small": (0.115, ["small", "little", "tiny"], ["小", "小小的"]),
    "medium": (0.16, ["", "", "", "medium-sized"], ["", "", "", "中等大小的"]),
    "large": (0.215, ["large", "big", "huge"], ["大", "巨大的"]),
}

MOTIONS = {  # name: (English as (finite, participle), Chinese)
    "left": (
        [
            ("moves left", "moving left"),
            ("moves to the left", "moving to the left"),
            ("slides to the left", "sliding to the left"),
            ("drifts left", "drifting left"),
            ("travels from right to left", "travelling from right to left"),
        ],
        ["向左移动", "从右向左移动", "往左滑动", "朝左边移动"],
    ),
    "right": (
        [
            ("moves right", "moving right"),
            ("moves to the right", "moving to the right"),
            ("slides to the right", "sliding to the right"),
            ("drifts right", "drifting right"),
            ("travels from left to right", "travelling from left to right"),
        ],
        ["向右移动", "从左向右移动", "往右滑动", "朝右边移动"],
    ),
    "up": (
        [
            ("moves up", "moving up"),
            ("rises", "rising"),
            ("moves upward", "moving upward"),
            ("floats up", "floating up"),
            ("travels from bottom to top", "travelling from bottom to top"),
        ],
        ["向上移动", "上升", "从下向上移动", "往上飘"],
    ),
    "down": (
        [
            ("moves down", "moving down"),
            ("falls", "falling"),
            ("moves downward", "moving downward"),
            ("sinks", "sinking"),
            ("travels from top to bottom", "travelling from top to bottom"),
        ],
        ["向下移动", "下降", "从上向下移动", "往下落"],
    ),
    "circle": (
        [
            ("moves in a circle", "moving in a circle"),
            ("circles around", "circling around"),
            ("goes round and round", "going round and round"),
        ],
        ["绕圈移动", "做圆周运动", "转圈"],
    ),
    "bounce": (
        [
            ("bounces", "bouncing"),
            ("bounces up and down", "bouncing up and down"),
            ("jumps up and down", "jumping up and down"),
        ],
        ["上下弹跳", "弹跳", "跳动"],
    ),
    "grow": (
        [
            ("grows", "growing"),
            ("gets bigger", "getting bigger"),
            ("grows larger", "growing larger"),
        ],
        ["变大", "逐渐变大", "越来越大"],
    ),
    "shrink": (
        [("shrinks", "shrinking"), ("gets smaller", "getting smaller")],
        ["变小", "逐渐变小", "越来越小"],
    ),
    "spin": (
        [("spins", "spinning"), ("rotates", "rotating"), ("spins in place", "spinning in place")],
        ["旋转", "自转", "原地旋转"],
    ),
    "still": (
        [
            ("stays still", "staying still"),
            ("stands still", "standing still"),
            ("rests", "resting"),
        ],
        ["静止不动", "停在原地", "保持不动"],
    ),
}
DIRECTIONS = ("left", "right", "up", "down")
MOTION_ODDS = [
    ("left", 5),
    ("right", 5),
    ("up", 5),
    ("down", 5),
    ("circle", 3),
    ("bounce", 3),
    ("grow", 3),
    ("shrink", 2),
    ("spin", 3),
    ("still", 2),
]

PLAIN = {  # name: (rgb, English, Chinese)
    "black": ((18, 18, 20), ["black"], ["黑色"]),
    "white": ((240, 240, 238), ["white"], ["白色"]),
    "gray": ((128, 128, 130), ["gray", "grey"], ["灰色"]),
    "navy": ((22, 30, 72), ["dark blue", "navy"], ["深蓝色"]),
    "beige": ((226, 206, 172), ["beige"], ["米色"]),
    "mint": ((182, 222, 184), ["light green", "mint"], ["浅绿色"]),
}
LAND = {  # name: (sky, ground, English, Chinese)
    "hills": (
        (128, 190, 240),
        (92, 150, 78),
        ["over green hills", "above green hills", "in front of green hills"],
        ["绿色的山丘前", "草地上方", "青山前"],
    ),
    "desert": (
        (240, 205, 160),
        (196, 148, 92),
        ["in a desert", "over sand dunes", "over the desert"],
        ["沙漠里", "沙丘上方", "沙漠中"],
    ),
    "snow": (
        (160, 184, 212),
        (236, 240, 246),
        ["over snow", "in a snowy landscape", "above a snow field"],
        ["雪地上方", "雪地里", "雪景中"],
    ),
}
PATTERNS = {  # name: (number in render(), English, Chinese)
    "plain": (0, "", ""),
    "gradient": (1, "gradient", "渐变"),
    "stripes": (2, "striped", "条纹"),
    "checks": (3, "checkered", "方格"),
}
NIGHT_BACK = (0.20, 0.24, 0.42)  # factors for red, green and blue of the background at full night
NIGHT_OBJECT = (0.55, 0.58, 0.72)  # and of the objects

EDGE, BACK_EDGE = 2.2, 4.0  # widths of the soft edges of objects and backgrounds, in pixels

CLEAN = 0.4  # fraction of the training clips with a single object on a plain background

OBJECTS = 3
BACK_PARAMS = 14
OBJECT_PARAMS = 19
PARAMS = BACK_PARAMS + OBJECTS * OBJECT_PARAMS


def held_out(colour, shape, motion):
    """About one triple in nine is excluded from training; every pair of its members occurs in training."""
    c, s, m = list(COLOURS).index(colour), list(SHAPES).index(shape), list(MOTIONS).index(motion)
    return (c + 2 * s + m) % 9 == 4


def training_triple(rng):
    """A random triple of those used in training."""
    while True:
        colour, shape = rng.choice(list(COLOURS)), rng.choice(list(SHAPES))
        motion = draw(rng, MOTION_ODDS)
        round_spin = motion == "spin" and shape in ("circle", "ring")
        if not round_spin and not held_out(colour, shape, motion):
            return colour, shape, motion


# ---------------------------------------------------------------------------------- scenes


def draw(rng, odds):
    names, weights = zip(*odds)
    return rng.choices(names, weights)[0]


def contrast(a, b):
    return math.dist(a, b)


def background(rng, camera):
    """A background as a dict; with a moving camera it is never plain, so that the motion is visible."""
    kind = draw(
        rng,
        (
            [("stripes", 2), ("checks", 2), ("land", 4)]
            if camera
            else [("plain", 8), ("gradient", 2), ("stripes", 1), ("checks", 1), ("land", 4)]
        ),
    )
    if kind == "land":
        name = rng.choice(list(LAND))
        first, second = LAND[name][0], LAND[name][1]
    else:
        name = rng.choice(list(PLAIN))
        first = PLAIN[name][0]
        toward, part = ((0, 0, 0), 0.22) if sum(first) > 300 else ((255, 255, 255), 0.16)
        second = tuple(a + (b - a) * part for a, b in zip(first, toward))
    return {
        "kind": kind,
        "name": name,
        "first": first,
        "second": second,
        "length": (
            rng.uniform(0.30, 0.42) if kind in ("stripes", "checks") else rng.uniform(0.7, 1.1)
        ),
        "phase": rng.uniform(0, 2 * math.pi),
        "angle": rng.choice([0.0, math.pi / 4]) if kind == "stripes" else 0.0,
    }


def path(rng, motion, radius, aspect):
    """The path of an object: start, end, circle (radius, phase, turns), bounce (height, count), size
    from/to, rotation from/to."""
    p = {
        "rho": 0.0,
        "phi": 0.0,
        "turns": 0.0,
        "hop": 0.0,
        "hops": 0.0,
        "s0": 1.0,
        "s1": 1.0,
        "rot0": 0.0,
        "rot1": 0.0,
    }
    reach = 1.3 * radius + 0.02
    lo_x, hi_x, lo_y, hi_y = reach, aspect - reach, reach, 1 - reach
    dx = dy = 0.0
    if motion in ("left", "right"):
        dx = rng.uniform(0.45, 0.75) * (hi_x - lo_x) * (1 if motion == "right" else -1)
    if motion in ("up", "down"):
        dy = rng.uniform(0.45, 0.75) * (hi_y - lo_y) * (1 if motion == "down" else -1)
    if motion == "circle":
        p["rho"] = rng.uniform(0.13, 0.19)
        p["phi"] = rng.uniform(0, 2 * math.pi)
        p["turns"] = rng.choice([-1.0, 1.0])
        p["rho"] = min(p["rho"], 0.49 - reach)
        lo_x, hi_x, lo_y, hi_y = (
            lo_x + p["rho"],
            hi_x - p["rho"],
            lo_y + p["rho"],
            hi_y - p["rho"],
        )
    if motion == "bounce":
        p["hop"] = rng.uniform(0.20, 0.34)
        p["hops"] = rng.choice([1.0, 2.0])
        p["hop"] = min(p["hop"], hi_y - lo_y)
        lo_y = max(lo_y + p["hop"], 0.5)
    if motion == "grow":
        p["s0"], p["s1"] = rng.uniform(0.35, 0.5), rng.uniform(1.25, 1.45)
    if motion == "shrink":
        p["s0"], p["s1"] = rng.uniform(1.25, 1.45), rng.uniform(0.35, 0.5)
    if motion == "spin":
        p["rot0"] = rng.uniform(0, 2 * math.pi)
        p["rot1"] = p["rot0"] + rng.choice([-1, 1]) * rng.uniform(1.2, 1.8) * math.pi
    # choose the start such that the whole path is inside the frame
    sx0, sx1 = max(lo_x, lo_x - dx), min(hi_x, hi_x - dx)
    sy0, sy1 = max(lo_y, lo_y - dy), min(hi_y, hi_y - dy)
    p["x0"] = rng.uniform(sx0, sx1) if sx1 > sx0 else (sx0 + sx1) / 2
    p["y0"] = rng.uniform(sy0, sy1) if sy1 > sy0 else (sy0 + sy1) / 2
    p["x1"], p["y1"] = p["x0"] + dx, p["y0"] + dy
    return p


def position(p, u):
    a = p["phi"] + 2 * math.pi * p["turns"] * u
    x = p["x0"] + (p["x1"] - p["x0"]) * u + p["rho"] * math.cos(a)
    y = p["y0"] + (p["y1"] - p["y0"]) * u + p["rho"] * math.sin(a)
    return x, y - p["hop"] * abs(math.sin(math.pi * p["hops"] * u))


def crowding(objects):
    """The smallest gap between any two objects over time; negative: they overlap."""
    gap = 1.0
    for i, a in enumerate(objects):
        for b in objects[:i]:
            for k in range(7):
                (ax, ay), (bx, by) = position(a["path"], k / 6), position(b["path"], k / 6)
                gap = min(gap, math.hypot(ax - bx, ay - by) - 1.2 * (a["radius"] + b["radius"]))
    return gap


def jitter(rng, rgb):
    return tuple(min(255.0, max(0.0, v + rng.uniform(-9, 9))) for v in rgb)


def scene(rng, aspect=1.0, only=None):
    """A random scene. only: (colour, shape, motion) of a single object on a plain background; without it no
    object is a held-out triple."""
    light = (
        draw(rng, [("day", 10), ("dusk", 1.5), ("dawn", 0.7), ("night", 0.5)])
        if not only
        else "day"
    )
    camera = draw(rng, [("", 8)] + [(d, 0.4) for d in DIRECTIONS]) if not only else ""
    back = background(rng, camera)
    while (only and back["kind"] != "plain") or (light != "day" and back["kind"] != "land"):
        back = background(rng, camera)
    count = 1 if only else rng.choices([1, 2, 3], [6, 3, 1.2])[0]
    pan = rng.uniform(0.35, 0.55)
    move = {"": (0, 0), "left": (-pan, 0), "right": (pan, 0), "up": (0, -pan), "down": (0, pan)}[
        camera
    ]

    objects, taken = [], set()
    while len(objects) < count:
        motion = (
            draw(rng, [("still", 4), ("spin", 1), ("bounce", 1), ("grow", 0.5)])
            if camera
            else draw(rng, MOTION_ODDS)
        )
        colour, shape = rng.choice(list(COLOURS)), rng.choice(list(SHAPES))
        if only:
            colour, shape, motion = only
        elif held_out(colour, shape, motion):
            continue
        if motion == "spin" and shape in ("circle", "ring"):
            continue
        rgb = COLOURS[colour][0]
        if colour in taken or min(contrast(rgb, back["first"]), contrast(rgb, back["second"])) < 85:
            if only:  # the colour is fixed, so change the background
                back = background(rng, camera)
                while back["kind"] != "plain":
                    back = background(rng, camera)
            continue
        taken.add(colour)
        size = draw(rng, [("small", 1), ("medium", 2), ("large", 1)])
        radius = SIZES[size][0] * rng.uniform(0.92, 1.08) * (1.0, 0.9, 0.78)[count - 1]
        objects.append(
            {
                "colour": colour,
                "shape": shape,
                "motion": motion,
                "size": size,
                "radius": radius,
                "rgb": jitter(rng, rgb),
            }
        )

    best = None
    for _ in range(1 if count == 1 else 10):
        for o in objects:
            o["try"] = path(
                rng, o["motion"], o["radius"] * (1.3 if o["motion"] == "grow" else 1.0), aspect
            )
            if camera:  # a still object moves opposite to the camera
                o["try"]["x0"] = min(
                    max(0.5 * aspect + move[0] / 2 + rng.uniform(-0.2, 0.2), 0.1), aspect - 0.1
                )
                o["try"]["y0"] = min(max(0.5 + move[1] / 2 + rng.uniform(-0.2, 0.2), 0.1), 0.9)
                o["try"]["x1"], o["try"]["y1"] = o["try"]["x0"] - move[0], o["try"]["y0"] - move[1]
        tried = [{"path": o["try"], "radius": o["radius"]} for o in objects]
        gap = crowding(tried)
        if best is None or gap > best:
            best = gap
            for o in objects:
                o["path"] = o["try"]
        if best > 0:
            break
    return {"objects": objects, "back": back, "camera": camera, "move": move, "light": light}


def params(s):
    """Returns the scene as PARAMS numbers, for render()."""
    b = s["back"]
    kind = 4 if b["kind"] == "land" else PATTERNS[b["kind"]][0]
    night = {"day": (0, 0), "dusk": (0, 1), "dawn": (1, 0), "night": (1, 1)}[s["light"]]
    out = [kind, *b["first"], *b["second"], b["length"], b["phase"], b["angle"], *s["move"], *night]
    for i in range(OBJECTS):
        if i >= len(s["objects"]):
            out += [0.0] * OBJECT_PARAMS
            continue
        o = s["objects"][i]
        p = o["path"]
        out += [
            1,
            SHAPES[o["shape"]][0],
            *o["rgb"],
            o["radius"],
            p["x0"],
            p["y0"],
            p["x1"],
            p["y1"],
            p["rho"],
            p["phi"],
            p["turns"],
            p["hop"],
            p["hops"],
            p["s0"],
            p["s1"],
            p["rot0"],
            p["rot1"],
        ]
    return [float(v) for v in out]


# ---------------------------------------------------------------------------------- captions


def english(s, rng):
    def thing(o):
        words = [
            rng.choice(SIZES[o["size"]][1]) if rng.random() < 0.75 else "",
            rng.choice(COLOURS[o["colour"]][1]),
            rng.choice(SHAPES[o["shape"]][1]),
        ]
        words = " ".join(w for w in words if w)
        return ("an " if words[0] in "aeiou" else "a ") + words

    def acts(o, form):
        return f"{thing(o)} {rng.choice(MOTIONS[o['motion']][0])[form]}"

    b = s["back"]
    where = ""
    if b["kind"] == "land":
        where = rng.choice(LAND[b["name"]][2])
    elif rng.random() < 0.85 or b["kind"] != "plain":
        pattern = PATTERNS[b["kind"]][1]
        name = rng.choice(PLAIN[b["name"]][1])
        words = f"{name} {pattern}".strip() if rng.random() < 0.7 or not pattern else pattern
        where = f"on a {words} background"
    if rng.random() < 0.1 and b["kind"] == "plain":
        where = ""

    form = 0 if rng.random() < 0.75 else 1
    parts = [acts(o, form) for o in s["objects"]]
    if len(parts) == 1:
        what = parts[0]
    elif len(parts) == 2:
        what = (
            parts[0]
            + rng.choice([" and ", " while ", ", and "] if form == 0 else [" and ", " next to "])
            + parts[1]
        )
    else:
        what = f"{parts[0]}, {parts[1]} and {parts[2]}"
    if form == 1:
        what = rng.choice(["a video of ", "", "an animation of "]) + what
    if where:
        what = f"{what} {where}" if rng.random() < 0.7 else f"{where}, {what}"

    light = {
        "day": [""],
        "dusk": ["as day turns to night", "while day turns into night", "as night falls"],
        "dawn": ["as night turns to day", "while night turns into day", "at sunrise"],
        "night": ["at night", "in the dark of night"],
    }[s["light"]]
    light = rng.choice(light)
    if light:
        what = f"{what} {light}" if rng.random() < 0.6 else f"{light}, {what}"
    text = what
    if s["camera"]:
        pan = rng.choice(
            [
                "the camera pans {}",
                "the camera pans to the {}",
                "the camera moves {}",
                "camera pan {}",
            ]
        ).format(s["camera"])
        pan = pan.replace("to the up", "up").replace("to the down", "down")
        text = f"{what}, {pan}" if rng.random() < 0.6 else f"{what}. {pan[0].upper()}{pan[1:]}"
    if rng.random() < 0.6:
        text = text[0].upper() + text[1:]
    return text + ("." if rng.random() < 0.5 else "")


def chinese(s, rng):
    def thing(o):
        size = rng.choice(SIZES[o["size"]][2]) if rng.random() < 0.75 else ""
        colour = rng.choice(COLOURS[o["colour"]][2])
        shape = rng.choice(SHAPES[o["shape"]][2])
        if size.endswith("的"):
            return f"一个{size}{colour}{shape}"
        order = rng.random()
        if order < 0.5:
            return f"一个{colour}的{size}{shape}"
        return f"一个{size}{colour}{shape}" if order < 0.9 else f"{size}{colour}{shape}"

    b = s["back"]
    where = ""
    if b["kind"] == "land":
        where = rng.choice(LAND[b["name"]][3])
    elif rng.random() < 0.85 or b["kind"] != "plain":
        pattern = PATTERNS[b["kind"]][2]
        name = rng.choice(PLAIN[b["name"]][2])
        where = (
            (name if rng.random() < 0.7 or not pattern else "")
            + pattern
            + rng.choice(["背景上", "背景前", "的背景上"])
        )

    moves = [rng.choice(MOTIONS[o["motion"]][1]) for o in s["objects"]]
    things = [thing(o) for o in s["objects"]]
    if where and rng.random() < 0.5:
        text = f"在{where}," + ",".join(t + m for t, m in zip(things, moves))
    elif where and len(things) == 1:
        text = f"{things[0]}在{where}{moves[0]}"
    else:
        text = ",".join(t + m for t, m in zip(things, moves))
        text += (
            rng.choice([f",{where[:-1]}" if where.endswith("背景上") else f",在{where}"])
            if where
            else ""
        )
    light = rng.choice(
        {
            "day": [""],
            "dusk": ["白天变成黑夜", "天黑了", "从白天到夜晚"],
            "dawn": ["黑夜变成白天", "天亮了", "日出时"],
            "night": ["夜里", "夜晚"],
        }[s["light"]]
    )
    if light:
        text = f"{light},{text}" if rng.random() < 0.5 else f"{text},{light}"
    if s["camera"]:
        way = {"left": "左", "right": "右", "up": "上", "down": "下"}[s["camera"]]
        text += "," + rng.choice(["镜头向{}平移", "镜头向{}移动", "镜头往{}摇"]).format(way)
    if rng.random() < 0.2:
        text = "一段视频:" + text
    return text + ("。" if rng.random() < 0.4 else "")


def caption(s, rng):
    return english(s, rng) if rng.random() < 0.6 else chinese(s, rng)


def clip(seed, aspect=1.0, captions=1):
    """(params, captions) of training clip number `seed`."""
    rng = random.Random(seed)
    s = scene(rng, aspect, training_triple(rng) if rng.random() < CLEAN else None)
    return params(s), [caption(s, rng) for _ in range(captions)]


def test_scenes(count=64, seed=20260, known=False):
    """Single objects on plain backgrounds: [(scene, (caption, colour, shape, motion))]. Three of four move in
    a direction. Held-out triples; with `known` triples of the training, for choosing settings."""
    rng = random.Random(seed)
    triples = [
        (c, s, m) for c in COLOURS for s in SHAPES for m in MOTIONS if held_out(c, s, m) != known
    ]
    moving = [t for t in triples if t[2] in DIRECTIONS]
    other = [t for t in triples if t[2] in ("circle", "bounce", "grow")]
    cases = []
    for i in range(count):
        triple = rng.choice(other if i % 4 == 3 else moving)
        s = scene(rng, only=triple)
        text = english(s, rng) if i % 2 == 0 else chinese(s, rng)
        cases.append((s, (text, *triple)))
    return cases


def test_cases(count=64, known=False):
    return [case for _, case in test_scenes(count, known=known)]


# ---------------------------------------------------------------------------------- pixels


def polygon(px, py, corners, outer, inner, turn):
    """Signed distance to a regular polygon or star with one corner up, rotated by `turn`. All [B, ...]."""
    sector = 2 * math.pi / corners
    angle = torch.atan2(px, -py) + turn
    angle = (angle - torch.round(angle / sector) * sector).abs()
    dist = torch.sqrt(px * px + py * py)
    qx, qy = dist * torch.cos(angle), dist * torch.sin(angle)
    ex = inner * math.cos(sector / 2) - outer
    ey = inner * math.sin(sector / 2)
    norm = torch.sqrt(ex * ex + ey * ey)
    return ((qx - outer) * ey - qy * ex) / norm


def object_distance(shape, px, py, radius):
    """Signed distance in pixels; negative inside. shape [B, 1, 1, 1]."""
    dist = torch.sqrt(px * px + py * py)
    d = dist - radius
    ring = torch.maximum(dist - 1.05 * radius, 0.4 * 1.05 * radius - dist)
    d = torch.where(shape == 1, ring, d)
    outer = 1.25 * radius
    d = torch.where(
        shape == 2, polygon(px, py, 4, outer, outer * math.cos(math.pi / 4), math.pi / 4), d
    )
    d = torch.where(shape == 3, polygon(px, py, 3, outer, outer * 0.5, 0.0), d)
    return torch.where(shape == 4, polygon(px, py, 5, 1.04 * outer, 0.42 * 1.04 * outer, 0.0), d)


def render(p, time, height, width, top=None, left=None, full_height=None):
    """p [B, PARAMS], time [B, T] in 0..1 -> [B, 3, T, height, width] f32 in -1..1.

    top, left [B]: draw only a window of a frame of height full_height."""
    size = float(full_height or height)
    view = lambda x: x.view(-1, 1, 1, 1)
    u = time[:, :, None, None]
    y = torch.arange(height, device=p.device, dtype=torch.float32).view(1, 1, -1, 1) + 0.5
    x = torch.arange(width, device=p.device, dtype=torch.float32).view(1, 1, 1, -1) + 0.5
    if top is not None:
        y, x = y + view(top), x + view(left)
    b = [view(v) for v in p[:, :BACK_PARAMS].unbind(1)]
    kind, length, phase, angle = b[0], b[7] * size, b[8], b[9]
    wx, wy = x + b[10] * size * u, y + b[11] * size * u
    wave = 2 * math.pi / length

    gradient = (y / size).expand_as(wy + wx)
    stripes = (
        0.5
        + torch.sin((wx * torch.cos(angle) + wy * torch.sin(angle)) * wave + phase)
        / wave
        / BACK_EDGE
    ).clamp(0, 1)
    checks = (
        0.5 + torch.sin(wx * wave + phase) * torch.sin(wy * wave + phase) / wave / BACK_EDGE
    ).clamp(0, 1)
    horizon = size * (
        0.62 + 0.05 * torch.sin(wx * wave + phase) + 0.02 * torch.sin(wx * wave * 2.3 + 2 * phase)
    )
    ground = (0.5 + (wy - horizon) / BACK_EDGE).clamp(0, 1)
    zero = torch.zeros_like(gradient)
    mix = torch.where(kind == 1, gradient, zero)
    mix = torch.where(kind == 2, stripes, mix)
    mix = torch.where(kind == 3, checks, mix)
    mix = torch.where(kind == 4, ground, mix)
    night = b[12] + (b[13] - b[12]) * u
    glow = torch.where(kind == 4, (0.85 + 0.25 * (y / size)).expand_as(mix), torch.ones_like(mix))
    rgb = []
    for c in range(3):
        colour = (b[1 + c] + (b[4 + c] - b[1 + c]) * mix) * (glow * (1 - mix) + mix)
        rgb.append(colour * (1 - night * (1 - NIGHT_BACK[c])))

    for i in range(OBJECTS):
        first = BACK_PARAMS + i * OBJECT_PARAMS
        o = [view(v) for v in p[:, first : first + OBJECT_PARAMS].unbind(1)]
        turn = o[11] + 2 * math.pi * o[12] * u
        cx = o[6] + (o[8] - o[6]) * u + o[10] * torch.cos(turn)
        cy = (
            o[7]
            + (o[9] - o[7]) * u
            + o[10] * torch.sin(turn)
            - o[13] * torch.sin(math.pi * o[14] * u).abs()
        )
        radius = o[5] * (o[15] + (o[16] - o[15]) * u) * size
        rot = o[17] + (o[18] - o[17]) * u
        dx, dy = x - cx * size, y - cy * size
        px = dx * torch.cos(rot) + dy * torch.sin(rot)
        py = dy * torch.cos(rot) - dx * torch.sin(rot)
        cover = (0.5 - object_distance(o[1], px, py, radius) / EDGE).clamp(0, 1) * o[0]
        for c in range(3):
            colour = o[2 + c] * (1 - night * (1 - NIGHT_OBJECT[c]))
            rgb[c] = rgb[c] + (colour - rgb[c]) * cover
    return torch.stack(rgb, 1).clamp(0, 255) / 127.5 - 1


def clip_times(count, frames, device="cpu"):
    return torch.linspace(0, 1, frames, device=device).expand(count, frames)
