#!/usr/bin/env python3
"""Prints html_entities.c, made from the HTML5 table of Python's standard library; run by the build.

Kinds: BARE is valid without the semicolon too (old names of the HTML standard). FTFY is not an HTML
entity: ftfy also accepts lower-case names in capitals, if HTML has no entity of that name.
"""
import html
from html.entities import html5

table = {}  # name without the semicolon -> (text, kind)
for name, text in html5.items():
    if name.endswith(";"):
        bare = html5.get(name[:-1])
        assert bare in (None, text)
        table[name[:-1]] = (text, "BARE" if bare else "0")
assert len(html5) == len(table) + sum(kind == "BARE" for _, kind in table.values()) == 2231
for name, text in html5.items():
    capitals = "&" + name.upper()
    if name.endswith(";") and name == name.lower() and html.unescape(capitals) == capitals:
        table[name[:-1].upper()] = (text.upper(), "FTFY")


def literal(text):
    def one(c):
        if c in '"\\':
            return "\\" + c
        if " " <= c <= "~":
            return c
        if ord(c) < 0xA0:
            return "\\%03o" % ord(c)
        return "\\u%04X" % ord(c) if ord(c) < 0x10000 else "\\U%08X" % ord(c)
    return '"' + "".join(map(one, text)) + '"'


assert max(map(len, table)) < 32 and max(len(text) for text, _ in table.values()) <= 3
lines, line = [], "   "
for name in sorted(table):
    text, kind = table[name]
    entry = ' { "%s", %s, %s },' % (name, literal(text), kind)
    if len(line + entry) > 100:
        lines.append(line)
        line = "   "
    line += entry
lines.append(line)
print("""/* Written by model/text/make_html_entities.py. */
#include "model/text/text_internal.h"

#define BARE HTML_BARE
#define FTFY HTML_FTFY

const struct html_entity html_entities[] = {
%s
};

const int html_entity_count = (int)COUNT(html_entities);""" % "\n".join(lines))
