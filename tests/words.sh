#!/bin/sh
# Figurative words for which the field has standard terms do not appear in sources, scripts and texts.
#     words.sh [ROOT]
here=$(cd "$(dirname "$0")/.." && pwd)
words='\<behind\>|\<seams?\>|\<bring(s|ing)?\>|\<brought\>|\<on (its|their|the) way\>|\<not to be had\>|\<with one look\>'
# Texts, one a line: a line that holds one of them is not reported, for prompts and quotations.
allowed='into over under behind through'

check() { # ROOT: the lines with such a word; each as FILE:LINE:TEXT
    cd "$1" || exit 1
    find . -name '.?*' -prune -o -type d -exec test -d {}/meson-private \; -prune \
        -o -type f \( -name README -o -name '*.md' -o -name '*.c' -o -name '*.h' -o -name '*.cc' -o -name '*.cu' \
        -o -name '*.cuh' -o -name '*.sh' -o -name meson.build -o -name meson_options.txt \) \
        ! -path ./tests/words.sh -exec grep -anHiE "$words" {} + | sed 's|^\./||' | {
        if [ -n "$allowed" ]; then grep -vF "$allowed"; else cat; fi
    }
}

if [ $# = 1 ]; then
    wrong=$(check "$1")
    [ -z "$wrong" ] || echo "$wrong"
    [ -z "$wrong" ]
    exit
fi

# It must find each of them in a tree made for it, and nothing else.
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/model/vae" "$tree/build/meson-private"
printf '// the frame behind it\n// next\n/* Seam rows */\n' >"$tree/model/vae/a.c"
printf '# what brings weights\n# brought, bring\n# bringing\n' >"$tree/model/meson.build"
printf 'It is on its way.\nMemory is not\nto be had, with one look.\nNot to be had.\n' >"$tree/README.md"
printf 'behind\n' | tee "$tree/build/b.c" >"$tree/model/data.txt"
printf '// beamsearch, seamless, upbringing\n' >"$tree/model/vae/b.cuh"
found=$(check "$tree" | wc -l)
if [ "$found" != 8 ]; then
    echo "words: the check itself is broken: it found $found lines of 8"
    check "$tree"
    exit 1
fi

wrong=$(check "$here")
[ -z "$wrong" ] || echo "$wrong"
echo "words: $(printf '%s' "$wrong" | grep -c .) lines with figurative words"
[ -z "$wrong" ]
