#!/usr/bin/env python3
"""Prints mojibake_tables.c: the character classes, rules and encodings of ftfy's repair of text that was
decoded with a wrong encoding.

    pip install ftfy==6.3.1
    python3 model/text/make_mojibake.py > model/text/mojibake_tables.c && clang-format -i model/text/mojibake_tables.c

The rules are ftfy's regular expressions; all of them are alternatives of short sequences of character
sets. A set is written as the classes that it contains, and ranges of what remains."""
import re._parser as parser
import sys

from ftfy import badness, chardata

CLASSES = {**badness.MOJIBAKE_CATEGORIES, **chardata.UTF8_CLUES}
ENCODINGS = chardata.CHARMAP_ENCODINGS
NAMES = {"CATEGORY_WORD": "MOJIBAKE_WORD", "CATEGORY_SPACE": "MOJIBAKE_SPACE"}


def members(nodes):
    """The code points of a set, and its flags."""
    found, flags = set(), []
    for op, value in nodes:
        name = str(op)
        if name == "LITERAL":
            found.add(value)
        elif name == "RANGE":
            found.update(range(value[0], value[1] + 1))
        elif name == "CATEGORY":
            flags.append(NAMES[str(value)])
        elif name == "NEGATE":
            flags.append("MOJIBAKE_NOT")
        else:
            raise ValueError(name)
    return found, flags


def item(node):
    op, value = str(node[0]), node[1]
    if op == "IN":
        return members(value)
    if op == "LITERAL":
        return {value}, []
    if op == "NOT_LITERAL":
        return {value}, ["MOJIBAKE_NOT"]
    if op == "ANY":
        return {10}, ["MOJIBAKE_NOT"]
    if op == "AT" and str(value) == "AT_BEGINNING":
        return set(), ["MOJIBAKE_BEGIN"]
    if op == "MAX_REPEAT" and value[:2] == (0, 1) and len(value[2]) == 1:
        found, flags = item(value[2][0])
        return found, flags + ["MOJIBAKE_OPTIONAL"]
    raise ValueError(op)


def alternatives(regex):
    tree = parser.parse(regex.pattern, regex.flags)
    assert len(tree) == 1 and str(tree[0][0]) == "BRANCH"
    return [[item(node) for node in branch] for branch in tree[0][1][1]]


def ranges(points):
    out = []
    for p in sorted(points):
        if out and out[-1][1] == p - 1:
            out[-1][1] = p
        else:
            out.append([p, p])
    return out


classes = {name: members(parser.parse("[" + text + "]")[0][1] if len(text) > 1 else [("LITERAL", ord(text))])[0]
           for name, text in CLASSES.items()}
first = [classes["utf8_first_of_%d" % n] for n in (2, 3, 4)]
assert not (first[0] & first[1] or first[0] & first[2] or first[1] & first[2])
extras = []


def written(found, flags):
    mask, rest = 0, set(found)
    for bit, points in enumerate(classes.values()):
        if points <= found and "MOJIBAKE_NOT" not in flags:
            mask |= 1 << bit
            rest -= points
    at, more = len(extras), ranges(rest)
    extras.extend(more)
    return "{ 0x%x, %d, %d, %s }" % (mask, at, len(more), " | ".join(flags) or "0")


def rules(name, regex):
    sequences = alternatives(regex)
    items = [i for s in sequences for i in s]
    print("static const struct mojibake_set %s_sets[] = {\n%s\n};" %
          (name, ",\n".join(written(*i) for i in items)))
    at, rows = 0, []
    for s in sequences:
        rows.append("{ %d, %d }" % (at, len(s)))
        at += len(s)
    print("static const struct mojibake_sequence %s_sequences[] = { %s };" % (name, ", ".join(rows)))
    print("const struct mojibake_rules mojibake_%s = { %s_sets, %s_sequences, COUNT(%s_sequences) };\n" %
          (name, name, name, name))


print("/* Written by model/text/make_mojibake.py from ftfy 6.3.1. */")
print('#include "model/text/mojibake.h"\n')
points = sorted(set().union(*classes.values()))
runs = []
for p in points:
    mask = sum(1 << bit for bit, s in enumerate(classes.values()) if p in s)
    if runs and runs[-1][1] == p - 1 and runs[-1][2] == mask:
        runs[-1][1] = p
    else:
        runs.append([p, p, mask])
print("/* Code points and the classes that they are in. */\nconst struct mojibake_range mojibake_classes[] = {")
print(",\n".join("{ 0x%x, 0x%x, 0x%x }" % tuple(r) for r in runs), "};")
print("const int mojibake_class_count = (int)COUNT(mojibake_classes);\n")
for name, regex in (("bad", badness.BADNESS_RE), ("altered", chardata.ALTERED_UTF8_RE),
                    ("lossy", chardata.LOSSY_UTF8_RE)):
    rules(name, regex)
print("const struct mojibake_range mojibake_extras[] = {",
      ", ".join("{ 0x%x, 0x%x, 0 }" % tuple(r) for r in extras), "};\n")
print("/* What the bytes 0x80 to 0xff stand for; 0xfffd: byte 0x1a is written for U+FFFD. */")
print("const struct mojibake_encoding mojibake_encodings[] = {")
for name in ENCODINGS:
    high = bytes(range(128, 256)).decode(name)
    sloppy = name.startswith("sloppy")
    assert (b"\x1a".decode(name) == "\ufffd") == sloppy and len(set(high)) == 128
    print('{ "%s", %s, { %s } },' % (name, str(sloppy).lower(), ", ".join("0x%x" % ord(c) for c in high)))
print("};")
print("const int mojibake_encoding_count = (int)COUNT(mojibake_encodings);")
order = list(classes)
for n in (2, 3, 4):
    print("_Static_assert(MOJIBAKE_FIRST_OF_%d == 1u << %d, \"\");" % (n, order.index("utf8_first_of_%d" % n)))
print("_Static_assert(MOJIBAKE_CONTINUATION == 1u << %d, \"\");" % order.index("utf8_continuation"))
print("_Static_assert(MOJIBAKE_STRICT == 1u << %d, \"\");" % order.index("utf8_continuation_strict"))
print(order, file=sys.stderr)
